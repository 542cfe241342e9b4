"""Reading pairs from an .npz file, as numpy.savez(path, x=x, y=y) writes it, and checking them.

The headers of both arrays are read and checked first: shapes and types are known, and what cannot be used is refused,
before anything is allocated. Nothing is unpickled.
"""

import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from csb.errors import CSBError, in_one_line

NAMES = ("x", "y")
LEAST = 100  # pairs
_READERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
_COPIES = 12  # bytes a number beside those in the file: as float32, in the order of the splits, and encoded


@dataclass(frozen=True)
class Header:
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype


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
        raise CSBError(f"{path} is not an .npz file ({error}); write one with numpy.savez(path, x=x, y=y)") from error


def read_headers(path: Path) -> dict[str, Header]:
    """Shape and type of x and y, checked.

    Raises CSBError for a file that is missing or no .npz, an array that is missing, of another type than numbers, or
    neither vectors (N, d) nor images (N, C, H, W), for lengths that differ, and for fewer than LEAST pairs.
    """
    with _open(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        if missing := [name for name in NAMES if name not in held]:
            raise CSBError(
                f"{path} holds {', '.join(held) or 'no array'} and no {missing[0]}; write x and y with "
                f"numpy.savez(path, x=x, y=y)"
            )
        headers = {name: _header(path, archive, name) for name in NAMES}
    x, y = headers["x"].shape, headers["y"].shape
    if x[0] != y[0]:
        raise CSBError(f"{path} holds {x[0]} x and {y[0]} y; give one y for each x, in the same order")
    if x[0] < LEAST:
        raise CSBError(f"{path} holds {x[0]} pairs; at least {LEAST} are needed to learn from and to hold out")
    return headers


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> Header:
    try:
        with archive.open(f"{name}.npy") as file:
            version = npy.read_magic(file)
            if version not in _READERS:
                raise ValueError(f"its format is {version}")
            shape, _, dtype = _READERS[version](file)
    except Exception as error:  # broken bytes make a reader raise anything
        raise CSBError(f"{name} of {path} cannot be read ({in_one_line(error)}); write the file again") from error
    if dtype.kind not in "fiub":
        raise CSBError(f"{name} of {path} has the type {dtype}; expected real numbers; convert it, e.g. to float32")
    if len(shape) not in (2, 4):
        raise CSBError(
            f"{name} of {path} has shape {shape}; expected vectors (N, d) or images (N, C, H, W); reshape it"
        )
    if 0 in shape[1:]:
        raise CSBError(f"{name} of {path} has shape {shape}, which holds no numbers; give at least one for each pair")
    return Header(tuple(shape), dtype)


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_pairs(path: Path) -> tuple[Tensor, Tensor]:
    """x (N, …) and y (N, …), float32, checked.

    Raises CSBError as :func:`read_headers`, for arrays that do not fit into memory, a damaged file, values that are not
    finite as float32, and columns of vectors that are constant.
    """
    headers = read_headers(path)
    needed = sum(math.prod(h.shape) * (h.dtype.itemsize + _COPIES) for h in headers.values())
    if needed > memory():
        raise CSBError(
            f"the pairs of {path} take about {needed / 2**30:.1f} GiB and this machine has {memory() / 2**30:.1f} GiB "
            f"of memory; give fewer or smaller ones"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = (_as_float32(file[name]) for name in NAMES)
    except Exception as error:  # broken bytes make a reader raise anything
        raise CSBError(f"{path} is damaged ({in_one_line(error)}); write it again") from error
    for name, array in (("x", x), ("y", y)):
        _check_values(path, name, array)
    return torch.from_numpy(x), torch.from_numpy(y)


def _as_float32(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):  # what becomes infinite is told by the check of the values
        return np.ascontiguousarray(array, dtype=np.float32)


def _check_values(path: Path, name: str, array: np.ndarray[Any, Any]) -> None:
    rows = array.reshape(len(array), -1)
    bad = (~np.isfinite(rows)).sum(1)
    if count := int(bad.sum()):
        raise CSBError(
            f"{name} of {path} holds {count} values that are NaN, infinite or beyond the range of float32, the first "
            f"in row {int(np.flatnonzero(bad)[0])}; mend or leave out these pairs"
        )
    if array.ndim == 2 and len(constant := np.flatnonzero(rows.min(0) == rows.max(0))):
        column = int(constant[0])
        raise CSBError(
            f"column {column} of {name} of {path} is constant at {rows[0, column]:g} in all rows; leave it out, there "
            f"is nothing to learn from it"
        )
