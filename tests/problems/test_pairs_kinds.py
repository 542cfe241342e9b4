"""Own pairs as people hold them: scalars (N,), numbers of every type, and missing values that are left out."""

import logging

import numpy as np
import pytest
import torch

from csb.errors import CSBError
from csb.problems import FilePairs, build_problem, from_dataset
from csb.problems.specs import same_problem
from tests.problems.test_pairs_sources import KINDS, Items, N, good, numbers, prepared, refusal, write


def split(problem, name="train"):
    return problem.pairs(name)


class TestScalars:
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_number_a_pair_is_a_vector_of_one(self, tmp_path, kind):
        x, y = numbers(N), numbers(N, key=1)
        (tmp_path / "flat").mkdir()
        flat = prepared(**write(tmp_path / "flat", kind, {"x": x, "y": y}))
        whole = prepared(**write(tmp_path, kind, {"x": x[:, None], "y": y[:, None]}))
        assert flat.x_shape == flat.y_shape == (1,)
        for name in ("train", "test"):
            for one, two in zip(split(flat, name)[:2], split(whole, name)[:2]):
                assert one.shape == (flat.sizes[name], 1)
                assert torch.equal(one, two)

    def test_far_from_zero_they_are_read_as_float64(self, tmp_path):
        problem = prepared(**write(tmp_path, "npy", {"x": 1.7e9 + numbers(N), "y": numbers(N)}))
        assert split(problem).x.dtype == torch.float64

    def test_items_that_are_bare_numbers(self):
        x, y = numbers(N), numbers(N, key=1)
        problem = prepared(path=from_dataset(Items(x.tolist(), y.tolist()), "bare"))
        expected = prepared(path=from_dataset(Items(x[:, None], y[:, None]), "vectors"))
        assert torch.equal(split(problem).x, split(expected).x)


@pytest.mark.parametrize(
    "convert",
    [
        lambda y: y.astype(bool),
        lambda y: y.astype(np.uint16),
        lambda y: y.astype(np.uint32),
        lambda y: y.astype(np.uint64),
        lambda y: y.astype(">f4"),
        lambda y: y.astype(">i2"),
        lambda y: y.astype(np.float16),
        lambda y: y.astype(np.longdouble),
        lambda y: np.ma.array(y, mask=False),
        lambda y: torch.from_numpy(y).bool(),
        lambda y: torch.from_numpy(y).bfloat16(),
        lambda y: y.astype(int).tolist(),
    ],
)
def test_items_of_any_number_type(convert):
    x, y = numbers(N, 3), (numbers(N, 2) > 0).astype("f4")
    expected = split(prepared(path=from_dataset(Items(x, y), "floats"))).y
    assert torch.equal(split(prepared(path=from_dataset(Items(x, convert(y)), "others"))).y, expected)


def test_channels_last():
    images = numbers(N, 8, 6, 3)
    message = refusal(path=from_dataset(Items(images, numbers(N, 2)), "last"))
    assert "looks like (N, H, W, C); images are (N, C, H, W): give numpy.moveaxis" in message
    prepared(path=from_dataset(Items(np.moveaxis(images, -1, 1), numbers(N, 2)), "first"))
    prepared(path=from_dataset(Items(numbers(N, 8, 4, 4), numbers(N, 2)), "channels"))  # of 4 × 4 pixels


class TestMissing:
    ROWS = (7, 90, 91, 250)

    def broken(self):
        arrays = good()
        arrays["x"][[7, 90], [0, 2]] = np.nan
        arrays["y"][91, 1] = -np.inf
        arrays["y"][250, 0] = 1e39
        return arrays

    def test_masked_items_are_refused_as_nan_is(self):
        x = np.ma.array(good()["x"], mask=False)
        x[90, 2] = np.ma.masked
        message = refusal(path=from_dataset(Items(x, good()["y"]), "masked"))
        assert "x of the dataset 'masked' holds 1 values that are NaN" in message
        assert "in column 2, the first in row 90; fix or leave out these pairs, or give data.drop_nan=true" in message

    @pytest.mark.parametrize("kind", KINDS)
    def test_they_are_left_out(self, tmp_path, kind, monkeypatch, caplog):
        monkeypatch.setattr("csb.problems.rows._BLOCK_ROWS", 64)  # several blocks
        caplog.set_level(logging.INFO)
        (tmp_path / "clean").mkdir()
        keep = np.setdiff1d(np.arange(N), self.ROWS)
        clean = prepared(**write(tmp_path / "clean", kind, {k: v[keep] for k, v in good().items()}))
        arguments = write(tmp_path, kind, self.broken())
        problem = prepared(**arguments, drop_nan=True)
        assert problem.sizes == clean.sizes
        for name in ("train", "val", "test"):
            assert torch.equal(split(problem, name).x, split(clean, name).x)
            assert torch.equal(split(problem, name).y, split(clean, name).y)
        reported = [record.getMessage() for record in caplog.records]
        assert [line for line in reported if "leaves out" in line] == [
            f"data.drop_nan=true leaves out 4 of the {N} pairs of {problem._whole.source.where}"
        ]
        again = build_problem(problem.record())
        assert again.sizes == problem.sizes
        assert torch.equal(split(again, "test").x, split(problem, "test").x)

    @pytest.mark.parametrize("kind", ["npz", "npy"])
    def test_what_float32_cannot_hold_stays_float64(self, tmp_path, kind):
        arrays = self.broken()
        arrays["x"] += 1.7e9
        x = split(prepared(**write(tmp_path, kind, arrays), drop_nan=True)).x
        assert x.dtype == torch.float64
        assert len(x.unique(dim=0)) == len(x)

    def test_masked_items_are_left_out(self):
        y = np.ma.array(good()["y"], mask=False)
        y[3] = np.ma.masked
        assert sum(prepared(path=from_dataset(Items(good()["x"], y), "masked"), drop_nan=True).sizes.values()) == N - 1

    def test_too_few_are_left(self, tmp_path):
        arrays = good()
        arrays["x"][99:] = np.nan
        message = refusal(**write(tmp_path, "npy", arrays), drop_nan=True)
        assert "holds 99 pairs without NaN or infinite values; at least 100 are needed" in message

    def test_specs_of_before_stay_the_same(self):
        old = {"name": "pairs", "path": "p.npz", "seed": 1}
        spec = build_problem(old).spec()
        assert "drop_nan" not in spec
        assert same_problem(spec, FilePairs("p.npz", seed=np.int64(1)).spec())
        assert type(FilePairs("p.npz", seed=np.int64(1)).spec()["seed"]) is int
        assert not same_problem(spec, FilePairs("p.npz", seed=1, drop_nan=True).spec())
        with pytest.raises(CSBError, match="drop_nan='yes' is not possible; give true or false"):
            FilePairs("p.npz", drop_nan="yes")
