"""The pairs of a training as the bridge sees them: states z and conditions c, by rows.

In memory they are encoded once; of pairs that are read by rows, each batch is encoded when it is read. Both give the
same numbers, bit for bit.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from csb.problems import Pairs, Rows, Transform


class EncodedPairs:
    """N pairs of states z and conditions c, on the CPU.

    Args:
        source: of the pairs (x, y).
        z_shape: of one state.
        encode_x: x and y → z.
        encode_y: y → c.
        transform: draws, among the states that stand for the same x, the one to train on
            (:meth:`csb.problems.Transform.preimage`); None where each stands for itself.
    """

    def __init__(
        self,
        source: Rows,
        z_shape: tuple[int, ...],
        encode_x: Callable[[Tensor, Tensor], Tensor],
        encode_y: Callable[[Tensor], Tensor],
        transform: Transform | None = None,
    ) -> None:
        self.z_shape, self.transform, self.in_memory = tuple(z_shape), transform, source.in_memory
        self.source, self.encode_x, self.encode_y = source, encode_x, encode_y
        if self.in_memory:
            x, y, _ = source.head(len(source))
            self.source = Rows.of(Pairs(encode_x(x, y), encode_y(y)))
            self.encode_x, self.encode_y = _state, _condition

    @classmethod
    def of(cls, z: Tensor, c: Tensor | None = None, transform: Transform | None = None) -> "EncodedPairs":
        """Of z (N, *z_shape) and c (N, *c_shape), encoded; without c there are no conditions: c (N, 0)."""
        pairs = Pairs(z, z.new_empty(len(z), 0) if c is None else c)
        return cls(Rows.of(pairs), tuple(z.shape[1:]), _state, _condition, transform)

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> "EncodedPairs":
        """The same, which must be in memory, on a device; what they are asked for, and the generator, live there."""
        transform = None if self.transform is None else copy.deepcopy(self.transform).to(device)
        z, c = self.head(len(self))
        return EncodedPairs.of(z.to(device), c.to(device), transform)

    def plain(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """z (B, *z_shape) and c (B, *c_shape) of the pairs of these numbers (B,), int64; z as x is encoded."""
        x, y, _ = self.source.read(indices)
        return self.encode_x(x, y), self.encode_y(y)

    def conditions(self, indices: Tensor) -> Tensor:
        """The c of :meth:`plain` alone."""
        return self.encode_y(self.source.read_y(indices))

    def rows(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As :meth:`plain`, with states to train on; the generator, where z lies, draws where there is a choice."""
        z, c = self.plain(indices)
        return (z if self.transform is None else self.transform.preimage(z, generator)), c

    def head(self, n: int) -> tuple[Tensor, Tensor]:
        """:meth:`plain` of the first n pairs; of all where there are fewer."""
        return self.plain(slice(0, min(n, len(self))))


def _state(z: Tensor, _: Tensor) -> Tensor:
    return z


def _condition(c: Tensor) -> Tensor:
    return c


def encoded(transform: Transform, source: Rows) -> EncodedPairs:
    """The pairs of a source by a fitted transform, of which a copy is kept: it may move to another device."""
    own = copy.deepcopy(transform).cpu().requires_grad_(False)
    return EncodedPairs(source, own.z_shape, own.encode_x, own.encode_y, own)
