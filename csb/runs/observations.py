"""Observations from a file of numpy's: .npy, or an array of an .npz."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csb.bridge.samples import as_floats, batched
from csb.errors import CSBError, in_one_line
from csb.numbers import require_present


def read_observations(
    path: str | Path, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, any_units: bool = False
) -> Tensor:
    """The observations of a file, (B, *shape); a single one, of ``shape``, gives B = 1.

    Args:
        path: a .npy file, or an .npz file with an array named y, or with one array of any name.
        shape: of one observation.
        dtype: float64 where float32 is too coarse for them.
        any_units: of images, see :class:`csb.problems.transform.Transform`.

    Raises:
        CSBError: no such file or array, anything but numbers (pickled objects are never loaded), another shape, no
            observation at all, values that are not finite in this dtype, or whole numbers for pixels in [0, 1].
    """
    name, cpu = f"y={path}", torch.device("cpu")
    y = as_floats(name, _array(Path(path)), shape, cpu, dtype, any_units)
    found = batched(y, shape)
    if found is None or y.numel() == 0:
        several = f"(B, {', '.join(map(str, shape))})"
        raise CSBError(f"{name} has shape {tuple(y.shape)}; give one observation {shape} or several {several}")
    require_present(name, found[0], "give finite observations")
    return found[0]


def _array(path: Path) -> np.ndarray[Any, Any]:
    if not path.is_file():
        raise CSBError(f"y={path} is not a file; give a .npy or .npz file of observations")
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            names = found.files
            if "y" in names or len(names) == 1:
                return found["y" if "y" in names else names[0]]
    except MemoryError:
        raise
    except Exception as error:  # damaged headers and archives raise whatever the parser of the moment does
        raise CSBError(f"cannot read y={path} ({in_one_line(error)}); give a .npy or .npz file of numbers") from error
    held = f"the arrays {', '.join(names)}" if names else "no array"
    raise CSBError(f"y={path} holds {held}; give a file with an array named y, or with one array")
