"""The pairs of a training as the bridge sees them: states z and conditions c, by rows.

In memory they are encoded once; of pairs that are read by rows, each batch is encoded when it is read. Both give the
same numbers, bit for bit.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from csb.problems import PairRows, Transform


class EncodedPairs(ABC):
    """N encoded pairs, on the CPU.

    Args:
        z_shape: of one state.
        transform: draws, among the states that stand for the same x, the one to train on
            (:meth:`csb.problems.Transform.preimage`); None where each stands for itself.
    """

    def __init__(self, z_shape: tuple[int, ...], transform: Transform | None = None) -> None:
        self.z_shape, self.transform = tuple(z_shape), transform

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, *z_shape) and c (B, *c_shape) of the pairs of these numbers (B,), int64; z as x is encoded."""

    @abstractmethod
    def conditions(self, indices: Tensor) -> Tensor:
        """The c of :meth:`plain` alone."""

    def rows(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As :meth:`plain`, with states to train on; the generator, where z lies, draws where there is a choice."""
        z, c = self.plain(indices)
        return (z if self.transform is None else self.transform.preimage(z, generator)), c

    def head(self, n: int) -> tuple[Tensor, Tensor]:
        """:meth:`plain` of the first n pairs; of all where there are fewer."""
        return self.plain(torch.arange(min(n, len(self))))


class InMemory(EncodedPairs):
    """z (N, *z_shape) and c (N, *c_shape), encoded; without c there are no conditions: c (N, 0)."""

    def __init__(self, z: Tensor, c: Tensor | None = None, transform: Transform | None = None) -> None:
        super().__init__(tuple(z.shape[1:]), transform)
        self.z, self.c = z, z.new_empty(len(z), 0) if c is None else c

    def __len__(self) -> int:
        return len(self.z)

    def to(self, device: torch.device) -> "InMemory":
        """The same pairs on a device; what they are asked for there, and the generator, live on it too."""
        transform = None if self.transform is None else copy.deepcopy(self.transform).to(device)
        return InMemory(self.z.to(device), self.c.to(device), transform)

    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.z[indices], self.c[indices]

    def conditions(self, indices: Tensor) -> Tensor:
        return self.c[indices]


class OnDisk(EncodedPairs):
    """Pairs that are read and encoded when they are asked for.

    Args:
        source: of the pairs (x, y).
        z_shape: of one state.
        encode_x: x and y → z.
        encode_y: y → c.
    """

    def __init__(
        self,
        source: PairRows,
        z_shape: tuple[int, ...],
        encode_x: Callable[[Tensor, Tensor], Tensor],
        encode_y: Callable[[Tensor], Tensor],
        transform: Transform | None = None,
    ) -> None:
        super().__init__(z_shape, transform)
        self.source, self.encode_x, self.encode_y = source, encode_x, encode_y

    def __len__(self) -> int:
        return len(self.source)

    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x, y, _ = self.source.read(indices)
        return self.encode_x(x, y), self.encode_y(y)

    def conditions(self, indices: Tensor) -> Tensor:
        return self.encode_y(self.source.read_y(indices))


def encoded(transform: Transform, source: PairRows) -> EncodedPairs:
    """The pairs of a source by a fitted transform, of which a copy is kept: it may move to another device."""
    own = copy.deepcopy(transform).cpu().requires_grad_(False)
    if not source.in_memory:
        return OnDisk(source, own.z_shape, own.encode_x, own.encode_y, own)
    x, y, _ = source.head(len(source))
    return InMemory(own.encode_x(x, y), own.encode_y(y), own)


def as_pairs(pairs: EncodedPairs | tuple[Tensor, Tensor | None] | Tensor) -> EncodedPairs:
    """Encoded pairs of tensors z, or (z, c), on the CPU; others as they are."""
    if isinstance(pairs, EncodedPairs):
        return pairs
    return InMemory(pairs) if isinstance(pairs, Tensor) else InMemory(*pairs)
