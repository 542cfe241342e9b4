"""Early stopping on validation pairs, and the choice of the best iteration."""

import json
from dataclasses import replace

import pytest
import torch
from test_ipf import make

from csb.bridge.checkpoint import load
from csb.bridge.objectives import OBJECTIVES
from csb.problems import LinearGaussian
from csb.process import seeded
from csb.training.half_step import HalfStepModule, Validation
from csb.training.pairs import EncodedPairs
from csb.training.settings import TrainingSettings
from csb.training.state import EACH, SCALED, SCORE, best_iteration
from csb.training.trainer import BridgeTrainer
from tests.commands import Hook

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")
SHORT = {"first_steps": 20, "steps": 12, "batch_size": 64, "refresh": 5, "trajectories": 64, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def small():
    return LinearGaussian(dx=1, dy=1, n_train=200)


def with_validation(run: BridgeTrainer, problem, patience: int) -> BridgeTrainer:
    val = problem.pairs("val", 100)
    run.val = EncodedPairs.of(val.x, val.y) if patience else None
    run.settings = TrainingSettings(**{**vars(run.settings), "patience": patience, "validate_every": 2})
    return run


class TestEarlyStopping:
    def losses(self, monkeypatch, values):
        """Scripted validation losses, of each batch; returns the averaged weights at each evaluation."""
        script, seen = iter(values), []

        def losses(self):
            seen.append(self.module.average.module.network.weight.clone())
            found = next(script)
            return found if isinstance(found, list) else [found, found]

        monkeypatch.setattr(Validation, "losses", losses)
        return seen

    def test_stops_and_ends_with_the_best_weights(self, tmp_path, small, monkeypatch):
        seen = self.losses(monkeypatch, [3, 1, 2, 2, 2, 1])  # backward 1: stops at step 8, best at step 4; end, best
        progress = with_validation(make(tmp_path, small, L=1, last_forward=False, **SHORT), small, 2).run(resume=False)
        row = progress.history[0]
        assert (row["steps"], row["best_step"], row["kept_step"], row["val_loss"]) == (8, 4, 4, 1)
        weight = load(tmp_path / "bridge.safetensors").backward_kernel.network.weight
        assert torch.equal(weight, seen[1])

    @pytest.mark.parametrize(("end", "best", "kept"), [([1, 1.2], [1, 1], 8), ([1.2, 1.3], [1, 1], 4)])
    def test_the_end_stands_where_it_is_as_good(self, tmp_path, small, monkeypatch, end, best, kept):
        """Differences of 0 and .2: a mean of .1 with a standard error of .1. Of .2 and .3: .25, and .05."""
        seen = self.losses(monkeypatch, [3, 1, 2, 2, end, best])
        progress = with_validation(make(tmp_path, small, L=1, last_forward=False, **SHORT), small, 2).run(resume=False)
        assert progress.history[0]["kept_step"] == kept
        weight = load(tmp_path / "bridge.safetensors").backward_kernel.network.weight
        assert torch.equal(weight, seen[3 if kept == 8 else 1])

    def test_every_half_step_starts_afresh(self, tmp_path, small, monkeypatch):
        self.losses(monkeypatch, [*range(10, 0, -1), 9, 8, 7, 6, 5, 4])
        progress = with_validation(make(tmp_path, small, L=1, **SHORT), small, 3).run(resume=False)
        assert [row["steps"] for row in progress.history] == [20, 12]
        assert [row["best_step"] for row in progress.history] == [20, 12]

    def test_no_patience_no_validation(self, tmp_path, small, monkeypatch):
        seen = self.losses(monkeypatch, [])
        progress = with_validation(make(tmp_path, small, L=1, **SHORT), small, 0).run(resume=False)
        assert seen == []
        assert "val_loss" not in progress.history[0]


@pytest.mark.parametrize("objective", ["likelihood", "bridge_matching"])
def test_the_loss_is_that_of_training(small, tmp_path, monkeypatch, objective):
    """At the exact fixed point of the first half-step no weights have a lower validation loss."""
    monkeypatch.setattr("csb.training.half_step._STATES", 4096)
    short = {**SHORT, "first_steps": 200, "refresh": 200}
    run = with_validation(make(tmp_path, small, objective=objective, L=1, **short), small, 1)
    run.settings = TrainingSettings(**{**vars(run.settings), "patience": 1000, "validate_every": 100})
    half_step = run.plan[0]
    module = HalfStepModule(run.bridge, half_step, OBJECTIVES[objective](), run.setup.optimizer)
    draw = replace(run.draw, states_per_pair=1, draw_targets=not module.kernel.integrates_targets)
    validation = Validation(module, draw, run.val, None)
    losses = validation.losses()
    assert validation.losses() == losses
    before = sum(losses) / len(losses)
    progress = run.run(resume=False)
    assert progress.history[0]["val_loss"] < before - 0.02


class TestSelection:
    def run(self, folder, problem, scores, select="best", **settings):
        script = iter(scores)
        run = make(folder, problem, **{**SHORT, "L": 3, "select": select, **settings})
        run.calibrate = lambda bridge: {SCORE: next(script)}
        run.run(resume=False)
        return run

    def same(self, folder, name):
        one, two = (
            load(folder / file).state_dict() for file in ("bridge.safetensors", f"half_steps/{name}.safetensors")
        )
        return all(torch.equal(one[key], two[key]) for key in one)

    @pytest.mark.parametrize(
        ("scores", "select", "name"),
        [
            ((3, 1, 2), "best", "04_forward"),
            ((1, 2, 3), "best", "02_forward"),
            ((1, 2, 3), "last", "06_forward"),
        ],
    )
    def test_the_best_iteration_goes_into_the_bridge(self, tmp_path, small, scores, select, name):
        run = self.run(tmp_path, small, scores, select)
        assert self.same(tmp_path, name)
        assert not self.same(tmp_path, "03_backward")
        stored = load(tmp_path / "bridge.safetensors").state_dict()
        assert all(torch.equal(value, stored[key]) for key, value in run.bridge.state_dict().items())

    @pytest.mark.parametrize(("gain", "chosen"), [(0.003, 1), (0.02, 3)])
    def test_an_iteration_must_gain_more_than_its_error(self, gain, chosen):
        """Iterations differ by noise of standard deviation .1 a pair: an error of .0045 of a mean over 1,000."""
        pairs = torch.randn(1000, generator=seeded(0))
        rows = []
        for iteration in (1, 2, 3):
            noise = torch.randn(1000, generator=seeded(iteration))
            each = pairs + 0.1 * (noise - noise.mean()) - (gain if iteration == 3 else 0)
            rows.append({"iteration": iteration, SCORE: float(each.mean()), EACH: each.tolist()})
        assert best_iteration(rows) == chosen

    def test_without_the_last_forward_half_step(self, tmp_path, small):
        self.run(tmp_path, small, (3, 2, 1), last_forward=False)
        assert self.same(tmp_path, "05_backward")


RECIPE = [
    "schedule=auto", "schedule.alpha_bar_end=0.1", "objective=bridge_matching", "objective.covariance=mixture",
    "objective.components=3",
    "training.validate_every=2", "training.patience=2",
]  # fmt: skip


def test_a_killed_run_that_stops_early_ends_as_the_whole_one(command, tiny, tmp_path):
    """The recipe's grid from the data, end points, mixtures and early stopping, killed twice."""
    arguments = [*tiny, *RECIPE, f"out={tmp_path}"]
    assert command(*arguments, "name=whole").code == 0
    step = "csb.training.half_step.HalfStepModule.training_step"
    assert command(*arguments, "name=run", hooks=[Hook(step, 8)]).code == -9
    assert command(*arguments, "name=run", "resume=true", hooks=[Hook(step, 9)]).code == -9
    done = command(*arguments, "name=run", "resume=true")
    assert done.code == 0, done.err
    for file in ("bridge.safetensors", "half_steps/03_backward.safetensors"):
        one, two = (load(tmp_path / name / file) for name in ("whole", "run"))
        assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
        assert torch.equal(one.grid.alpha_bar, two.grid.alpha_bar)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["schedule"]["name"] == "power"
    assert config["schedule"]["alpha_bar_end"] == 0.1


def test_scores_of_an_older_version_in_other_units_take_no_part_in_the_choice():
    old = [{"iteration": 1, SCORE: 1e-3, EACH: [1e-3, 1e-3]}]
    new = [{"iteration": i, SCORE: v, EACH: [v, v], SCALED: 1} for i, v in ((2, 0.5), (3, 0.4))]
    assert best_iteration(old + new) == 3
    assert best_iteration(old) == 1
