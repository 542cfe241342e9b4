"""Own pairs in .npz and .npy files, HDF5 and a Dataset: the same numbers from all, and only the rows asked for."""

import os
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from csb.errors import CSBError
from csb.problems import FilePairs, from_dataset
from csb.problems.rows import Pairs, Rows, Source
from csb.problems.scale import Moments
from csb.problems.sources import same_problem
from csb.process import seeded
from tests.problems.conftest import KINDS, Items, N, good, numbers, prepared, refusal, write


def assert_same(one, two):
    for split in ("train", "val", "test"):
        assert all(torch.equal(a, b) for a, b in zip(one.pairs(split)[:2], two.pairs(split)[:2])), split


class TestTheSameWhereverTheyLie:
    @pytest.mark.parametrize("kind", KINDS[1:])
    @pytest.mark.parametrize("dtype", ["<f8", "u1"])
    def test_splits_values_and_statistics(self, tmp_path, kind, dtype):
        arrays = {"x": (50 * numbers(N, 2, 4, 4)).clip(0).astype(dtype), "y": (9 * numbers(N, 5, key=1)).astype(dtype)}
        one, two = (prepared(**write(tmp_path, k, arrays)) for k in ("npz", kind))
        assert one.sizes == two.sizes
        assert_same(one, two)
        whole = one.pairs("train")
        assert whole.x.dtype == torch.float32
        assert float(whole.x.max()) > 100  # bytes stay bytes: 0..255
        a, b = (p.make_transform(p.rows("train")).state_dict() for p in (one, two))
        assert all(torch.equal(a[key], b[key]) for key in a)
        plain = one.new_transform().fit(Rows.of(whole)).state_dict()
        assert all(torch.allclose(a[key], plain[key], rtol=1e-6) for key in a)

    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_of_scalars_in_the_order_asked_for(self, tmp_path, kind):
        i = np.arange(N, dtype=float)
        problem = prepared(**write(tmp_path, kind, {"x": i, "y": -i}))
        assert problem.x_shape == problem.y_shape == (1,)
        rows = problem.rows("train")
        whole, wanted = rows.head(len(rows)), torch.tensor([5, 0, 239, 5, 17])
        found = rows.read(wanted)
        assert torch.equal(found.x, whole.x[wanted])
        assert torch.equal(found.y, -found.x)
        assert torch.equal(rows.read_y(wanted), found.y)
        blocks = torch.cat([block.x for block in rows.blocks()])
        assert torch.equal(blocks, whole.x.sort(0).values)  # in the order of the file

    @pytest.mark.parametrize("dtype", [">f8", "<f4", "<f2", "<i8", ">i2", "?"])
    def test_numbers_of_any_type_and_order(self, tmp_path, dtype):
        arrays = {"x": 10 * numbers(N, 3), "y": 10 * numbers(N, 2, 3, 4, key=1)}
        arrays = {k: (v > 0 if dtype == "?" else v.clip(0)).astype(dtype) for k, v in arrays.items()}
        given = write(tmp_path, "npz", {k: np.asarray(v, order="F") for k, v in arrays.items()})
        plain = write(tmp_path / "plain", "npz", {k: v.astype("f4") for k, v in arrays.items()})
        assert_same(prepared(**given), prepared(**plain))

    @pytest.mark.parametrize(
        "convert",
        [
            lambda y: y.astype(np.uint64),
            lambda y: y.astype(">f4"),
            lambda y: y.astype(np.longdouble),
            lambda y: np.ma.array(y, mask=False),
            lambda y: torch.from_numpy(y).bool(),
            lambda y: torch.from_numpy(y).bfloat16(),
            lambda y: y.astype(int).tolist(),
        ],
    )
    def test_items_of_any_number_type(self, convert):
        x, y = numbers(N, 3), (numbers(N, 2) > 0).astype("f4")
        assert_same(*(prepared(path=from_dataset(Items(x, v), "items")) for v in (y, convert(y))))

    def test_names_and_an_unusual_suffix(self, tmp_path):
        arrays = good()
        with h5py.File(tmp_path / "data.sim", "w") as file:
            file["runs/theta"], file["obs"] = arrays["x"], arrays["y"]
        np.savez(tmp_path / "p.npz", theta=arrays["x"], obs=arrays["y"])
        found = prepared(path=str(tmp_path / "data.sim"), x="runs/theta", y="obs")
        other = prepared(path=str(tmp_path / "p.npz"), x="theta", y="obs")
        assert_same(found, other)
        assert same_problem(found.spec(), other.spec())


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

    def test_an_item_is_fetched_once(self):
        class Counted(Items):
            def __getitem__(self, index):
                fetched.append(index)
                return super().__getitem__(index)

        fetched = []
        rows = prepared(path=from_dataset(Counted(**good()), "counted")).rows("train")
        fetched.clear()
        rows.read(torch.tensor([3, 1, 3]))
        assert len(fetched) == 2

    def test_large_rows_make_small_blocks(self):
        pairs = Pairs(torch.zeros(40, 3, 512, 512), torch.zeros(40, 1))  # 3 MiB each
        assert [len(block.x) for block in Rows.of(pairs).blocks()] == [5] * 8


def test_moments_lose_no_digits_far_from_zero():
    values = 1e6 + torch.randn(5000, 3, 2, 2, generator=seeded(0)).double()
    moments = Moments()
    for block in values.split(700):
        moments.update(block)
    flat = values.transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean, flat.mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.std, flat.std(1, correction=0), rtol=1e-9, atol=0)


def bad(name, index, value):
    """Good arrays with some entries of one changed."""
    arrays = good()
    arrays[name][index] = value
    return arrays


SHORT = {name: array[:99] for name, array in good().items()}
BAD = {
    "NaN": (bad("x", ([207, 90], [0, 2]), np.nan), "holds 2 values that are NaN, infinite or beyond"),
    "rows": (bad("x", ([207, 90], [0, 2]), np.nan), "in columns 0, 2, the first in row 90; fix or leave out"),
    "too large": (bad("y", (12, 1), 1e39), "in column 1, the first in row 12"),
    "constant": (bad("x", (slice(None), 1), 4.5), "is constant at 4.5 in all rows; leave it out"),
    "lengths": (good() | {"y": good()["y"][:-1]}, "holds 300 x and 299 y; give one y for each x"),
    "few": (SHORT, "holds 99 pairs; at least 100 are needed"),
    "strings": (good() | {"x": np.array([[b"a"] * 3] * N)}, "x of"),
    "complex": (good() | {"x": good()["x"] + 1j}, "type complex128"),
    "empty": (good() | {"x": good()["x"][:, :0]}, "has shape (300, 0), which holds no numbers"),
    "3 dims": (good() | {"x": good()["x"][:, None]}, "has shape (300, 1, 3); expected vectors"),
    "missing": (bad("y", (slice(None), 1), np.nan), "is missing in all rows; leave it out"),
    "channels": (good() | {"x": numbers(N, 8, 6, 3)}, "looks like (N, H, W, C); images are (N, C, H, W): give"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD)
def test_pairs_that_cannot_be_used(tmp_path, kind, name, monkeypatch):
    if kind == "dataset" and name in ("lengths", "strings"):
        pytest.skip("the items of a dataset are pairs of numbers")
    monkeypatch.setattr("csb.problems.rows._BLOCK_ROWS", 64)  # several blocks
    arrays, message = BAD[name]
    assert message in refusal(**write(tmp_path, kind, arrays))


class Planted:
    """Would leave a file behind where it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return open, (str(self.folder / "planted"), "w")


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_nothing_is_unpickled(tmp_path, kind):
    given = write(tmp_path, kind, {**good(), "x": np.array([[Planted(tmp_path)] * 3] * N, dtype=object)})
    assert "has the type object; expected real numbers" in refusal(**given)
    assert not (tmp_path / "planted").exists()


class TestFiles:
    def test_npz(self, tmp_path):
        path = tmp_path / "p.npz"
        assert "does not exist; give the .npz file of your pairs (data.path=…)" in refusal(path=str(path))
        assert "is not a file" in refusal(path=str(tmp_path))
        for content in (b"", b"hello", b"PK\x03\x04 nothing"):
            path.write_bytes(content)
            assert "is not an .npz file" in refusal(path=str(path))
        np.save(tmp_path / "p.npy", numbers(N, 3))
        assert "is not an .npz file but one array; give two, data.x=" in refusal(path=str(tmp_path / "p.npy"))
        np.savez(path, y=numbers(N, 2), z=numbers(N))
        assert "holds y, z and no x; write x and y with numpy.savez" in refusal(path=str(path))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", "text")
            archive.writestr("y.npy", "text")
        assert "x of" in refusal(path=str(path))

    def test_damage(self, tmp_path):
        path = tmp_path / "p.npz"
        np.savez_compressed(path, x=numbers(5000, 3), y=numbers(5000, 2))
        whole, generator = path.read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            data = bytearray(whole)
            for at in generator.integers(0, len(data), 20):
                data[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(data)
            refusal(path=str(path))

    def test_a_header_that_claims_too_much(self, tmp_path, monkeypatch):
        """The claim is refused before anything is allocated."""
        path, header = tmp_path / "p.npz", {"descr": "<f8", "fortran_order": False, "shape": (10**12, 64)}
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("x", "y"):
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array_header_1_0(file, header)
        monkeypatch.setattr(np, "load", None)
        assert "give them as .npy or HDF5, which are read by rows, or fewer" in refusal(path=str(path), val=10, test=10)

    def test_pairs_that_do_not_fit_into_memory(self, tmp_path, monkeypatch):
        given, needed = write(tmp_path, "npz", good()), N * 5 * (8 + 8)
        monkeypatch.setattr("csb.dtypes.installed", lambda: needed - 1)
        assert "memory; give them as .npy or HDF5" in refusal(**given)
        monkeypatch.setattr("csb.dtypes.installed", lambda: needed)
        prepared(**given)

    def test_npy(self, tmp_path):
        given, x = write(tmp_path, "npy", good()), tmp_path / "x.npy"
        for content in (x.read_bytes()[:-8], b"hello"):
            x.write_bytes(content)
            assert f"x of {x} cannot be read" in refusal(**given)
        x.unlink()
        assert "does not exist; give the .npy file of your x (data.x=…)" in refusal(**given)

    def test_hdf5(self, tmp_path, monkeypatch):
        path = tmp_path / "p.h5"
        assert "does not exist; give the HDF5 file" in refusal(path=str(path))
        with h5py.File(path, "w") as file:
            file["x"] = good()["x"]
            file.create_group("g")
        assert f"y of {path} is not among g, x; name the datasets x and y" in refusal(path=str(path))
        assert f"g of {path} is a group" in refusal(path=str(path), y="g")
        for content in (path.read_bytes()[:600], b"hello"):
            path.write_bytes(content)
            assert "cannot be read as HDF5" in refusal(path=str(path))
        monkeypatch.setitem(sys.modules, "h5py", None)
        assert refusal(path=str(path)).endswith("needs the package h5py; run pip install -e '.[hdf5]'")

    @pytest.mark.parametrize("kind", ["npy", "hdf5", "dataset"])
    def test_what_is_written_to_while_it_is_used(self, tmp_path, kind):
        items = Items(*(list(array) for array in good().values()))
        given = {"path": from_dataset(items, "growing")} if kind == "dataset" else write(tmp_path, kind, good())
        rows = prepared(**given).rows("train")
        if kind == "dataset":
            items.x.append(items.x[0])
        else:
            write(tmp_path, kind, {name: array[:200] for name, array in good().items()})
        with pytest.raises(CSBError, match=r"x of .* was float64 of shape \(300, 3\) and is float64 of shape .* now"):
            rows.read(torch.tensor([0]))

    def test_values_that_became_bad_after_the_check(self, tmp_path):
        rows = prepared(**write(tmp_path, "npy", good())).rows("train")
        write(tmp_path, "npy", bad("x", slice(None), np.nan))
        with pytest.raises(CSBError, match=r"x of .* holds values in row \d+ that are NaN"):
            rows.read(torch.tensor([0]))

    @pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs /proc")
    def test_mapped_pages_do_not_stay(self, tmp_path):
        """Reading all of a file by rows leaves none of it mapped."""
        rows = prepared(**write(tmp_path, "npy", {"x": numbers(1000, 8), "y": numbers(1000, 8)})).rows("train")
        rows.read(torch.arange(800))
        with open("/proc/self/maps") as maps:
            assert not [line for line in maps if str(tmp_path) in line]


class Failing(Items):
    def __getitem__(self, index):
        if index == 150:
            raise KeyError("no\nsuch file")
        return super().__getitem__(index)


class TestDatasets:
    @pytest.mark.parametrize(
        ("items", "message"),
        [
            ([[1, 2, 3]] * N, "an item of the dataset 'bad' is a list; expected a pair (x, y)"),
            ([], "item 0 of the dataset 'bad' cannot be had (IndexError"),
            (Items(["a"] * N, numbers(N, 2)), "x of item 0 of the dataset 'bad' is str; pass"),
            (
                Items(numbers(N, 2), [*numbers(N - 1, 2), [1.0]]),
                "y of item 299 of the dataset 'bad' has shape (1,) and that of item 0 (2,)",
            ),
            (Failing(**good()), "item 150 of the dataset 'bad' cannot be had (KeyError: 'no\\nsuch file'); fix it"),
        ],
        ids=["triples", "none", "text", "shape", "raises"],
    )
    def test_items_that_cannot_be_used(self, items, message):
        assert message in refusal(path=from_dataset(items, "bad"))

    def test_what_is_no_dataset_of_this_process(self):
        class Stream(IterableDataset):
            def __iter__(self):
                yield from ()

        with pytest.raises(CSBError, match="Stream is no map-style Dataset: it lacks __getitem__ or __len__"):
            from_dataset(Stream())
        message = "the dataset 'elsewhere' is not here.*call csb.problems.from_dataset.dataset, 'elsewhere'. in this"
        with pytest.raises(CSBError, match=message):
            prepared(path="dataset:elsewhere")
