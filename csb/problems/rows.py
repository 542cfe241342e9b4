"""Pairs that are read by rows, as there may be more of them than memory holds; their mean and spread in one pass."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK_ROWS, _BLOCK_BYTES = 8192, 16 * 2**20


class Pairs(NamedTuple):
    """N pairs: x (N, *x_shape) and y (N, *y_shape), float32; labels (N,), int64, or None where there are none."""

    x: Tensor
    y: Tensor
    labels: Tensor | None = None


def block_rows(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
    """How many pairs are taken at a time where all of them are gone through: at most 8192 and 16 MiB as float32."""
    size = 4 * (torch.Size(x_shape).numel() + torch.Size(y_shape).numel())
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // size))


class PairRows(ABC):
    """The pairs of one split.

    Attributes:
        in_memory: whether the pairs lie in memory, so that another copy of them fits as well.
        x_shape, y_shape: of one pair.
    """

    in_memory: bool
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Tensor) -> Pairs:
        """The pairs of these numbers (B,), int64 in 0..len − 1, in this order. CSBError where they cannot be had."""

    @abstractmethod
    def read_y(self, indices: Tensor) -> Tensor:
        """The y of :meth:`read` alone."""

    @abstractmethod
    def blocks(self) -> Iterator[Pairs]:
        """All pairs, :func:`block_rows` at a time, in the order in which they are quick to read."""

    def head(self, n: int) -> Pairs:
        """The first n pairs; all of them where there are fewer."""
        return self.read(torch.arange(min(n, len(self))))


class InMemoryRows(PairRows):
    """Rows of tensors."""

    in_memory = True

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.x_shape, self.y_shape = tuple(pairs.x.shape[1:]), tuple(pairs.y.shape[1:])

    def __len__(self) -> int:
        return len(self.pairs.x)

    def read(self, indices: Tensor) -> Pairs:
        x, y, labels = self.pairs
        return Pairs(x[indices], y[indices], None if labels is None else labels[indices])

    def read_y(self, indices: Tensor) -> Tensor:
        return self.pairs.y[indices]

    def blocks(self) -> Iterator[Pairs]:
        size = block_rows(self.x_shape, self.y_shape)
        yield from (Pairs(*both) for both in zip(self.pairs.x.split(size), self.pairs.y.split(size)))

    def head(self, n: int) -> Pairs:
        x, y, labels = self.pairs
        return Pairs(x[:n], y[:n], None if labels is None else labels[:n])


class Moments:
    """Mean and standard deviation of each coordinate of (N, d), or channel of (N, C, H, W), in one pass, in float64.

    Blocks are merged as Chan, Golub & LeVeque 1979 do it, which loses no digits where the mean is far from 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._square = torch.zeros((), dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Adds a block (n, …)."""
        if not len(values):
            return
        values, axes = values.double(), [0, *range(2, values.ndim)]
        count = values.numel() // values.shape[1]
        mean = values.mean(axes)
        square = (values - mean.view(-1, *[1] * (values.ndim - 2))).square().sum(axes)
        share, gap = count / (self.count + count), mean - self.mean
        self._square = self._square + square + gap.square() * (self.count * share)
        self.mean = self.mean + gap * share
        self.count += count

    @property
    def std(self) -> Tensor:
        """√(Σ (v − mean)²/N)."""
        return (self._square / self.count).sqrt()
