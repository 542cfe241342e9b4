"""One reading of all own pairs: their digest, and what of them cannot be learned from, in one line."""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.numbers import named
from csb.problems.bounded import Support
from csb.problems.kinds import WHOLE
from csb.problems.parts import views
from csb.problems.rows import NAMES, REMEDY, UNUSABLE, Rows, unusable


def read_all(rows: Rows, support: Support | None, kinds: Sequence[str]) -> tuple[str, Tensor]:
    """The digest of x and y and the largest of each number of x, from one reading of all pairs.

    CSBError for values that are not finite as float32 (NaN in y is missing), columns of vectors that are constant or
    missing, x outside the bounds, and fractions where the kinds (d of them, or none) say that x is whole. A second
    reading finds what is wrong where.
    """
    whole = torch.tensor([kind in WHOLE for kind in kinds], dtype=torch.bool)
    digests = [hashlib.sha256() for _ in NAMES]  # one each: the digest does not depend on the blocks
    ends: dict[str, tuple[Tensor, Tensor]] = {}  # the least and the largest of each number; NaN where one is, in x
    for numbers, *both in rows.chunks():
        for name, digest, values in zip(NAMES, digests, both):
            digest.update(values.numpy().tobytes())
            if name == "x" and len(whole) and bool((bad := (values % 1 > 0) & whole).any()):
                row, column = bad.nonzero()[0].tolist()
                raise CSBError(
                    f"column {column} of {rows.source.labels[name]} is {float(values[row, column]):g} in row "
                    f"{int(numbers[row])}; as {kinds[column]} it must be whole: round it, or call it real"
                )
            least, largest = values, values
            if name == "y":  # whose NaN are missing
                least, largest = (values.nan_to_num(empty, math.inf, -math.inf) for empty in (math.inf, -math.inf))
            low, high = ends.get(name, (least[0], largest[0]))
            ends[name] = low.minimum(least.amin(0)), high.maximum(largest.amax(0))
    for name in NAMES:
        _require_usable(rows, name, *ends[name])
    if support is not None and not bool(support.contains(torch.stack(ends["x"])).all()):
        raise CSBError(_outside(rows, support))
    named_parts = repr(rows.source.parts).encode() if rows.source.parts else b""
    return hashlib.sha256(b"".join(digest.digest() for digest in digests) + named_parts).hexdigest(), ends["x"][1]


def _require_usable(rows: Rows, name: str, low: Tensor, high: Tensor) -> None:
    """CSBError where x, or y, cannot be learned from, by the least and the largest of each number."""
    label, bad = rows.source.labels[name], ~(low.isfinite() & high.isfinite() | (low > high))
    if bool(bad.any()):
        count, row, _ = _found(rows, name, lambda values: unusable(name, values))
        columns = bad.nonzero()[:, 0].tolist() if low.ndim == 1 else []
        where = f"{named(columns)}the first in row {row}"
        raise CSBError(f"{label} holds {count} values that are {UNUSABLE[name]}, {where}; {REMEDY}")
    parts = rows.source.parts if name == "y" else None
    labels = [label] if parts is None else [f"{part} of {label}" for part in parts]
    for label, (least,), (most,) in zip(labels, views(low[None], parts), views(high[None], parts)):
        if least.ndim == 1 and len(absent := (least > most).nonzero()):
            raise CSBError(f"column {int(absent[0])} of {label} is missing in all rows; leave it out")
        if least.ndim == 1 and len(same := (least == most).nonzero()):
            number = int(same[0])
            raise CSBError(
                f"column {number} of {label} is constant at {float(least[number]):g} in all rows; leave it out, there "
                f"is nothing to learn from it"
            )


def _outside(rows: Rows, support: Support) -> str:
    """Which x lie outside the bounds, and what to do."""
    count, row, x = _found(rows, "x", lambda values: ~support.contains(values)[:, None])
    low, high = (side.expand(1, *x.shape)[0] for side in support.tensors(x[None]))
    at = tuple(int(i) for i in ((x < low) | (x > high)).nonzero()[0])
    what = f"column {at[0]}" if len(at) == 1 else f"pixel {at}"
    return (
        f"{count} of the {len(rows)} x of {rows.source.where} lie outside the bounds, the first in row {row}: {what} "
        f"is {float(x[at]):g} and not in [{float(low[at]):g}, {float(high[at]):g}]; fix the bounds (problem.low, "
        f"problem.high) or leave out these pairs"
    )


def _found(rows: Rows, name: str, wrong: Callable[[Tensor], Tensor]) -> tuple[int, int, Tensor]:
    """How many values (n, …) of x, or of y, are wrong; the row of the first, and what it holds."""
    count, first = 0, (-1, torch.empty(0))
    for numbers, *both in rows.chunks():
        values = both[NAMES.index(name)]
        bad = wrong(values)
        if not count and bool(bad.any()):
            index = int(bad.flatten(1).any(1).nonzero()[0])
            first = int(numbers[index]), values[index]
        count += int(bad.sum())
    return count, *first
