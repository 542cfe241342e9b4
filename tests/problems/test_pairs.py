"""Your own pairs: how they are split and bounded, what is left out, and one clear line for what cannot be used."""

import json
import logging
import math
import re

import numpy as np
import pytest
import torch

from csb.errors import CSBError
from csb.problems import FilePairs, Probit, Reflect, Standardise, build_problem, build_transform, from_dataset
from csb.problems.sources import same_problem
from csb.process import seeded
from tests.problems.conftest import KINDS, Items, N, good, numbers, prepared, refusal, write


@pytest.fixture
def ordered(tmp_path):
    """x the numbers of the rows, y = −x."""
    x = np.arange(N, dtype=float)[:, None]
    return write(tmp_path, "npz", {"x": x, "y": -x})


class TestSplits:
    @pytest.mark.parametrize(
        ("val", "test", "sizes"),
        [(0.1, 0.1, (240, 30, 30)), (30, 0.25, (195, 30, 75)), (1, 5.0, (294, 1, 5)), (1e-6, 298, (1, 1, 298))],
    )
    def test_sizes_agree_and_pairs_stay_together(self, ordered, val, test, sizes):
        problem = FilePairs(**ordered, val=val, test=test)
        assert tuple(problem.sizes[split] for split in ("train", "val", "test")) == sizes
        parts = [problem.pairs(split) for split in ("train", "val", "test")]
        assert tuple(len(part.x) for part in parts) == sizes
        assert all(torch.equal(part.x, -part.y) for part in parts)
        assert torch.cat([part.x for part in parts]).flatten().sort().values.tolist() == list(range(N))

    def test_the_shuffle_is_that_of_the_seed(self, ordered):
        first, again, other = (FilePairs(**ordered, seed=s).pairs("test").x for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.flatten().tolist() != list(range(30))

    def test_requests(self, ordered):
        problem = FilePairs(**ordered)
        assert torch.equal(problem.pairs("val", 3).x, problem.pairs("val").x[:3])
        with pytest.raises(CSBError, match="n=31 pairs are more than the 30 of the split 'val'; ask for fewer"):
            problem.pairs("val", 31)
        with pytest.raises(CSBError, match="split='dev' is unknown"):
            problem.rows("dev")
        message = "val=0.5 and test=0.5 hold out 300 of the 300 pairs .*leave none to learn from; lower them"
        assert re.search(message, refusal(**ordered, val=0.5, test=0.5))

    def test_all_of_a_split_only_where_it_fits(self, tmp_path, monkeypatch):
        problem = FilePairs(**write(tmp_path, "npy", good()))
        monkeypatch.setattr("csb.dtypes.installed", lambda: 8 * 5 * 240 - 1)
        with pytest.raises(CSBError, match=r"240 pairs of .*x.npy.* would take .* ask for fewer, or read them by rows"):
            problem.pairs("train")
        assert len(problem.pairs("train", 239).x) == 239


class TestSpecs:
    def test_hold_the_path_and_need_no_file(self):
        problem = build_problem({"name": "pairs", "path": "/nowhere/pairs.npz", "val": 100, "seed": 3})
        spec = json.loads(json.dumps(problem.spec()))
        given = {"name": "pairs", "path": "/nowhere/pairs.npz", "val": 100, "test": 0.1, "seed": 3}
        rest = {"low": None, "high": None, "transform": "auto", "x": None, "y": None, "length": None, "digest": None}
        assert spec == {**given, **rest}
        assert build_problem(spec).spec() == problem.spec()
        assert same_problem(spec, FilePairs("/nowhere/pairs.npz", val=100, seed=np.int64(3)).spec())
        assert not same_problem(spec, FilePairs("/nowhere/pairs.npz", val=100, seed=3, drop_nan=True).spec())

    def test_nothing_is_known_but_the_data(self, ordered):
        problem = FilePairs(**ordered)
        assert not any((problem.has_exact_posterior, problem.is_digit, problem.is_image))
        with pytest.raises(CSBError, match="pairs comes without a simulator"):
            problem.observe(torch.zeros(1, 1), seeded(0))
        with pytest.raises(CSBError, match=r"the exact posterior of pairs is not known"):
            problem.posterior(torch.zeros(1))

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_length_than_when_a_run_was_trained(self, tmp_path, kind):
        recorded = FilePairs(**write(tmp_path, kind, good())).record()
        assert recorded["length"] == N
        assert build_problem(recorded).sizes["test"] == 30
        write(tmp_path, kind, {name: array[:200] for name, array in good().items()})
        with pytest.raises(CSBError, match="holds 200 pairs and held 300 when the run was trained: other pairs would"):
            _ = build_problem(recorded).x_shape

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "path is missing; give the .npz or HDF5 file of your pairs"),
            ({"x": "x.npy"}, "path is missing"),
            ({"path": "p.npz", "low": (-math.inf, 0)}, r"low=\(-inf, 0\) is not possible; give a finite number or a"),
            ({"path": "p.npz", "transform": "reflect"}, "transform=reflect needs the bounds of x; give data.low"),
            *(
                ({"path": "p.npz", field: value}, f"{field}={value!r} is not possible; give a share of the pairs")
                for field, value in (("val", "half"), ("val", 0), ("test", 1.5), ("test", math.nan))
            ),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(CSBError, match=message):
            build_problem({"name": "pairs", **arguments})


LOW, HIGH = (-1, 0, None), (1, None, None)


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """x uniform in [−1, 1] × [0, ∞) × ℝ."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(-1, 1, N), rng.exponential(size=N), rng.normal(size=N)], 1)
    return write(tmp_path_factory.mktemp("p"), "npz", {"x": x, "y": x[:, :2] + rng.normal(size=(N, 2))})


class TestBounds:
    @pytest.mark.parametrize(
        ("arguments", "kind"),
        [
            ({}, Standardise),
            ({"low": LOW, "high": HIGH}, Reflect),
            ({"low": LOW}, Reflect),
            ({"low": (-1, None, None), "high": HIGH, "transform": "probit"}, Probit),
            ({"low": LOW, "high": HIGH, "transform": "standardise"}, Standardise),
        ],
    )
    def test_choose_the_transform(self, bounded, arguments, kind):
        assert FilePairs(**bounded, low=-10, high=10.0).support == ((-10.0,) * 3, (10.0,) * 3)  # one number for all
        problem = FilePairs(**bounded, **arguments)
        transform = problem.make_transform(problem.pairs("train"))
        assert type(transform) is kind
        assert build_problem(problem.spec()).spec() == problem.spec()
        x = transform.decode(torch.randn(500, 3) * 5, torch.zeros(500, 2))
        if kind is not Standardise:
            assert bool(problem.support.contains(x).all())
            assert float(x[:, 2].min()) < -1  # which has no bound

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"low": (0, 0)}, "low=(0, 0) does not bound x of shape (3,)"),
            ({"low": (-1, 0, 1), "high": (1, 2, 1)}, "is not below high"),
            ({"low": LOW, "transform": "probit"}, "has one bound"),
            ({"low": LOW, "high": (0.5, None, None)}, "and not in [-1, 0.5]; fix the bounds"),
        ],
    )
    def test_that_do_not_fit(self, bounded, arguments, message):
        assert message in refusal(**bounded, **arguments)

    def test_are_held_against_every_block(self, tmp_path, monkeypatch):
        monkeypatch.setattr("csb.problems.rows._BLOCK_ROWS", 64)
        arrays = {name: array.clip(-2, 2) for name, array in good().items()}
        arrays["x"][[100, 250], 1] = 3.0
        message = r"2 of the 300 x of .*the first in row 100: column 1 is 3 and not in \[-2, 2\]"
        assert re.search(message, refusal(**write(tmp_path, "npy", arrays), low=-2.0, high=2.0))

    def test_of_images_clamp_each_channel_and_hold_for_the_pairs(self, tmp_path):
        x = numbers(N, 2, 4, 4).clip(-1, 1)
        images = write(tmp_path, "npz", {"x": x, "y": numbers(N, 1)})
        problem = FilePairs(**images, low=(-1.0, None), high=1)
        problem.prepare()
        fitted = problem.new_transform().fit(problem.rows("train"))
        back = fitted.decode(1000 * torch.randn(8, 2, 4, 4, generator=seeded(1)), torch.zeros(8, 1))
        assert (float(back[:, 0].min()), float(back.max())) == (-1, 1)
        assert float(back[:, 1].min()) < -100
        pairs = problem.pairs("test", 5)
        again = build_transform(fitted.spec())
        again.load_state_dict(fitted.state_dict())
        torch.testing.assert_close(again.decode(again.encode_x(pairs.x), pairs.y), pairs.x)
        assert "pixel (0, " in refusal(**images, low=-0.5)
        assert "does not bound x of shape (2, 4, 4)" in refusal(**images, low=(0, 0, 0))
        assert "transform=reflect is for vectors" in refusal(**images, low=-1, transform="reflect")


class TestMissing:
    ROWS = (7, 90, 91, 250)

    def broken(self):
        arrays = good()
        arrays["x"][[7, 90], [0, 2]] = np.nan
        arrays["y"][91, 1] = -np.inf
        arrays["y"][250, 0] = 1e39
        return arrays

    @pytest.mark.parametrize("kind", KINDS)
    def test_they_are_left_out(self, tmp_path, kind, monkeypatch, caplog):
        monkeypatch.setattr("csb.problems.rows._BLOCK_ROWS", 64)  # several blocks
        caplog.set_level(logging.INFO)
        keep = np.setdiff1d(np.arange(N), self.ROWS)
        clean = prepared(**write(tmp_path / "clean", kind, {k: v[keep] for k, v in good().items()}))
        problem = prepared(**write(tmp_path, kind, self.broken()), drop_nan=True)
        assert problem.sizes == clean.sizes
        for split in ("train", "val", "test"):
            assert all(torch.equal(a, b) for a, b in zip(problem.pairs(split)[:2], clean.pairs(split)[:2]))
        reported = [record.getMessage() for record in caplog.records if "leaves out" in record.getMessage()]
        assert reported == [f"data.drop_nan=true leaves out 4 of the {N} pairs of {problem.where}"]
        again = build_problem(problem.record())
        assert torch.equal(again.pairs("test").x, problem.pairs("test").x)

    def test_masked_items(self):
        x = np.ma.array(good()["x"], mask=False)
        x[90, 2] = np.ma.masked
        given = {"path": from_dataset(Items(x, good()["y"]), "masked")}
        message = (
            "x of the dataset 'masked' holds 1 values that are NaN.* in column 2, the first in row 90; fix or leave "
        )
        assert re.search(message + "out these pairs, or give data.drop_nan=true", refusal(**given))
        assert sum(prepared(**given, drop_nan=True).sizes.values()) == N - 1

    def test_too_few_are_left(self, tmp_path):
        arrays = good()
        arrays["x"][99:] = np.nan
        message = refusal(**write(tmp_path, "npy", arrays), drop_nan=True)
        assert "holds 99 pairs without NaN or infinite values; at least 100 are needed" in message
