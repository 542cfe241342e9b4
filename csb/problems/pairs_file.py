"""Reading pairs from an .npz file, as numpy.savez(path, x=x, y=y) writes it, and what any source of pairs must fulfil.

The headers of both arrays are read and checked first: shapes and types are known, and what cannot be used is refused,
before anything is allocated. Nothing is unpickled.
"""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from csb.errors import CSBError, in_one_line
from csb.memory import require_memory
from csb.problems.robust import is_coarse

NAMES: tuple[str, str] = ("x", "y")
LEAST = 100  # pairs
_READERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
SOME = 1000  # rows that tell whether float32 will do
_CHANNELS = (1, 3, 4)  # of images in common formats
_NORMAL_RANGE = 3.29  # of N(0, 1) from its quantile .05 to .95
MISSING = "NaN, infinite or beyond the range of float32"
REMEDY = "fix or leave out these pairs, or give data.drop_nan=true"
_COPIES = 12  # bytes a number beside those in the file: as float32, in the order of the splits, and encoded


@dataclass(frozen=True)
class Header:
    """Shape and type of an array in a file; (N,) is that of N vectors of one coordinate, (N, 1)."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __post_init__(self) -> None:
        if len(self.shape) == 1:
            object.__setattr__(self, "shape", (*self.shape, 1))


def _open(path: Path) -> zipfile.ZipFile:
    if not path.exists():
        raise CSBError(f"{path} does not exist; give the .npz file of your pairs (data.path=…)")
    if not path.is_file():
        raise CSBError(f"{path} is not a file; give the .npz file of your pairs (data.path=…)")
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise CSBError(f"{path} cannot be read ({error.strerror}); give a file that can (data.path=…)") from error
    except zipfile.BadZipFile as error:
        if path.suffix == ".npy":
            raise CSBError(
                f"{path} is not an .npz file but one array; give two, data.x={path} data.y=…, and no data.path"
            ) from error
        raise CSBError(f"{path} is not an .npz file ({error}); write one with numpy.savez(path, x=x, y=y)") from error


def read_headers(path: Path, names: tuple[str, str] = NAMES) -> dict[str, Header]:
    """Shape and type of x and y, the arrays of these names, checked.

    Raises CSBError for a file that is missing or no .npz, an array that is missing, and as :func:`check_headers`.
    """
    with _open(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        if missing := [name for name in names if name not in held]:
            raise CSBError(
                f"{path} holds {', '.join(held) or 'no array'} and no {missing[0]}; write x and y with "
                f"numpy.savez(path, x=x, y=y)"
            )
        headers = {}
        for key, name in zip(NAMES, names):
            with archive_member(path, archive, name) as file:
                headers[key] = read_header(f"{name} of {path}", file)
    check_headers(headers, {key: f"{name} of {path}" for key, name in zip(NAMES, names)}, str(path))
    return headers


@contextmanager
def archive_member(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """An array of the archive, opened. CSBError where it is damaged."""
    try:
        file = archive.open(f"{name}.npy")
    except Exception as error:  # broken bytes make a reader raise anything
        raise CSBError(f"{name} of {path} cannot be read ({in_one_line(error)}); write the file again") from error
    with file:
        yield file


def read_header(label: str, file: IO[bytes]) -> Header:
    """The header of an array in numpy's format, which names it as ``label`` in messages. CSBError where it is none."""
    try:
        version = npy.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"its format is {version}")
        shape, _, dtype = _READERS[version](file)
    except Exception as error:  # broken bytes make a reader raise anything
        raise CSBError(f"{label} cannot be read ({in_one_line(error)}); write the file again") from error
    return Header(tuple(shape), dtype)


def check_headers(headers: dict[str, Header], labels: dict[str, str], where: str) -> None:
    """What every source of pairs must fulfil.

    Raises CSBError for an array of another type than real numbers, or that holds neither vectors (N, d) nor images (N,
    C, H, W), for lengths that differ, and for fewer than LEAST pairs.

    Args:
        headers, labels: of x and y; what messages call them.
        where: what messages call the two together.
    """
    for key, header in headers.items():
        label, shape = labels[key], header.shape
        if header.dtype.kind not in "fiub":
            raise CSBError(f"{label} has the type {header.dtype}; expected real numbers; convert it, e.g. to float32")
        if len(shape) not in (2, 4):
            raise CSBError(f"{label} has shape {shape}; expected vectors (N, d) or images (N, C, H, W); reshape it")
        if len(shape) == 4 and shape[3] in _CHANNELS and shape[1] not in _CHANNELS and shape[2] > shape[3]:
            raise CSBError(
                f"{label} has shape {shape}, which looks like (N, H, W, C); images are (N, C, H, W): give "
                f"numpy.moveaxis(…, -1, 1)"
            )
        if 0 in shape[1:]:
            raise CSBError(f"{label} has shape {shape}, which holds no numbers; give at least one for each pair")
    x, y = headers["x"].shape, headers["y"].shape
    if x[0] != y[0]:
        raise CSBError(f"{where} holds {x[0]} x and {y[0]} y; give one y for each x, in the same order")
    if x[0] < LEAST:
        raise CSBError(f"{where} holds {x[0]} pairs; at least {LEAST} are needed to learn from and to hold out")


def read_pairs(path: Path, names: tuple[str, str] = NAMES) -> tuple[Tensor, Tensor]:
    """x (N, …) and y (N, …), float32, or float64 where float32 is too coarse; their values are not checked.

    Raises CSBError as :func:`read_headers`, for arrays that do not fit into memory, and for a damaged file.
    """
    headers = read_headers(path, names)
    needed = sum(math.prod(h.shape) * (h.dtype.itemsize + _COPIES) for h in headers.values())
    require_memory(needed, f"the pairs of {path}", "give them as .npy or HDF5, which are read by rows, or fewer")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in names]
            rows = np.linspace(0, len(arrays[0]) - 1, min(SOME, len(arrays[0]))).astype(np.int64)
            x, y = (torch.from_numpy(as_floats(array, is_wide(array[rows]))) for array in arrays)
    except Exception as error:  # broken bytes make a reader raise anything
        raise CSBError(f"{path} is damaged ({in_one_line(error)}); write it again") from error
    return x, y


def as_floats(array: np.ndarray[Any, Any], wide: bool = False) -> np.ndarray[Any, Any]:
    """As float32, or float64 where ``wide``; without a warning: the check of values tells what became infinite."""
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, dtype=np.float64 if wide else np.float32)
    return found[:, None] if found.ndim == 1 else found


def is_wide(array: np.ndarray[Any, Any]) -> bool:
    """Whether float32 is too coarse for some column of an array (n, …) of a wider type, for its distance from 0.

    The median and the range from the quantile .05 to .95 tell, so that no row far out does.
    """
    if np.can_cast(array.dtype, np.float32):
        return False
    values = as_floats(array, wide=True)
    values = values[np.isfinite(values).all(tuple(range(1, values.ndim)))]  # the others are refused or left out
    if not len(values):
        return False
    values = (np.moveaxis(values, 1, -1) if values.ndim == 4 else values).reshape(-1, values.shape[1])
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), axis=0, method="nearest")
    return bool(is_coarse(torch.from_numpy(middle), torch.from_numpy((high - low) / _NORMAL_RANGE)).any())
