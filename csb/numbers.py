"""Numbers as people hold them, as tensors: items of a Dataset, observations and points go through here."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csb.errors import LARGEST, CSBError

Numbers = Tensor | np.ndarray | Sequence[Any] | float
Observed = Numbers | Mapping[str, Numbers]  # y as one array, or as named parts
Array = np.ndarray[Any, Any]
_WANTED = "pass a tensor, an array or a nested list of real numbers"


def as_numbers(name: str, value: Any) -> Tensor:
    """A dense tensor of real numbers: float32, float64, or integers that keep their values.

    Values that are masked are missing, and NaN. Booleans are 0.0 and 1.0.

    Args:
        name: what messages call the value.
        value: a number, a tensor, an array (of numpy, masked or not, in any byte order and width; or of what can be
            made one, as a series or a frame of pandas), or nested lists of them.

    Raises:
        CSBError: anything else: text, objects, complex numbers, columns of a frame that hold no numbers, rows of
            different lengths, sparse tensors.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type == "meta":
            raise CSBError(f"{name} is a {value.layout} tensor on {value.device}; pass a dense one that holds numbers")
        if value.is_complex():
            raise CSBError(f"{name} is {value.dtype}; {_WANTED}")
        if value.is_floating_point():
            return value.detach().to(torch.float64 if value.dtype == torch.float64 else torch.float32)
        if value.dtype.is_signed or value.dtype == torch.uint8:
            return value
        value = value.cpu().numpy()  # torch computes little with wide unsigned integers
    if isinstance(value, str | bytes) or not (
        isinstance(value, Real | Sequence) or hasattr(value, "__array__") or hasattr(value, "to_numpy")
    ):
        raise CSBError(f"{name} is {type(value).__name__}; {_WANTED}")
    try:
        array = _array(name, value)
    except CSBError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, tensors on other devices
        raise CSBError(f"{name} is a {type(value).__name__} that is no rectangular array; {_WANTED}") from error
    if array.dtype.kind not in "fiub":
        raise CSBError(f"{name} holds values of type {array.dtype}; {_WANTED}")
    return torch.from_numpy(_native(array))


def _array(name: str, value: Any) -> Array:
    """As an array of numpy's, masked where something is."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Tensor):
        return as_numbers(name, value).numpy()
    if hasattr(value, "to_numpy"):
        return _frame(name, value)
    if isinstance(value, list | tuple) and value and not isinstance(value[0], Real | str | bytes | None):
        parts = [_array(name, part) for part in value]  # numpy by itself drops the masks of arrays in a list
        parts = _padded(parts)
        return np.ma.stack(parts) if any(np.ma.isMaskedArray(part) for part in parts) else np.stack(parts)
    return np.asarray(value)


def _padded(parts: list[Array]) -> list[Array]:
    """Series or sets (L, d) of several lengths, filled up with rows of NaN to the longest; all else as it is."""
    if len({part.shape[1:] for part in parts}) > 1 or parts[0].ndim != 2 or len({len(part) for part in parts}) == 1:
        return parts
    longest, (width,) = max(map(len, parts)), parts[0].shape[1:]
    return [np.ma.concatenate([p, np.full((longest - len(p), width), np.nan)]).filled(np.nan) for p in parts]


def _frame(name: str, value: Any) -> Array:
    """A series, or a frame column by column: a frame of several types is one of objects as a whole."""
    array = np.asarray(value.to_numpy())
    if array.dtype.kind in "fiub":
        return array
    if array.ndim != 2:
        return _column(name, value)
    return np.stack([_column(f"column {key!r} of {name}", value[key]) for key in value.columns], 1)


def _column(name: str, column: Any) -> Array:
    """A series. Of a type that has a value of its own for what is missing, this is NaN."""
    kind = getattr(column.dtype, "kind", "O")
    array = np.asarray(column.to_numpy())
    if array.dtype.kind == "O" and kind in "fiub":
        array = np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if array.dtype.kind not in "fiub":
        raise CSBError(f"{name} holds values of type {column.dtype}; leave it out or turn it into numbers")
    return array


def _native(array: Array) -> Array:
    """A copy, of a type that torch computes in, with NaN where the array is masked."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind in "fb":
        dtype = np.float32 if size <= 4 else np.float64
    elif kind == "i" or size == 1:
        dtype = array.dtype.newbyteorder("=")
    else:  # unsigned, which torch has only for single bytes
        large = size == 8 and array.size > 0 and int(np.ma.getdata(array).max()) > LARGEST
        dtype = np.float64 if large else (np.int32 if size == 2 else np.int64)
    mask = np.ma.getmaskarray(array) if np.ma.isMaskedArray(array) else None
    if mask is not None and mask.any() and kind in "iu":
        dtype = np.float64
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        found = np.array(np.ma.getdata(array), dtype=dtype, order="C")
    if mask is not None and mask.any():
        found[mask] = np.nan
    return found


def missing(values: Tensor, start: int = 0) -> str:
    """Where values (n, …) are not finite, in words, or "" where all are: the columns of vectors, and the first row."""
    wrong = ~torch.isfinite(values)
    if not bool(wrong.any()):
        return ""
    columns = wrong.any(0).nonzero()[:, 0].tolist() if values.ndim == 2 else []
    row = start + int(wrong.flatten(1).any(1).nonzero()[0])
    return f"{named(columns)}the first in row {row}"


def named(columns: list[int], most: int = 5) -> str:
    """Columns in words, "in column 3, " or "in columns 3, 4, …, "; "" without any."""
    if not columns:
        return ""
    shown = ", ".join(map(str, columns[:most])) + (", …" if len(columns) > most else "")
    return f"in column{'s' if len(columns) > 1 else ''} {shown}, "


def require_present(name: str, values: Tensor, remedy: str, gaps: bool = False) -> None:
    """CSBError where values (n, …) are NaN, as masked ones are, or infinite: the one place that refuses them.

    With ``gaps`` NaN is a missing value, and infinite ones alone are refused.
    """
    values = values.masked_fill(values.isnan(), 0) if gaps else values
    if where := missing(values):
        count = int((~torch.isfinite(values)).sum())
        dtype = str(values.dtype).removeprefix("torch.")
        raise CSBError(f"{name} holds NaN or infinite values, {count} as {dtype}, {where} (masked is NaN); {remedy}")
