"""Pairs, written as each of the kinds of source that own pairs may come from."""

import h5py
import numpy as np
import pytest
from torch.utils.data import Dataset

from csb.errors import CSBError
from csb.problems import FilePairs, from_dataset

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
                file.create_dataset(name, data=array, **options)
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
    with pytest.raises(CSBError) as error:
        prepared(**arguments)
    message = str(error.value)
    assert "\n" not in message
    assert 20 < len(message) < 600
    return message
