r"""Gaussian blur, as two small matrices: x ↦ K_H x K_Wᵀ, channel by channel.

K_{ij} = g(i − j), g(t) ∝ exp(−t²/(2σ²)), of sum 1 over all integers t. What lies beyond the edge is 0 ("zero": K is
Toeplitz, and rows near the edge sum to less than 1) or the image again ("periodic": K is circulant, g summed over its
periods). g falls so fast in frequency, like exp(−σ²ω²/2), that for σ = 2 pixels the smallest of the singular values of
28×28 pixels is 5e-16 of the largest: nothing that fine is left under any noise.
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from csb.problems.operators import Image, Operator
from csb.problems.specs import Spread, checked
from csb.problems.svd import SVD, separable
from csb.schema import OneOf

EDGES = ("zero", "periodic")
_REACH = 10  # standard deviations to which g is summed


def gaussian_matrix(n: int, std: float, edge: str = "zero") -> Tensor:
    """K (n, n), float64; std in pixels, edge one of :data:`EDGES`."""
    reach = n + math.ceil(_REACH * std)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    g = torch.exp(-0.5 * (offsets / std) ** 2)
    g = g / g.sum()
    index = torch.arange(n)
    if edge == "zero":
        return g[index[:, None] - index + reach]
    wrapped = torch.zeros(n, dtype=torch.float64).index_add(0, offsets.long() % n, g)
    return wrapped[(index[:, None] - index) % n]


class Blur(Operator):
    """Gaussian blur of images; self-adjoint, for g is even.

    Args:
        x_shape: (C, H, W).
        std: σ of the kernel, pixels.
        edge: "zero" or "periodic", see the module's docstring.
    """

    @checked
    def __init__(self, x_shape: Image, std: Spread, edge: Annotated[str, OneOf(EDGES)] = "zero") -> None:
        super().__init__(x_shape, x_shape)
        self.std, self.edge = std, edge
        self.rows, self.columns = (gaussian_matrix(n, std, edge) for n in x_shape[1:])

    def _apply(self, x: Tensor) -> Tensor:
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.rows.to(y).T @ y @ self.columns.to(y)

    def _svd(self) -> SVD:
        return separable(self.rows, self.columns, self.x_shape)
