"""Divergence: the layer and rows where it begins, weights that stay as they were, going back with a lower rate."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from csb.bridge.checkpoint import load
from csb.bridge.objectives import Likelihood, Target
from csb.cli.ends import terminable
from csb.errors import CSBError, Terminated
from csb.networks.diffusion import ConditionalSpec, build_conditional
from csb.process import seeded
from csb.training.fit import BLOCK, LAST, Fit, FitModule, LossWatch, NetworkModule
from csb.training.half_step import Batch, HalfStepModule
from csb.training.pairs import EncodedPairs
from csb.training.regression import train_by_regression
from csb.training.settings import ConditionalSettings, DeviceSettings, HalfStep, OptimizerSettings
from csb.training.stage import Setup
from csb.training.state import Diverged, Progress, load_progress, save_progress, to_cpu
from tests.training.fault_runs import FINGERPRINT, At, Fault, Stop, assert_same, make

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")


def verdicts(losses):
    """The steps after which the losses count as exploded, and those after which no state is kept."""
    seen, stop, suspicious = [], [], []
    watch = LossWatch(seen)
    for step, loss in enumerate(losses, 1):
        seen.append(loss)
        if step % BLOCK == 0 and watch.exploded(BLOCK):
            stop.append(step)
        if watch.exploded(LAST):
            suspicious.append(step)
        resumed = LossWatch(list(seen))
        assert (resumed.exploded(LAST), resumed.lowest) == (watch.exploded(LAST), watch.lowest)
    return stop, suspicious


class TestLossWatch:
    def test_healthy_losses_pass(self):
        """Falling from a million, and with a third of all steps a million times too high."""
        falling = [1e6 * 0.9**n - 3 for n in range(400)]
        assert verdicts(falling) == ([], [])
        assert verdicts([1e6 if n % 3 == 1 else -3.0 for n in range(200)]) == ([], [])
        assert verdicts([-3.0] * 100 + [900.0] * 100) == ([], [])

    def test_an_exploded_loss_is_told_at_the_end_of_a_block(self):
        stop, suspicious = verdicts([-3.0] * 60 + [3500.0] * 60)
        assert stop[0] == 2 * BLOCK
        assert suspicious[0] == 60 + 3  # three of the last five
        assert verdicts([-3.0] * 60 + [2900.0] * 60) == ([], [])  # within 1000 times the lowest

    def test_in_the_first_block_it_is_the_first_loss_that_counts(self):
        assert verdicts([1.0] + [2000.0] * 49) == ([BLOCK], list(range(5, BLOCK + 1)))


BACKWARD = HalfStep(0, 1, "backward", 10)


def half_step_module(tmp_path):
    module = HalfStepModule(make(tmp_path).bridge, BACKWARD, Likelihood(), OptimizerSettings())
    generator = seeded(1)
    x, target = (torch.randn(8, 2, generator=generator) for _ in range(2))
    k = torch.tensor([1, 2, 3, 1, 2, 3, 1, 2])
    return module, Batch(x, k, torch.randn(8, 2, generator=generator), Target(target), 7)


def refused(module, batch):
    """The message, after a check that the step left the weights and their average alone."""
    before = to_cpu([module.model.state_dict(), module.average.state_dict()])
    with pytest.raises(Diverged) as error:
        Fit(module, DeviceSettings("cpu"), 1.0).run([batch], lambda step, loss, rate: None, lambda: None)
    for held, kept in zip((module.model, module.average), before):
        for key, value in held.state_dict().items():
            assert torch.equal(kept[key].nan_to_num(7), value.nan_to_num(7)), key
    assert "\n" not in str(error.value)
    assert "resume=true optimizer.retries=1" in str(error.value)
    return str(error.value)


class TestWhereItBegins:
    def test_a_layer(self, tmp_path):
        module, batch = half_step_module(tmp_path)
        with torch.no_grad():
            module.kernel.network.entry.weight.fill_(1e5)
        batch.x[3] = 1e36
        assert refused(module, batch).startswith(
            "the loss became nan in half-step 01_backward at step 7, first in what the network makes of finite weights "
            "and data; "
        )

    def test_weights(self, tmp_path):
        module, batch = half_step_module(tmp_path)
        with torch.no_grad():
            module.kernel.network.entry.weight[2, 1] = math.nan
        assert "first in the weights network.entry.weight, row 2 of 8; " in refused(module, batch)

    def test_the_data(self, tmp_path):
        module, batch = half_step_module(tmp_path)
        batch.x[5] = math.nan
        with pytest.raises(
            CSBError, match=r"already the data of its batch are not finite, first in batch.x, row 5 of 8"
        ):
            Fit(module, DeviceSettings("cpu"), 1.0).run([batch], lambda step, loss, rate: None, lambda: None)


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Points(NamedTuple):
    z: Tensor
    step: int


class RootModule(FitModule):
    def training_step(self, batch: Points) -> Tensor:
        loss = (self.model(batch.z) - 1).square().mean()
        self.last_loss = loss.detach()
        return loss


def test_a_gradient_that_is_not_finite_under_a_loss_that_is():
    """√u has no derivative at u = 0, which the second row has: the gradient is infinite before the root."""
    model = nn.Sequential(nn.Linear(1, 1), Root())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(0.0)
    message = refused(
        RootModule(model, "the roots", 10, 1e-3, OptimizerSettings()), Points(torch.tensor([[4.0], [0.0]]), 3)
    )
    assert message.startswith(
        "the gradient is not finite in the roots at step 3, first in the gradient of 0.weight, row 0 of 1; "
    )


def test_a_state_that_is_not_finite_is_never_written(tmp_path):
    path = tmp_path / "state.safetensors"
    save_progress(path, Progress(weights={"a": torch.ones(2)}), {})
    before = path.read_bytes()
    for name in ("weights", "average", "optimizer"):
        bad = Progress(weights={"a": torch.ones(2)})
        setattr(bad, name, {"b": [torch.tensor([1.0, math.inf])]})
        with pytest.raises(Diverged, match=f"first in {name}.b.0, row 1 of 2; the last good state is kept"):
            save_progress(path, bad, {})
    assert path.read_bytes() == before


def test_a_rate_that_is_far_too_high_stops_the_training(tmp_path):
    high = {"lr": 10.0, "later_lr": 10.0, "warmup": 0.0}
    run = make(tmp_path, "mean_matching", "fixed", high, first_steps=60)
    with pytest.raises(Diverged, match=r"^the loss exploded in half-step 01_backward at step \d+: the median of the"):
        run.run(resume=False)
    assert not (tmp_path / "half_steps").exists()
    if (path := tmp_path / "state.safetensors").exists():
        assert LossWatch(load_progress(path, FINGERPRINT).losses).exploded(LAST) is None


class TestRetries:
    """The second half-step fails at step 7 while the rate is above a fifth of what was asked for."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _fragile(cls):
        original = HalfStepModule.losses

        def losses(module, kernel, batch):
            loss, plain = original(module, kernel, batch)
            fails = module.half_step.index == 1 and batch.step == 7 and module.rate_factor > 0.2
            return (loss * math.inf if fails and kernel is module.kernel else loss), plain

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HalfStepModule, "losses", losses)
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, tmp_path_factory):
        logged = []

        def log(metrics, step):
            if "retries" in metrics:
                logged.append((step, metrics["retries"]))

        run = make(tmp_path_factory.mktemp("whole") / "run", optimizer={"retries": 2}, log=log)
        run.logged = logged
        run.run(resume=False)
        return run

    def test_it_goes_back_to_the_last_state_with_a_lower_rate(self, whole):
        assert [row.get("retries") for row in whole.progress.history] == [None, 2, None, None]
        assert [record["from"] for record in whole.progress.retries] == [[1, 5], [1, 5]]
        assert [record["failed_after"] for record in whole.progress.retries] == [7, 7]
        assert [record["rate_factor"] for record in whole.progress.retries] == pytest.approx([0.3, 0.09])
        assert whole.logged == [(10 + 7, 1), (10 + 7, 2)]

    @pytest.mark.parametrize("after", [1, 2])
    def test_a_training_that_is_stopped_after_a_retry_ends_as_one_that_is_not(self, whole, tmp_path, after):
        def stop(metrics, step):
            if metrics.get("retries") == after:
                raise Stop

        run = make(tmp_path / "run", optimizer={"retries": 2}, log=stop)
        with pytest.raises(Stop):
            run.run(resume=False)
        make(tmp_path / "run", optimizer={"retries": 2}).run(resume=True)
        assert_same(tmp_path / "run", whole.setup.folder)

    def test_so_many_times_and_no_more(self, whole, tmp_path):
        """With one retry it ends in one line; a resumed training may have more."""
        with pytest.raises(Diverged, match=r"^the gradient is not finite in half-step 02_forward at step 7, first in"):
            make(tmp_path / "run", optimizer={"retries": 1}).run(resume=False)
        state = load_progress(tmp_path / "run" / "state.safetensors", FINGERPRINT | {"optimizer.retries": 2})
        assert (state.half_step, state.step, len(state.retries)) == (1, 5, 1)
        make(tmp_path / "run", optimizer={"retries": 2}).run(resume=True)
        assert_same(tmp_path / "run", whole.setup.folder)


def test_other_trainings_go_back_as_well(tmp_path, monkeypatch):
    """A flow that fails at step 2, before its first state: it starts again, and says so in its file."""
    original = NetworkModule.training_step

    def training_step(module, batch):
        loss = original(module, batch)
        return loss * math.inf if batch.step == 2 and module.rate_factor > 0.5 else loss

    monkeypatch.setattr(NetworkModule, "training_step", training_step)
    transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
    pairs = EncodedPairs.of(*(torch.randn(64, 2, generator=seeded(i)) for i in (1, 2)))
    settings = ConditionalSettings(steps=6, batch_size=16, alpha_bar_end=1e-4, lr=1e-2, checkpoint_every=3)

    def train(folder, retries):
        network = {"name": "mlp", "width": 8, "depth": 1}
        model = build_conditional(ConditionalSpec("flow", network, transform, None), 1)
        setup = Setup(folder, OptimizerSettings(retries=retries), DeviceSettings("cpu"), 7, bar=False)
        train_by_regression(model, pairs, None, settings, setup)

    with pytest.raises(Diverged, match="in the flow at step 2"):
        train(tmp_path / "stopped", 0)
    train(tmp_path / "run", 3)
    about = load(tmp_path / "run" / "flow.safetensors").about
    assert (about["retries"], about["steps"]) == (1, 6)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["flow.safetensors"]


def test_sigterm_saves_the_running_step(tmp_path):
    run = make(tmp_path, checkpoint_every=1000)
    run.observer = At(1, 8, Fault("SIGTERM", 0).fault)
    with terminable(), pytest.raises(Terminated):
        run.run(resume=False)
    progress = load_progress(run.setup.folder / "state.safetensors", FINGERPRINT)
    assert (progress.half_step, progress.step, len(progress.losses)) == (1, 8, 8)
