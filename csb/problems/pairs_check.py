"""The check of all pairs of a source, a block at a time: one reading of everything, before any work starts."""

import hashlib

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.numbers import named
from csb.problems.pairs_file import MISSING, NAMES, REMEDY
from csb.problems.sources import Source
from csb.problems.support import Support


class _Tally:
    """What is wrong with x, or with y, so far."""

    def __init__(self, label: str, support: Support | None) -> None:
        self.label, self.support = label, support
        self.bad = self.outside = 0
        self.first: int | None = None  # row with a bad value
        self.columns: set[int] = set()  # of vectors, with one
        self.leaves = ""  # what the first x outside the bounds is
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add(self, start: int, values: Tensor) -> None:
        """A block (n, …) that starts at this row."""
        bad = ~torch.isfinite(values)
        wrong = bad.flatten(1).sum(1)
        if (count := int(wrong.sum())) and self.first is None:
            self.first = start + int(wrong.nonzero()[0])
        self.bad += count
        if values.ndim == 2:
            self.columns.update(bad.any(0).nonzero()[:, 0].tolist())
            low, high = values.amin(0), values.amax(0)
            self.low = low if self.low is None else self.low.minimum(low)
            self.high = high if self.high is None else self.high.maximum(high)
        if self.support is not None:
            self._place(start, values, self.support)

    def _place(self, start: int, x: Tensor, support: Support) -> None:
        outside = ~support.contains(x)
        if (count := int(outside.sum())) and not self.outside:
            row = int(outside.nonzero()[0])
            low, high = support.tensors(x)
            column = int(((x[row] < low) | (x[row] > high)).nonzero()[0])
            self.leaves = (
                f"the first in row {start + row}: column {column} is {float(x[row, column]):g} and not in "
                f"[{float(low[column]):g}, {float(high[column]):g}]"
            )
        self.outside += count

    def require(self) -> None:
        """CSBError where values are not finite as float32, or a column of vectors is constant."""
        if self.bad:
            raise CSBError(
                f"{self.label} holds {self.bad} values that are {MISSING}, {named(sorted(self.columns))}the first in "
                f"row {self.first}; {REMEDY}"
            )
        if self.low is not None and self.high is not None and len(same := (self.low == self.high).nonzero()):
            column = int(same[0])
            raise CSBError(
                f"column {column} of {self.label} is constant at {float(self.low[column]):g} in all rows; leave it "
                f"out, there is nothing to learn from it"
            )


def check_pairs(source: Source, support: Support | None) -> str:
    """Reads every pair once. Returns the SHA-256 of all x and y as float32, whatever kind of file holds them.

    Raises CSBError for values that are not finite as float32, columns of vectors that are constant, x outside the
    bounds, and whatever reading raises.
    """
    tallies = {name: _Tally(source.labels[name], support if name == "x" else None) for name in NAMES}
    digests = {name: hashlib.sha256() for name in NAMES}  # one each: the digest does not depend on the blocks
    for start, *both in source.blocks():
        for name, values in zip(NAMES, both):
            tallies[name].add(start, values)
            digests[name].update(values.contiguous().numpy().tobytes())
    for tally in tallies.values():
        tally.require()
    if (count := tallies["x"].outside) > 0:
        raise CSBError(
            f"{count} of the {len(source)} x of {source.where} lie outside the bounds, {tallies['x'].leaves}; fix the "
            f"bounds (problem.low, problem.high) or leave out these pairs"
        )
    return hashlib.sha256(b"".join(digest.digest() for digest in digests.values())).hexdigest()
