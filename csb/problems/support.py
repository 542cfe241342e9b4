"""Where a prior lives: a box with a lower and an upper bound for each coordinate, and the fold back into it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Support(NamedTuple):
    """The box low ≤ x ≤ high of vectors x of d numbers. −∞ and +∞ stand for a bound that is not there."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """low and high, (d,) each, on the device and in the dtype of a tensor."""
        low, high = (torch.tensor(side, dtype=like.dtype, device=like.device) for side in self)
        return low, high

    def contains(self, x: Tensor) -> Tensor:
        """Which of x (B, d) lie in the closed box, (B,), boolean."""
        low, high = self.tensors(x)
        return ((x >= low) & (x <= high)).all(dim=-1)


def fold(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Finite x (B, d) reflected at the bounds as often as it takes: always in the closed box [low, high], (d,) each.

    Points of the box stay where they are, bit for bit. The law of the result has no atom, at a bound or elsewhere,
    where that of x has none; clamping would put the mass beyond a bound onto it.
    """
    width = high - low
    twice = low + width - ((x - low).remainder(2 * width) - width).abs()
    once = torch.where(x < low, 2 * low - x, 2 * high - x)
    inside = (x >= low) & (x <= high)
    return torch.where(inside, x, torch.where(width.isfinite(), twice, once)).clamp(low, high)
