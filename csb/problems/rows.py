"""Pairs that are read by rows, as there may be more than memory holds; their mean, spread and finest scale.

They lie in anything that indexes like an array along its first axis: tensors, arrays in memory, memory maps of files,
datasets of HDF5, the items of a torch Dataset.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.parts import views

Array = np.ndarray[Any, Any]
Numbers = Tensor | slice  # of rows: (B,), int64, or a slice with a start and a stop
NAMES: tuple[str, ...] = ("x", "y")
UNUSABLE = {  # values: NaN stands for a missing one in y
    "x": "NaN, infinite or beyond the range of float32",
    "y": "infinite or beyond the range of float32",
}
REMEDY = "fix or leave out these pairs, or give data.drop_nan=true"
_BLOCK_ROWS, _BLOCK_BYTES = 8192, 16 * 2**20
_SOME = 1000  # rows that tell whether float32 will do
_NORMAL_RANGE = 3.29  # of N(0, 1) from its quantile .05 to .95
COARSE = 1e3  # |location|/spread from which float32 is too coarse: its spacing is seen in narrow posteriors
FEWEST = 50  # pairs that show a finest scale
_PROBES, _POOL, _POOL_BYTES = 256, 100_000, 256 * 2**20
_LEAST_PROBES, _PROBED = 16, 2**24  # probes in many dimensions; numbers of neighbours held at once
_LONG = 512  # numbers of c beyond which nothing is regressed on it: that would take gigabytes, and minutes
_SHARE = 0.1  # of probes whose structure is at least this fine


class Pairs(NamedTuple):
    """N pairs: x (N, *x_shape) and y (N, *y_shape), float32; labels (N,), int64, or None where there are none."""

    x: Tensor
    y: Tensor
    labels: Tensor | None = None


class Header(NamedTuple):
    """Shape (N, …) and type of an array."""

    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def of(cls, shape: tuple[int, ...] | None, dtype: Any) -> Self:
        """(N,) stands for N vectors of one coordinate, (N, 1)."""
        shape = tuple(shape or ())
        return cls((*shape, 1) if len(shape) == 1 else shape, dtype)

    @classmethod
    def of_all(cls, arrays: Mapping[str, Any]) -> dict[str, Self]:
        return {name: cls.of(array.shape, array.dtype) for name, array in arrays.items()}


@dataclass(frozen=True, eq=False)
class Source:
    """Where pairs lie: in anything that has a shape and a type, and indexes like an array along its first axis.

    Args:
        where: what messages call them.
        labels: what messages call x and y.
        opened: opens the arrays of some names for one reading. Tensors are taken as they are, other arrays are read as
            float32, or as float64 where float32 is too coarse.
        headers: of x and y, and of the labels where there are any.
        in_memory: whether the pairs lie in memory, so that another copy of them fits as well.
        parts: the shapes by name of a y of named parts (:mod:`csb.problems.parts`), else None.
    """

    where: str
    labels: dict[str, str]
    opened: Callable[[tuple[str, ...]], AbstractContextManager[Mapping[str, Any]]]
    headers: dict[str, Header]
    in_memory: bool = False
    parts: dict[str, tuple[int, ...]] | None = None

    @classmethod
    def of(cls, where: str, arrays: Mapping[str, Any], in_memory: bool, parts: Any = None) -> Self:
        """That of arrays which are open."""
        labels = {name: name for name in arrays}
        return cls(where, labels, lambda _: nullcontext(arrays), Header.of_all(arrays), in_memory, parts)

    def _picked(self, rows: Numbers, names: tuple[str, ...]) -> list[Any]:
        """Copies of these rows, which hold no file open. CSBError for arrays that are not those of the headers."""
        with self.opened(names) as arrays:
            for name, new in Header.of_all({name: arrays[name] for name in names}).items():
                if new != (old := self.headers[name]):
                    raise CSBError(
                        f"{self.labels[name]} was {old.dtype} of shape {old.shape} and is {new.dtype} of shape "
                        f"{new.shape} now; restore it, and do not write to it while it is used"
                    )
            return [_rows_of(arrays[name], rows) for name in names]

    @cached_property
    def wide(self) -> dict[str, bool]:
        """Whether x, and y, are read as float64, by some rows from the beginning to the end."""
        names = tuple(name for name in NAMES if not np.can_cast(self.headers[name].dtype, np.float32))
        count = self.headers["x"].shape[0]
        rows = torch.from_numpy(np.linspace(0, count - 1, min(_SOME, count)).astype(np.int64))
        found = dict(zip(names, self._picked(rows, names))) if names else {}
        return {name: name in found and is_wide(found[name]) for name in NAMES}

    def take(self, rows: Numbers, names: tuple[str, ...] = NAMES) -> list[Tensor]:
        """These rows of the arrays of these names, not checked."""
        return [
            found if isinstance(found, Tensor) else torch.from_numpy(as_floats(found, self.wide[name]))
            for name, found in zip(names, self._picked(rows, names))
        ]


def _rows_of(array: Any, rows: Numbers) -> Any:
    if isinstance(array, Tensor):
        return array[rows]
    if isinstance(rows, slice):
        return np.array(array[rows])
    if isinstance(array, np.ndarray):
        return array[rows.numpy()]
    unique, back = np.unique(rows.numpy(), return_inverse=True)  # h5py wants them in order and each once
    return array[unique][back]


def _within(count: int, size: int, *shapes: tuple[int, ...]) -> int:
    """How many pairs of these shapes are at most ``count`` and at most ``size`` bytes as float32."""
    return min(count, size // (4 * sum(torch.Size(shape).numel() for shape in shapes)))


class Rows:
    """N pairs of a source: all of them, or some in an order of their own.

    Args:
        source: of the pairs.
        order: (N,), int64: the rows of the source that these are, each once; None for all.
        base: the pairs in whose order :meth:`blocks` goes through these; None for their own.
    """

    def __init__(self, source: Source, order: Tensor | None = None, base: Self | None = None) -> None:
        self.source, self.order, self.base = source, order, base
        self.in_memory = source.in_memory
        self.x_shape, self.y_shape = (source.headers[name].shape[1:] for name in NAMES)

    @classmethod
    def of(cls, pairs: Pairs) -> Self:
        """The rows of tensors."""
        tensors = {name: value for name, value in pairs._asdict().items() if value is not None}
        return cls(Source.of("the pairs", tensors, in_memory=True))

    def __len__(self) -> int:
        return self.source.headers["x"].shape[0] if self.order is None else len(self.order)

    def split(self, numbers: Tensor) -> "Rows":
        """Those of these numbers (n,), int64, in this order; :meth:`blocks` reads them in the order of the whole."""
        return Rows(self.source, numbers if self.order is None else self.order[numbers], self)

    def finite(self) -> "Rows":
        """Those in which every number of x and y is finite, which one reading of all finds, in this order."""
        kept = [
            numbers[torch.isfinite(x).flatten(1).all(1) & torch.isfinite(y).flatten(1).all(1)]
            for numbers, x, y in self.chunks()
        ]
        return Rows(self.source, torch.cat(kept))

    def read(self, indices: Numbers) -> Pairs:
        """The pairs of these numbers (B,), int64 in 0..len − 1, in this order. CSBError where they cannot be had."""
        return Pairs(*self._read(indices, tuple(self.source.headers)))

    def read_y(self, indices: Numbers) -> Tensor:
        """The y of :meth:`read` alone."""
        return self._read(indices, ("y",))[0]

    def head(self, n: int) -> Pairs:
        """The first n pairs; all of them where there are fewer."""
        return self.read(slice(0, min(n, len(self))))

    def _read(self, indices: Numbers, names: tuple[str, ...]) -> list[Tensor]:
        rows = indices if self.order is None else self.order[indices]
        found = self.source.take(rows, names)
        of_tensors = isinstance(self.source.headers["x"].dtype, torch.dtype)
        for name, values in zip(names, () if of_tensors else found):  # to ask tensors of a GPU is to wait for it
            if bool((wrong := unusable(name, values)).any()):
                wrong = wrong.flatten(1).any(1)
                row = int((torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)[wrong][0])
                raise CSBError(
                    f"{self.source.labels[name]} holds values in row {row} that are {UNUSABLE[name]}; {REMEDY}"
                )
        return found

    def chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(rows of the source, x, y) of all pairs, at most 8192 and 16 MiB at a time, in their order, not checked."""
        size = max(1, _within(_BLOCK_ROWS, _BLOCK_BYTES, self.x_shape, self.y_shape))
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            rows = torch.arange(part.start, part.stop) if self.order is None else self.order[part]
            x, y = self.source.take(part if self.order is None else rows)
            yield rows, x, y

    def blocks(self) -> Iterator[Pairs]:
        """All pairs, as :meth:`chunks` takes them, in the order in which they are quick to read."""
        if self.base is None:
            yield from (Pairs(x, y) for _, x, y in self.chunks())
            return
        ours = torch.zeros(self.source.headers["x"].shape[0], dtype=torch.bool)
        ours[self.order] = True
        for rows, x, y in self.base.chunks():
            yield Pairs(x[ours[rows]], y[ours[rows]])


def unusable(name: str, values: Tensor) -> Tensor:
    """What cannot be learned from in x, or y: infinite values, and NaN, which in y stands for a missing value."""
    return values.isinf() if name == "y" else ~torch.isfinite(values)


def as_floats(array: Array, wide: bool = False) -> Array:
    """As float32, or float64 where ``wide``; without a warning: the check of values tells what became infinite."""
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, dtype=np.float64 if wide else np.float32)
    return found[:, None] if found.ndim == 1 else found


def is_wide(array: Array) -> bool:
    """Whether float32 is too coarse for some column of an array (n, …) of a wider type, for its distance from 0.

    The median and the range from the quantile .05 to .95 tell, so that no row far out does.
    """
    values = as_floats(array, wide=True)
    values = np.moveaxis(values, 1, -1) if values.ndim == 4 else values
    for column in values.reshape(-1, values.shape[-1]).T:
        finite = column[np.isfinite(column)]  # NaN is missing, or refused
        low, middle, high = np.quantile(finite, (0.05, 0.5, 0.95), method="nearest") if len(finite) else (0, 0, 0)
        if abs(middle) > COARSE * (high - low) / _NORMAL_RANGE:
            return True
    return False


def pool(z_shape: tuple[int, ...], c_shape: tuple[int, ...]) -> int:
    """How many pairs the scale is read off at most: 100,000, and 256 MiB as float32."""
    return max(FEWEST, _within(_POOL, _POOL_BYTES, z_shape, c_shape))


def _summary(c: Tensor) -> Tensor:
    """Observations (N, …) as vectors (N, m), 0 where a value is missing; mean and spread of the rows of (N, L, d)."""
    if c.ndim != 3:
        return c.flatten(1).nan_to_num(0.0)
    mean = c.nanmean(1, keepdim=True)
    return torch.cat([mean[:, 0], (c - mean).square().nanmean(1).sqrt()], 1).nan_to_num(0.0)


def finest_scale(z: Tensor, c: Tensor, generator: torch.Generator, parts: Mapping[str, Any] | None = None) -> float:
    """The standard deviation of z given c in its narrowest direction, at the finest tenth of places.

    Around a probe, its nearest neighbours among all pairs (z, c) are regressed linearly on c, where they suffice and c
    has 512 numbers at most; the narrowest principal direction of what is left has the standard deviation that the last
    steps of a bridge must resolve: the width of a crescent, of the narrow part of a mixture, or of observation noise.
    Of sparse data, whose neighbours lie far apart, the number says how finely they themselves are known. CSBError for
    fewer than 50 pairs.

    Args:
        z, c: (N, …) each, of about unit scale; of a c in rows (N, L, d), the mean and spread of each column count.
        generator: draws the probes.
        parts: of a c of named parts, their shapes.
    """
    most = pool(tuple(z.shape[1:]), tuple(c.shape[1:]))
    z, c = z[:most].flatten(1).double(), torch.cat([_summary(v) for v in views(c[:most].double(), parts)], 1)
    if len(z) < FEWEST:
        raise CSBError(f"{len(z)} pairs are too few to see the data's finest scale; give schedule.power or more pairs")
    d, m = z.shape[1], c.shape[1]
    m = m if m <= _LONG else 0
    count = min(len(z), max(8 * d, 2 * (d + m)) + m + 1)
    both = torch.cat([z, c], 1).float()
    if count <= m + 1 + 2 * d:  # too few pairs for a regression on a c this long
        m = 0
    widths, number = [], min(_PROBES, max(_LEAST_PROBES, _PROBED // (count * d)))
    probes = both[torch.randint(len(both), (number,), generator=generator)]
    for some in probes.split(min(32, max(1, _PROBED // (count * (d + m))))):
        near = torch.cdist(some, both).topk(count, largest=False).indices
        inputs = torch.cat([torch.ones(*near.shape, 1, dtype=torch.float64), c[:, :m][near]], 2)
        left = z[near] - inputs @ torch.linalg.lstsq(inputs, z[near]).solution
        widths.append(torch.linalg.svdvals(left)[:, -1] / (count - m - 1) ** 0.5)
    return float(torch.cat(widths).quantile(_SHARE))
