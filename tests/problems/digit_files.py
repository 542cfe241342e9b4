"""Small fabricated files in place of MNIST's."""

import hashlib

import numpy as np
import pytest

from csb.problems import mnist

N_TRAIN, N_VALID, N_TEST = 5_000, 20, 30


@pytest.fixture(scope="session")
def splits():
    """What the wheel's pickle holds, smaller."""
    rng = np.random.default_rng(0)

    def split(n):
        pixels = rng.integers(0, 256, (n, 784)).astype(np.float32) / 256
        return pixels, rng.integers(0, 10, n)

    return split(N_TRAIN), split(N_VALID), split(N_TEST)


@pytest.fixture(scope="session")
def data(splits, tmp_path_factory):
    """A data folder that holds the fabricated files, and their MD5s."""
    folder = tmp_path_factory.mktemp("data")
    raw = mnist.raw_folder(folder)
    raw.mkdir(parents=True)
    mnist.write_idx(raw, splits)
    return folder, {n: hashlib.md5((raw / n).read_bytes()).hexdigest() for n in mnist.MD5}


@pytest.fixture
def root(data, monkeypatch):
    """That folder; its files count as MNIST's, and nothing else is asked for them."""
    monkeypatch.setattr(mnist, "MD5", data[1])
    monkeypatch.setattr(mnist, "SOURCES", ())
    return data[0]
