"""States on disk and back, those of older versions too; weights that pass from one model to another."""

import math

import pytest
import torch
from torch import nn

from csb.files import write_tensors
from csb.problems import Reflect
from csb.process import seeded
from csb.training.state import EACH, SCALED, SCORE, Progress, best_iteration, load_progress, save_progress, take_weights
from tests.conftest import one_line

FINGERPRINT = {"seed": 0, "network.multipliers": (1, 2), "optimizer.retries": 0}


def progress():
    """Of everything that a state may hold: tensors of all kinds, long and short lists, numbers that JSON lacks."""
    weights = {"a.b": torch.randn(3, 2, generator=seeded(0)), "a.scalar": torch.tensor(0.1), "n": torch.tensor(7)}
    of = {"step": torch.tensor(3.0), "exp_avg": torch.randn(3, 2, generator=seeded(1))}
    return Progress(
        half_step=2, step=3, weights=weights, average=weights, optimizer={0: of, 2: of},
        losses=[0.1 * i for i in range(1000)], seconds=1.5, best={"loss": 1 / 3, "step": 2, "weights": weights},
        history=[{"half_step": "01_backward", "score": math.nan, "each": [1e-300] * 100, "kept": None, "at": [1, 2]}],
        validated=[[2, 0.1]], retries=[{"from": [0, 0]}],
    )  # fmt: skip


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    return type(one) is type(two) and (one == two or one != one)


def test_there_and_back_bit_for_bit(tmp_path):
    save_progress(tmp_path / "state.safetensors", progress(), FINGERPRINT)
    assert same(vars(load_progress(tmp_path / "state.safetensors", FINGERPRINT)), vars(progress()))


def test_an_archive_of_an_older_version(tmp_path):
    """Of torch, with all of the optimiser's state_dict."""
    data = vars(progress())
    data["optimizer"] = {"state": data["optimizer"], "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}
    torch.save({"format": 1, "fingerprint": FINGERPRINT, **data}, tmp_path / "state.pt")
    assert same(vars(load_progress(tmp_path / "state.pt", FINGERPRINT)), vars(progress()))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"kind": "bridge"}, "lacks 'state' beside format, kind; restore it, or train again"),
        ({"state": {"weights": {"a": {"$tensor": "b"}}}}, "is damaged or not a csb file"),
        ({"state": {"weights": [{"$numbers": []}]}}, "is damaged or not a csb file"),
        ({"state": [1]}, "is damaged or not a csb file"),
        ({"state": {"weights": {}}, "format": 99}, "is not a csb file of format 1"),
        ({"state": {"weights": {}}}, "is no state of a training"),
        ({"state": {"weights": {}, "fingerprint": {}, "invention": 1}}, "is no state of a training"),
        ({"state": {"weights": {}, "fingerprint": {}, "optimizer": [1]}}, "is no state of a training"),
    ],
)
def test_a_file_of_something_else(tmp_path, header, message):
    write_tensors(tmp_path / "state", {"a": torch.ones(1)}, {"format": 1, **header})
    assert f"state {message}" in one_line(lambda: load_progress(tmp_path / "state", {}))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"seed": 1}, "was trained with seed=0, not 1; resume with the same settings or choose another name"),
        ({"network.multipliers": (1, 3)}, "was trained with network.multipliers=[1, 2], not [1, 3]"),
        ({"problem.digest": "b", "problem.path": "p.npz"}, "was trained on other pairs than p.npz of now; restore"),
        ({"optimizer.retries": 3, "problem.path": "elsewhere"}, None),
    ],
)
def test_other_settings(tmp_path, now, message):
    stored = FINGERPRINT | {"problem.digest": "a", "problem.path": "here"}
    save_progress(tmp_path / "state", Progress(weights={"a": torch.ones(1)}), stored)
    if message is None:
        load_progress(tmp_path / "state", stored | now)
    else:
        assert message in one_line(lambda: load_progress(tmp_path / "state", stored | now))


def test_a_state_that_is_not_finite_is_neither_written_nor_read(tmp_path):
    path = tmp_path / "state.safetensors"
    save_progress(path, Progress(weights={"a": torch.ones(2)}), {})
    before = path.read_bytes()
    for name in ("weights", "average", "optimizer", "best"):
        bad = Progress(weights={"a": torch.ones(2)})
        setattr(bad, name, {"b": [torch.tensor([1.0, math.inf])]})
        message = one_line(lambda bad=bad: save_progress(path, bad, {}))
        assert f"first in {name}.b.0, row 1 of 2; the last good state is kept" in message
    assert path.read_bytes() == before
    old = tmp_path / "state.pt"
    torch.save({"format": 1, "fingerprint": {}, "weights": {"a": torch.tensor([[0.0], [math.nan]])}}, old)
    message = one_line(lambda: load_progress(old, {}))
    assert "holds numbers that are not finite, first in weights.a, row 1 of 2" in message


class TestTakeWeights:
    @pytest.fixture
    def two(self):
        models = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2)]
        for number, model in enumerate(models):
            for tensor in model.state_dict().values():
                tensor.copy_(torch.rand(tensor.shape, generator=seeded(number)) * 10)
        return models

    def test_parameters_and_buffers_are_copied_in_place(self, two):
        model, other = two
        before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        take_weights(model, other.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])
            assert tensor.data_ptr() == before[name]

    @pytest.mark.parametrize("change", [{"0.bias": torch.zeros(3)}, {"more": torch.zeros(1)}])
    def test_what_does_not_fit(self, two, change):
        with pytest.raises(RuntimeError, match=next(iter(change))):
            take_weights(two[0], {**two[1].state_dict(), **change})

    def test_what_strikes_a_copy_is_raised_as_it_is(self, two, monkeypatch):
        def out_of_memory(*args, **kwargs):
            raise MemoryError

        monkeypatch.setattr(torch.Tensor, "copy_", out_of_memory)
        with pytest.raises(MemoryError):
            take_weights(two[0], two[1].state_dict())

    def test_weights_of_an_older_version(self):
        transform = Reflect((2,), (2,), [0.0, 0.0], [1.0, 1.0])
        weights = {name: tensor + 1 for name, tensor in transform.state_dict().items() if name != "softness"}
        take_weights(transform, weights)
        assert torch.equal(transform.x_mean, weights["x_mean"])


class TestBestIteration:
    @pytest.mark.parametrize(("gain", "chosen"), [(0.003, 1), (0.02, 3)])
    def test_it_must_gain_more_than_its_error(self, gain, chosen):
        """Iterations differ by noise of standard deviation .1 a pair: an error of .0045 of a mean over 1,000."""
        pairs, rows = torch.randn(1000, generator=seeded(0)), []
        for iteration in (1, 2, 3):
            noise = torch.randn(1000, generator=seeded(iteration))
            each = pairs + 0.1 * (noise - noise.mean()) - (gain if iteration == 3 else 0)
            rows.append({"iteration": iteration, SCORE: float(each.mean()), EACH: each.tolist()})
        assert best_iteration(rows) == chosen

    def test_scores_of_an_older_version_in_other_units_take_no_part(self):
        old = [{"iteration": 1, SCORE: 1e-3, EACH: [1e-3, 1e-3]}]
        new = [{"iteration": i, SCORE: v, EACH: [v, v], SCALED: 1} for i, v in ((2, 0.5), (3, 0.4))]
        assert best_iteration(old + new) == 3
        assert best_iteration(old) == 1
