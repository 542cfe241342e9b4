"""Observations from a file of numpy's: .npy, or an array of an .npz."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csb.errors import CSBError


def read_observations(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """The observations of a file, float32, (B, *shape); a single one, of ``shape``, gives B = 1.

    Args:
        path: a .npy file, or an .npz file with an array named y, or with one array of any name.
        shape: of one observation.

    Raises:
        CSBError: no such file or array, anything but numbers (pickled objects are never loaded), another shape, no
            observation at all, or values that are not finite as float32.
    """
    found = _array(Path(path))
    if found.dtype.kind not in "fiub":
        raise CSBError(f"y={path} holds values of type {found.dtype}; give real numbers")
    if found.shape != shape and (found.ndim == 0 or found.shape[1:] != shape):
        raise CSBError(f"y={path} has shape {found.shape}; give one observation {shape} or several {_batch(shape)}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is told below
        y = torch.from_numpy(found.astype(np.float32))
    if y.numel() == 0:
        raise CSBError(f"y={path} has shape {found.shape}, which is no observation; give at least one")
    if bad := int((~torch.isfinite(y)).sum()):
        raise CSBError(f"y={path} holds {bad} values that are NaN or infinite as float32; give finite observations")
    return y[None] if found.shape == shape else y


def _batch(shape: tuple[int, ...]) -> str:
    return f"(B, {', '.join(map(str, shape))})"


def _array(path: Path) -> np.ndarray[Any, Any]:
    if not path.is_file():
        raise CSBError(f"y={path} is not a file; give a .npy or .npz file of observations")
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                return found
            return found[_name(path, found.files)]
    except CSBError:
        raise
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        said = " ".join(str(error).split())
        raise CSBError(f"cannot read y={path} ({said}); give a .npy or .npz file of numbers") from error


def _name(path: Path, names: list[str]) -> str:
    if "y" in names:
        return "y"
    if len(names) != 1:
        held = f"the arrays {', '.join(names)}" if names else "no array"
        raise CSBError(f"y={path} holds {held}; give a file with an array named y, or with one array")
    return names[0]
