"""Ensembles, clouds and weights that the tests of the metrics share."""

import math

import torch
from torch import Tensor

from csb.process import seeded


def normal(*shape: int, key: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(7, key), dtype=dtype)


def ensemble(B: int = 6, n: int = 9, shape: tuple[int, ...] = (1, 4, 5)) -> tuple[Tensor, Tensor]:
    return normal(B, n, *shape, key=1, dtype=torch.float32), normal(B, *shape, key=2, dtype=torch.float32)


def half_mask(shape: tuple[int, ...] = (1, 4, 5)) -> Tensor:
    return torch.rand(shape, generator=seeded(7, 3)) > 0.5


def log_weights(*shape: int, scale: float = 1.0, key: int = 9) -> Tensor:
    return (scale * normal(*shape, key=key)).log_softmax(-1)


def point_mass(*shape: int, at: int = 2) -> Tensor:
    return torch.full(shape, -math.inf).index_fill(-1, torch.tensor([at]), 0.0)


COPIES = torch.tensor([3, 1, 4, 0, 2])  # weights in tenths, and how often a sample is repeated
SHARE = (1 - 1 / 10) / (
    1 - float((COPIES.double() / 10).square().sum())
)  # of sums over pairs with weights to those of copies
COPIED = (COPIES.double() / 10).log()
