"""Your own pairs: what a file may hold, how it is split, and one clear line for everything else."""

import json
import zipfile

import numpy as np
import pytest
import torch

from csb.errors import CSBError
from csb.problems import FilePairs, build_problem
from csb.process import seeded

N = 200


def numbers(*shape, key=0):
    return np.random.default_rng(key).normal(size=shape)


def good():
    return {"x": numbers(N, 3), "y": numbers(N, 2, key=1)}


def write(folder, arrays, **kind):
    path = folder / "pairs.npz"
    np.savez(path, **arrays) if not kind else np.savez_compressed(path, **arrays)
    return path


def changed(name, value):
    def change(arrays):
        arrays[name] = value(arrays[name]) if callable(value) else value

    return change


def entry(name, index, value):
    def change(arrays):
        arrays[name][index] = value

    return change


def read_all(path, **arguments):
    """As a training does it: shapes and sizes first, then the data."""
    problem = FilePairs(str(path), **arguments)
    problem.new_transform()
    assert sum(problem.sizes.values()) > 0
    problem.prepare()
    return problem


def refusal(path, **arguments):
    with pytest.raises(CSBError) as error:
        read_all(path, **arguments)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message or "val=" in message or "test=" in message
    return message


BAD = {
    "no x": (lambda a: a.pop("x"), "holds y and no x; write x and y with numpy.savez"),
    "no y": (lambda a: (a.pop("y"), a.update(z=a["x"])), "holds x, z and no y"),
    "lengths": (changed("y", lambda y: y[:-1]), "holds 200 x and 199 y; give one y for each x"),
    "strings": (changed("x", np.array([["a"] * 3] * N)), "x of"),
    "objects": (changed("y", np.array([[None] * 2] * N)), "y of"),
    "complex": (changed("x", lambda x: x + 1j), "has the type complex128; expected real numbers"),
    "dates": (changed("x", lambda x: x.astype("datetime64[s]")), "has the type datetime64[s]"),
    "channels last": (changed("x", numbers(N, 8, 8, 3)), "looks like (N, H, W, C); images are (N, C, H, W)"),
    "column": (entry("x", ([7, 90], [0, 2]), np.nan), "in columns 0, 2, the first in row 7; fix or leave out"),
    "remedy": (entry("x", (7, 0), np.nan), "or give data.drop_nan=true"),
    "3 dims": (changed("y", lambda y: y[:, None]), "has shape (200, 1, 2); expected vectors"),
    "no dims": (changed("y", np.float64(3)), "has shape (); expected vectors"),
    "empty": (changed("x", lambda x: x[:, :0]), "has shape (200, 0), which holds no numbers"),
    "few": (lambda a: a.update(x=a["x"][:99], y=a["y"][:99]), "holds 99 pairs; at least 100 are needed"),
    "none": (lambda a: a.update(x=a["x"][:0], y=a["y"][:0]), "holds 0 pairs"),
    "NaN": (entry("x", ([7, 90], [0, 2]), np.nan), "x of"),
    "inf": (entry("y", (12, 1), -np.inf), "holds 1 values that are NaN, infinite or beyond"),
    "too large": (entry("y", (12, 1), 1e39), "the first in row 12; fix or leave out"),
    "constant": (entry("x", (slice(None), 1), 4.5), "column 1 of x of"),
    "constant y": (entry("y", (slice(None), 0), 0.0), "is constant at 0 in all rows; leave it out"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_cannot_be_used(tmp_path, name):
    arrays = good()
    change, message = BAD[name]
    change(arrays)
    assert message in refusal(write(tmp_path, arrays))


def test_the_number_of_bad_values_and_their_first_row_are_told(tmp_path):
    arrays = good()
    arrays["x"][[7, 90], [0, 2]] = np.nan
    message = refusal(write(tmp_path, arrays))
    assert "x of" in message
    assert "holds 2 values" in message
    assert "the first in row 7" in message


class TestFiles:
    def test_missing(self, tmp_path):
        assert "does not exist; give the .npz file of your pairs (data.path=…)" in refusal(tmp_path / "pairs.npz")

    def test_a_folder(self, tmp_path):
        assert "is not a file" in refusal(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 nothing"])
    def test_something_else(self, tmp_path, content):
        path = tmp_path / "pairs.npz"
        path.write_bytes(content)
        assert "is not an .npz file" in refusal(path)

    def test_a_single_array(self, tmp_path):
        np.save(tmp_path / "pairs.npy", numbers(N, 3))
        assert "is not an .npz file but one array; give two, data.x=" in refusal(tmp_path / "pairs.npy")

    def test_an_archive_of_other_things(self, tmp_path):
        path = tmp_path / "pairs.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", "text")
            archive.writestr("y.npy", "text")
        assert "x of" in refusal(path)
        with zipfile.ZipFile(path, "w"):
            pass
        assert "holds no array and no x" in refusal(path)

    def test_nothing_is_unpickled(self, tmp_path):
        class Planted:
            def __reduce__(self):
                return (open, (str(tmp_path / "planted"), "w"))

        arrays = good()
        arrays["x"] = np.array([[Planted()] * 3] * N, dtype=object)
        assert "has the type object" in refusal(write(tmp_path, arrays))
        assert not (tmp_path / "planted").exists()

    def test_damage(self, tmp_path):
        path = write(tmp_path, {"x": numbers(5000, 3), "y": numbers(5000, 2)}, compressed=True)
        whole = path.read_bytes()
        generator = np.random.default_rng(0)
        for _ in range(60):
            data = bytearray(whole)
            for at in generator.integers(0, len(data), 20):
                data[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(data)
            refusal(path)

    def test_a_header_that_claims_too_much(self, tmp_path, monkeypatch):
        """The claim is refused before anything is allocated."""
        path = tmp_path / "pairs.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("x", "y"):
                with archive.open(f"{name}.npy", "w") as file:
                    header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 64)}
                    np.lib.format.write_array_header_1_0(file, header)
        monkeypatch.setattr(np, "load", None)
        message = refusal(path, val=10, test=10)
        assert "GiB" in message
        assert "give them as .npy or HDF5, which are read by rows, or fewer" in message

    def test_pairs_that_do_not_fit_into_memory(self, tmp_path, monkeypatch):
        path = write(tmp_path, good())
        needed = N * 5 * (8 + 12)
        monkeypatch.setattr("csb.memory.installed", lambda: needed - 1)
        assert "memory; give them as .npy or HDF5" in refusal(path)
        monkeypatch.setattr("csb.memory.installed", lambda: needed)
        read_all(path)


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<f2", "<i8", "u1", ">i2", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_any_type_and_order_are_converted(tmp_path, dtype, order):
    arrays = {"x": 10 * numbers(N, 3), "y": 10 * numbers(N, 2, 3, 4, key=1)}
    arrays = {k: (v > 0 if dtype == "?" else v.clip(0)).astype(dtype) for k, v in arrays.items()}
    problem = read_all(write(tmp_path, {k: np.asarray(v, order=order) for k, v in arrays.items()}))
    assert problem.x_shape == (3,)
    assert problem.y_shape == (2, 3, 4)
    everything = [problem.pairs(split) for split in ("train", "val", "test")]
    x, y = (torch.cat([getattr(p, name) for p in everything]) for name in ("x", "y"))
    assert x.dtype == y.dtype == torch.float32
    for found, name in ((x, "x"), (y, "y")):
        expected = torch.from_numpy(arrays[name].astype("f4")).flatten(1)
        assert torch.equal(found.flatten(1).sum(1).sort().values, expected.sum(1).sort().values)


class TestSplits:
    @pytest.fixture
    def path(self, tmp_path):
        x = np.arange(N, dtype=float)[:, None]
        return write(tmp_path, {"x": x, "y": -x})

    @pytest.mark.parametrize(
        ("val", "test", "sizes"),
        [(0.1, 0.1, (160, 20, 20)), (30, 0.25, (120, 30, 50)), (1, 5.0, (194, 1, 5)), (1e-6, 198, (1, 1, 198))],
    )
    def test_sizes_agree(self, path, val, test, sizes):
        problem = FilePairs(str(path), val=val, test=test)
        assert tuple(problem.sizes[split] for split in ("train", "val", "test")) == sizes
        parts = [problem.pairs(split) for split in ("train", "val", "test")]
        assert tuple(len(part.x) for part in parts) == sizes
        assert all(torch.equal(part.x, -part.y) for part in parts)  # pairs stay together
        assert torch.cat([part.x for part in parts]).flatten().sort().values.tolist() == list(range(N))

    def test_the_shuffle_is_that_of_the_seed(self, path):
        first, again, other = (FilePairs(str(path), seed=s).pairs("test").x for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.flatten().tolist() != list(range(20))

    def test_requests(self, path):
        problem = FilePairs(str(path))
        assert torch.equal(problem.pairs("val", 3).x, problem.pairs("val").x[:3])
        with pytest.raises(CSBError, match="n=21 pairs are more than the 20 of the split 'val'; ask for fewer"):
            problem.pairs("val", 21)
        with pytest.raises(CSBError, match="split='dev' is unknown"):
            problem.pairs("dev")

    @pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), float("inf")])
    @pytest.mark.parametrize("field", ["val", "test"])
    def test_shares_that_make_no_sense(self, field, value):
        with pytest.raises(CSBError, match=f"{field}={value!r} is not possible; give a share"):
            FilePairs("pairs.npz", **{field: value})

    def test_nothing_left_to_learn_from(self, path):
        assert "val=0.5 and test=0.5 hold out 200 of the 200 pairs" in refusal(path, val=0.5, test=0.5)
        assert "leave none to learn from" in refusal(path, val=1000)


def test_the_problem_is_data_only(tmp_path):
    problem = read_all(write(tmp_path, good()))
    assert not problem.has_exact_posterior
    assert not problem.is_digit
    assert not problem.is_image
    with pytest.raises(CSBError, match="comes without a simulator") as error:
        problem.observe(torch.zeros(1, 3), seeded(0))
    assert "\n" not in str(error.value)
    with pytest.raises(CSBError, match=r"the exact posterior of pairs is not known"):
        problem.posterior(torch.zeros(2))


def test_the_spec_holds_the_path_and_needs_no_file():
    problem = build_problem({"name": "pairs", "path": "/nowhere/pairs.npz", "val": 100, "seed": 3})
    spec = json.loads(json.dumps(problem.spec()))
    given = {"name": "pairs", "path": "/nowhere/pairs.npz", "val": 100, "test": 0.1, "seed": 3}
    rest = {"low": None, "high": None, "transform": "auto", "x": None, "y": None, "length": None, "digest": None}
    assert spec == {**given, **rest}
    assert build_problem(spec).spec() == problem.spec()
    with pytest.raises(CSBError, match="does not exist"):
        _ = problem.x_shape


def test_bad_arguments():
    for spec, match in (
        ({"name": "pairs"}, "path is missing; give the .npz or HDF5 file of your pairs"),
        ({"name": "pairs", "path": 3}, "problem.path=3 is not possible; give a text or null"),
        ({"name": "pairs", "path": ""}, "path is missing"),
        ({"name": "pairs", "x": "x.npy"}, "path is missing"),
        ({"name": "pairs", "path": "p.npz", "seed": -1}, "seed=-1"),
        ({"name": "pairs", "path": "p.npz", "val": "half"}, "val='half' is not possible; give a share of the pairs"),
    ):
        with pytest.raises(CSBError, match=match):
            build_problem(spec)
