"""Divergence: where it begins, weights that stay as they were, going back with a lower rate; and signals."""

import math
import signal
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from csb.bridge import KernelSpec, load
from csb.bridge.objectives import Likelihood, Target
from csb.cli.ends import terminable
from csb.errors import Terminated
from csb.networks.diffusion import ConditionalSpec, build_conditional
from csb.process import seeded
from csb.training.fit import BLOCK, LAST, Fit, FitModule, LossWatch, NetworkModule
from csb.training.half_step import Batch, HalfStepModule
from csb.training.pairs import EncodedPairs
from csb.training.regression import train_by_regression
from csb.training.settings import ConditionalSettings, DeviceSettings, HalfStep, OptimizerSettings
from csb.training.stage import Setup
from csb.training.state import Diverged, to_cpu
from tests.conftest import one_line
from tests.training.runs import MLP, At, Stop, assert_same, make, progress_of, stop

CPU = DeviceSettings("cpu")


def verdicts(losses):
    """The steps after which the losses count as exploded, and those after which no state is kept."""
    seen, exploded, suspicious = [], [], []
    watch = LossWatch(seen)
    for step, loss in enumerate(losses, 1):
        seen.append(loss)
        if step % BLOCK == 0 and watch.exploded(BLOCK):
            exploded.append(step)
        if watch.exploded(LAST):
            suspicious.append(step)
        resumed = LossWatch(list(seen))
        assert (resumed.exploded(LAST), resumed.lowest) == (watch.exploded(LAST), watch.lowest)
    return exploded, suspicious


@pytest.mark.parametrize(
    "losses",
    [
        [1e6 * 0.9**n - 3 for n in range(400)],
        [1e6 if n % 3 == 1 else -3.0 for n in range(200)],
        [-3.0] * 100 + [900.0] * 100,
        [-3.0] * 60 + [2900.0] * 60,
    ],
    ids=["falling from a million", "a third of all steps far too high", "higher", "within 1000 times the lowest"],
)
def test_healthy_losses_pass(losses):
    assert verdicts(losses) == ([], [])


def test_an_exploded_loss_is_told_at_the_end_of_a_block_and_in_the_first_by_the_first_loss():
    exploded, suspicious = verdicts([-3.0] * 60 + [3500.0] * 60)
    assert (exploded[0], suspicious[0]) == (2 * BLOCK, 60 + 3)  # three of the last five
    assert verdicts([1.0] + [2000.0] * 49) == ([BLOCK], list(range(5, BLOCK + 1)))


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


class TestWhereItBegins:
    @pytest.fixture
    def case(self, tmp_path):
        """A half-step, and a batch for its step 7."""
        module = HalfStepModule(
            make(tmp_path).bridge, HalfStep(0, 1, "backward", 10), Likelihood(), OptimizerSettings()
        )
        x, target, c = torch.randn(3, 8, 2, generator=seeded(1))
        return module, Batch(x, torch.arange(8) % 4 + 1, c, Target(target), 7)

    def refused(self, module, batch):
        """The message, after a check that the step left the weights and their average alone."""
        before = to_cpu([module.model.state_dict(), module.average.state_dict()])
        message = one_line(lambda: Fit(module, CPU, 1.0).run([batch], lambda step, loss, rate: None, lambda: None))
        for held, kept in zip((module.model, module.average), before):
            for key, value in held.state_dict().items():
                assert torch.equal(kept[key].nan_to_num(7), value.nan_to_num(7)), key
        return message

    def test_what_the_network_makes_of_its_input(self, case):
        case[0].kernel.network.entry.weight.data.fill_(1e5)
        case[1].x[3] = 1e36
        message = self.refused(*case)
        assert message.startswith(
            "the loss became nan in half-step 01_backward at step 7, first in what the network makes of finite weights "
            "and data; "
        )
        assert "resume=true optimizer.retries=1" in message

    def test_weights(self, case):
        case[0].kernel.network.entry.weight.data[2, 1] = math.nan
        assert "first in the weights network.entry.weight, row 2 of 8; " in self.refused(*case)

    def test_data(self, case):
        case[1].x[5] = math.nan
        assert "already the data of its batch are not finite, first in batch.x, row 5 of 8" in self.refused(*case)

    def test_a_gradient_that_is_not_finite_under_a_loss_that_is(self):
        """√u has no derivative at u = 0, which the second row has: the gradient is infinite before the root."""
        model = nn.Sequential(nn.Linear(1, 1), Root())
        model[0].weight.data.fill_(1.0)
        model[0].bias.data.fill_(0.0)
        module = RootModule(model, "the roots", 10, 1e-3, OptimizerSettings())
        assert self.refused(module, Points(torch.tensor([[4.0], [0.0]]), 3)).startswith(
            "the gradient is not finite in the roots at step 3, first in the gradient of 0.weight, row 0 of 1; "
        )


def test_a_rate_that_is_far_too_high_stops_the_training(tmp_path):
    high = {"lr": 10.0, "later_lr": 10.0, "warmup": 0.0}
    run = make(tmp_path, KernelSpec(MLP.network, "v", "fixed"), "mean_matching", optimizer=high, first_steps=60)
    with pytest.raises(Diverged, match=r"^the loss exploded in half-step 01_backward at step \d+: the median of the"):
        run.run(resume=False)
    assert not (tmp_path / "half_steps").exists()
    if (tmp_path / "state.safetensors").exists():
        assert LossWatch(progress_of(tmp_path).losses).exploded(LAST) is None


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
        folder = tmp_path_factory.mktemp("whole") / "run"
        run = make(folder, optimizer={"retries": 2}, log=lambda metrics, step: logged.append((step, metrics)))
        run.run(resume=False)
        run.logged = [(step, metrics["retries"]) for step, metrics in logged if "retries" in metrics]
        return run

    def test_it_goes_back_to_the_last_state_with_a_lower_rate(self, whole):
        assert [row.get("retries") for row in whole.progress.history] == [None, 2, None, None]
        assert [record["from"] for record in whole.progress.retries] == [[1, 5], [1, 5]]
        assert [record["failed_after"] for record in whole.progress.retries] == [7, 7]
        assert [record["rate_factor"] for record in whole.progress.retries] == pytest.approx([0.3, 0.09])
        assert whole.logged == [(10 + 7, 1), (10 + 7, 2)]

    @pytest.mark.parametrize("after", [1, 2])
    def test_a_training_that_is_stopped_after_a_retry_ends_as_one_that_is_not(self, whole, tmp_path, after):
        def stop_at(metrics, step):
            if metrics.get("retries") == after:
                stop()

        with pytest.raises(Stop):
            make(tmp_path / "run", optimizer={"retries": 2}, log=stop_at).run(resume=False)
        make(tmp_path / "run", optimizer={"retries": 2}).run(resume=True)
        assert_same(tmp_path / "run", whole.setup.folder)

    def test_so_many_times_and_no_more(self, whole, tmp_path):
        """With one retry it ends in one line; a resumed training may have more."""
        with pytest.raises(Diverged, match=r"^the gradient is not finite in half-step 02_forward at step 7, first in"):
            make(tmp_path / "run", optimizer={"retries": 1}).run(resume=False)
        state = progress_of(tmp_path / "run", **{"optimizer.retries": 2})
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
    pairs = EncodedPairs.of(*torch.randn(2, 64, 2, generator=seeded(1)))
    settings = ConditionalSettings(steps=6, batch_size=16, alpha_bar_end=1e-4, lr=1e-2, checkpoint_every=3)

    def train(folder, retries):
        transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
        model = build_conditional(ConditionalSpec("flow", MLP.network, transform, None), 1)
        setup = Setup(folder, OptimizerSettings(retries=retries), CPU, 7, bar=False)
        train_by_regression(model, pairs, None, settings, setup)

    with pytest.raises(Diverged, match="in the flow at step 2"):
        train(tmp_path / "stopped", 0)
    train(tmp_path / "run", 3)
    about = load(tmp_path / "run" / "flow.safetensors").about
    assert (about["retries"], about["steps"]) == (1, 6)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["flow.safetensors"]


def test_sigterm_saves_the_running_step(tmp_path):
    run = make(tmp_path, checkpoint_every=1000, observer=At(1, 8, lambda: signal.raise_signal(signal.SIGTERM)))
    with terminable(), pytest.raises(Terminated):
        run.run(resume=False)
    progress = progress_of(tmp_path)
    assert (progress.half_step, progress.step, len(progress.losses)) == (1, 8, 8)
