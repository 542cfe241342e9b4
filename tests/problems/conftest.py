"""Pairs, written as each of the kinds of source that own pairs may come from; small files in place of MNIST's."""

import hashlib
import io

import h5py
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset

from csb.problems import FilePairs, from_dataset, mnist
from tests.conftest import one_line

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


def write(folder, kind, arrays):
    """Arguments of FilePairs for the arrays, written as that kind."""
    folder.mkdir(exist_ok=True)
    if kind == "npz":
        np.savez(folder / "p.npz", **arrays)
        return {"path": str(folder / "p.npz")}
    if kind == "npy":
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return {name: str(folder / f"{name}.npy") for name in ("x", "y")}
    if kind == "hdf5":
        with h5py.File(folder / "p.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
        return {"path": str(folder / "p.h5")}
    return {"path": from_dataset(Items(arrays["x"], arrays["y"]), str(folder))}


def prepared(**arguments):
    """As a training does it: shapes and sizes first, then the check of all pairs."""
    problem = FilePairs(**arguments)
    problem.new_transform()
    assert sum(problem.sizes.values()) > 0
    problem.prepare()
    return problem


def refusal(**arguments):
    message = one_line(lambda: prepared(**arguments))
    assert 20 < len(message) < 600
    return message


MAP_SHAPE = (180, 1080)  # bands of 60 columns


def made_up_map():
    """A JPEG of red and grey land in blocks of 20 pixels, and of blue sea, in place of the Blue Marble."""
    rng, blocks = np.random.default_rng(0), (MAP_SHAPE[0] // 20, MAP_SHAPE[1] // 20, 1)
    land = rng.integers(60, 220, blocks) * np.array([1.0, 0.8, 0.6])
    sea = np.array([10, 40, 120]) + rng.integers(0, 90, blocks)
    is_sea = rng.random(blocks) < 0.3
    is_sea[: blocks[0] // 2] |= rng.random(blocks[1:]) < 0.5  # whole columns in the north
    pixels = np.where(is_sea, sea, land).repeat(20, 0).repeat(20, 1) + rng.normal(0, 5, (*MAP_SHAPE, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


N_TRAIN, N_VALID, N_TEST = 5_000, 20, 30


@pytest.fixture(scope="session")
def splits():
    """What the pickle of MNIST's wheel holds, smaller."""
    rng = np.random.default_rng(0)

    def split(n):
        return rng.integers(0, 256, (n, 784)).astype(np.float32) / 256, rng.integers(0, 10, n)

    return split(N_TRAIN), split(N_VALID), split(N_TEST)


@pytest.fixture(scope="session")
def data(splits, tmp_path_factory):
    """A data folder that holds the small files, and their MD5s."""
    folder = tmp_path_factory.mktemp("data")
    raw = mnist.files_of(folder).folder
    raw.mkdir(parents=True)
    mnist.write_idx(raw, splits)
    return folder, {n: hashlib.md5((raw / n).read_bytes()).hexdigest() for n in mnist.MD5}


@pytest.fixture
def root(data, monkeypatch):
    """That folder; its files count as MNIST's, and nothing else is asked for them."""
    monkeypatch.setattr(mnist, "MD5", data[1])
    monkeypatch.setattr(mnist, "SOURCES", ())
    return data[0]
