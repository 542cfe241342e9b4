"""Own pairs in .npy files, HDF5 and a Dataset: what is read is what an .npz file gives, and only the rows asked for."""

import os
import sys

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from csb.errors import CSBError
from csb.problems import FilePairs, build_problem, from_dataset
from csb.problems.rows import Moments, Pairs, Rows, Source
from csb.problems.specs import same_problem
from csb.process import seeded

N = 300
KINDS = ("npz", "npy", "hdf5", "dataset")


def numbers(*shape, key=0):
    return np.random.default_rng(key).normal(size=shape)


def good():
    return {"x": numbers(N, 3), "y": numbers(N, 2, key=1)}


class Items(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def write(folder, kind, arrays, **options):
    """Arguments of FilePairs for the arrays, written as that kind."""
    x, y = arrays["x"], arrays["y"]
    if kind == "npz":
        np.savez(folder / "p.npz", x=x, y=y)
        return {"path": str(folder / "p.npz")}
    if kind == "npy":
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        return {"x": str(folder / "x.npy"), "y": str(folder / "y.npy")}
    if kind == "hdf5":
        with h5py.File(folder / "p.h5", "w") as file:
            file.create_dataset("x", data=x, **options)
            file.create_dataset("y", data=y, **options)
        return {"path": str(folder / "p.h5")}
    return {"path": from_dataset(Items(x, y), str(folder))}


def prepared(**arguments):
    """As a training does it: shapes and sizes first, then the check of all pairs."""
    problem = FilePairs(**arguments)
    problem.new_transform()
    assert sum(problem.sizes.values()) > 0
    problem.prepare()
    return problem


def refusal(**arguments):
    with pytest.raises(CSBError) as error:
        prepared(**arguments)
    message = str(error.value)
    assert "\n" not in message
    assert 20 < len(message) < 600
    return message


class TestTheSameWhereverTheyLie:
    @pytest.mark.parametrize("kind", KINDS[1:])
    @pytest.mark.parametrize("dtype", ["<f8", "<f4", "u1", ">i2"])
    def test_splits_values_and_statistics(self, tmp_path, kind, dtype):
        arrays = {"x": (50 * numbers(N, 2, 4, 4)).clip(0).astype(dtype), "y": (9 * numbers(N, 5, key=1)).astype(dtype)}
        if kind == "dataset" and dtype[0] == ">":
            arrays = {name: array.astype("<i2") for name, array in arrays.items()}  # torch takes no others
        one, two = (prepared(**write(tmp_path, k, arrays)) for k in ("npz", kind))
        assert one.sizes == two.sizes
        for split in ("train", "val", "test"):
            for a, b in zip(one.pairs(split)[:2], two.pairs(split)[:2]):
                assert a.dtype == b.dtype == torch.float32
                assert torch.equal(a, b)
        assert float(one.pairs("train").x.max()) > 100  # bytes stay bytes: 0..255
        a, b = (p.make_transform(p.rows("train")).state_dict() for p in (one, two))
        assert all(torch.equal(a[key], b[key]) for key in a)
        whole = one.pairs("train")
        plain = one.new_transform().fit(Rows.of(whole)).state_dict()
        assert all(torch.allclose(a[key], plain[key], rtol=1e-6) for key in a)

    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_are_those_of_the_split_in_the_order_asked_for(self, tmp_path, kind):
        i = np.arange(N, dtype=float)[:, None]
        rows = prepared(**write(tmp_path, kind, {"x": i, "y": -i})).rows("train")
        whole, wanted = rows.head(len(rows)), torch.tensor([5, 0, 239, 5, 17])
        found = rows.read(wanted)
        assert torch.equal(found.x, whole.x[wanted])
        assert torch.equal(found.y, -found.x)
        assert torch.equal(rows.read_y(wanted), found.y)
        blocks = torch.cat([block.x for block in rows.blocks()]).flatten()
        assert torch.equal(blocks, whole.x.flatten().sort().values)  # in the order of the file

    @pytest.mark.parametrize("options", [{}, {"chunks": (7, 3)}, {"chunks": (7, 3), "compression": "gzip"}])
    def test_kinds_of_hdf5(self, tmp_path, options):
        arrays = {"x": numbers(N, 3), "y": numbers(N, 3, key=1)}
        one, two = (
            prepared(**write(tmp_path, kind, arrays, **more)) for kind, more in (("npz", {}), ("hdf5", options))
        )
        assert all(torch.equal(a, b) for a, b in zip(one.pairs("train")[:2], two.pairs("train")[:2]))

    def test_names_and_an_unusual_suffix(self, tmp_path):
        arrays = good()
        with h5py.File(tmp_path / "data.sim", "w") as file:
            file["runs/theta"], file["obs"] = arrays["x"], arrays["y"]
        found = prepared(path=str(tmp_path / "data.sim"), x="runs/theta", y="obs")
        np.savez(tmp_path / "p.npz", theta=arrays["x"], obs=arrays["y"])
        other = prepared(path=str(tmp_path / "p.npz"), x="theta", y="obs")
        assert torch.equal(found.pairs("test").x, other.pairs("test").x)
        assert same_problem(found.spec(), other.spec())

    def test_tensors_of_a_dataset_of_any_type(self, tmp_path):
        x, y = torch.randn(N, 2, generator=seeded(0)).bfloat16(), torch.rand(N, 1, generator=seeded(1)) > 0.5
        rows = prepared(path=from_dataset(TensorDataset(x, y), "kinds")).rows("train")
        assert rows.read(torch.arange(4)).y.dtype == torch.float32


class TestOnlyTheRowsOfOneReading:
    @pytest.mark.parametrize("kind", KINDS[1:])
    def test_are_read(self, tmp_path, kind, monkeypatch):
        problem, taken = FilePairs(**write(tmp_path, kind, good())), []
        _, take = problem.x_shape, Source.take

        def counted(self, rows, names=("x", "y")):
            found = take(self, rows, names)
            taken.append((len(found[0]), names))
            return found

        monkeypatch.setattr(Source, "take", counted)
        problem.rows("train").read(torch.tensor([3, 1]))
        problem.rows("train").read_y(torch.tensor([3]))
        problem.pairs("test", 4)
        assert taken == [(2, ("x", "y")), (1, ("y",)), (4, ("x", "y"))]

    def test_large_rows_make_small_blocks(self):
        pairs = Pairs(torch.zeros(40, 3, 512, 512), torch.zeros(40, 1))  # 3 MiB each
        assert [len(block.x) for block in Rows.of(pairs).blocks()] == [5] * 8

    def test_all_of_a_split_only_where_it_fits(self, tmp_path, monkeypatch):
        problem = FilePairs(**write(tmp_path, "npy", good()))
        monkeypatch.setattr("csb.memory.installed", lambda: 8 * 5 * 240 - 1)
        with pytest.raises(CSBError, match=r"240 pairs of .*x.npy.* would take .* ask for fewer, or read them by rows"):
            problem.pairs("train")
        assert len(problem.pairs("train", 239).x) == 239


def test_moments_lose_no_digits_far_from_zero():
    values = 1e6 + torch.randn(5000, 3, 2, 2, generator=seeded(0)).double()
    moments = Moments()
    for block in values.split(700):
        moments.update(block)
    flat = values.transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean, flat.mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.std, flat.std(1, correction=0), rtol=1e-9, atol=0)


def entry(name, index, value):
    def change(arrays):
        arrays[name][index] = value

    return change


BAD = {
    "NaN": (entry("x", ([207, 90], [0, 2]), np.nan), "holds 2 values that are NaN, infinite or beyond"),
    "first row": (entry("x", ([207, 90], [0, 2]), np.nan), "the first in row 90; fix or leave out"),
    "inf": (entry("y", (12, 1), -np.inf), "y of"),
    "too large": (entry("y", (12, 1), 1e39), "the first in row 12"),
    "constant": (entry("x", (slice(None), 1), 4.5), "column 1 of x of"),
    "lengths": (lambda a: a.update(y=a["y"][:-1]), "holds 300 x and 299 y; give one y for each x"),
    "few": (lambda a: a.update(x=a["x"][:99], y=a["y"][:99]), "holds 99 pairs; at least 100 are needed"),
    "complex": (lambda a: a.update(x=a["x"] + 1j), "type complex128"),
    "empty": (lambda a: a.update(x=a["x"][:, :0]), "has shape (300, 0), which holds no numbers"),
}


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", BAD)
def test_pairs_that_cannot_be_used(tmp_path, kind, name, monkeypatch):
    monkeypatch.setattr("csb.problems.rows._BLOCK_ROWS", 64)  # several blocks
    arrays = good()
    change, message = BAD[name]
    change(arrays)
    if kind == "dataset" and name == "lengths":
        pytest.skip("the items of a dataset are pairs")
    assert message in refusal(**write(tmp_path, kind, arrays))


def test_bounds_are_held_against_every_block(tmp_path, monkeypatch):
    monkeypatch.setattr("csb.problems.rows._BLOCK_ROWS", 64)
    arrays = good()
    arrays["x"] = arrays["x"].clip(-2, 2)
    arrays["x"][[100, 250], 1] = 3.0
    message = refusal(**write(tmp_path, "npy", arrays), low=-2.0, high=2.0)
    assert "2 of the 300 x of" in message
    assert "the first in row 100: column 1 is 3 and not in [-2, 2]" in message


class TestFiles:
    def test_npy(self, tmp_path):
        given = write(tmp_path, "npy", good())
        x, whole = tmp_path / "x.npy", (tmp_path / "x.npy").read_bytes()
        x.write_bytes(whole[:-8])
        assert "x of" in (message := refusal(**given))
        assert "cannot be read" in message
        x.write_bytes(b"hello")
        assert "cannot be read" in refusal(**given)
        np.save(x, np.array([[None] * 3] * N), allow_pickle=True)
        assert "has the type object; expected real numbers" in refusal(**given)
        x.unlink()
        assert "does not exist; give the .npy file of your x (data.x=…)" in refusal(**given)
        x.mkdir()
        assert "is not a file" in refusal(**given)

    def test_nothing_is_unpickled(self, tmp_path):
        class Planted:
            def __reduce__(self):
                return (open, (str(tmp_path / "planted"), "w"))

        given = write(tmp_path, "npy", {**good(), "x": np.array([[Planted()] * 3] * N, dtype=object)})
        assert "has the type object" in refusal(**given)
        assert not (tmp_path / "planted").exists()

    def test_hdf5(self, tmp_path):
        path, arrays = tmp_path / "p.h5", good()
        assert "does not exist; give the HDF5 file" in refusal(path=str(path))
        with h5py.File(path, "w") as file:
            file["x"] = arrays["x"]
            file.create_group("g")
        assert f"y of {path} is not among g, x; name the datasets x and y" in refusal(path=str(path))
        assert f"g of {path} is a group" in refusal(path=str(path), y="g")
        with h5py.File(path, "a") as file:
            file["y"] = [b"text"] * N
        assert "has the type" in refusal(path=str(path))
        path.write_bytes(path.read_bytes()[:600])
        assert "cannot be read as HDF5" in refusal(path=str(path))
        path.write_bytes(b"hello")
        assert "cannot be read as HDF5" in refusal(path=str(path))

    def test_hdf5_without_h5py(self, tmp_path, monkeypatch):
        given = write(tmp_path, "hdf5", good())
        monkeypatch.setitem(sys.modules, "h5py", None)
        assert refusal(**given).endswith("needs the package h5py; run pip install -e '.[hdf5]'")

    @pytest.mark.parametrize("kind", ["npy", "hdf5"])
    def test_a_file_that_is_written_to_while_it_is_used(self, tmp_path, kind):
        rows = prepared(**write(tmp_path, kind, good())).rows("train")
        write(tmp_path, kind, {name: array[:200] for name, array in good().items()})
        with pytest.raises(CSBError, match=r"x of .* was float64 of shape \(300, 3\) and is float64 of shape"):
            rows.read(torch.tensor([0]))

    def test_values_that_became_bad_after_the_check(self, tmp_path):
        rows, arrays = prepared(**write(tmp_path, "npy", good())).rows("train"), good()
        arrays["x"][:] = np.nan
        write(tmp_path, "npy", arrays)
        with pytest.raises(CSBError, match=r"x of .* holds values in row \d+ that are NaN"):
            rows.read(torch.tensor([0]))

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_length_than_when_a_run_was_trained(self, tmp_path, kind):
        recorded = FilePairs(**write(tmp_path, kind, good())).record()
        assert recorded["length"] == N
        assert build_problem(recorded).sizes["test"] == 30
        write(tmp_path, kind, {name: array[:200] for name, array in good().items()})
        with pytest.raises(CSBError, match="holds 200 pairs and held 300 when the run was trained: other pairs would"):
            _ = build_problem(recorded).x_shape


class TestDatasets:
    def refused(self, items, name="bad"):
        return refusal(path=from_dataset(items, name))

    def test_no_map_style_dataset(self):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                yield from ()

        with pytest.raises(CSBError, match="Stream is no map-style Dataset: it lacks __getitem__ or __len__"):
            from_dataset(Stream())

    def test_another_process(self):
        message = refusal(path="dataset:elsewhere")
        assert "the dataset 'elsewhere' is not here" in message
        assert "call csb.problems.from_dataset(dataset, 'elsewhere') in this process first" in message

    def test_items(self):
        x = numbers(N, 2).tolist()
        assert "an item of the dataset 'bad' is a list; expected a pair (x, y)" in self.refused([[1, 2, 3]] * N)
        assert "item 0 of the dataset 'bad' cannot be had (IndexError" in self.refused([])
        assert "x of item 0 of the dataset 'bad' is str; pass" in self.refused(Items(["a"] * N, x))
        ragged = [*x[:-1], [1.0]]
        assert "y of item 299 of the dataset 'bad' has shape (1,) and that of item 0 (2,)" in self.refused(
            Items(x, ragged)
        )

    def test_what_the_users_code_raises(self):
        class Broken(Items):
            def __getitem__(self, index):
                if index == 150:
                    raise KeyError("no\nsuch file")
                return super().__getitem__(index)

        message = self.refused(Broken(**good()))
        assert message == "item 150 of the dataset 'bad' cannot be had (KeyError: 'no\\nsuch file'); fix it"

    def test_a_length_that_changes(self):
        items = Items(list(numbers(N, 2)), list(numbers(N, 2)))
        rows = prepared(path=from_dataset(items, "growing")).rows("train")
        items.x.append(items.x[0])
        with pytest.raises(
            CSBError, match=r"was float64 of shape \(300, 2\) and is float64 of shape \(301, 2\) now; restore it"
        ):
            rows.read(torch.tensor([0]))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs /proc")
def test_mapped_pages_do_not_stay(tmp_path):
    """Reading all of a file by rows leaves none of it mapped."""
    given = write(tmp_path, "npy", {"x": numbers(1000, 8), "y": numbers(1000, 8)})
    rows = prepared(**given).rows("train")
    rows.read(torch.arange(800))
    with open("/proc/self/maps") as maps:
        assert not [line for line in maps if str(tmp_path) in line]
