import math
from typing import Literal

import torch
from torch import Tensor

from csb.samplers.diffusion import MomentSampler, Spread

_FULL = 16  # numbers of y up to which auto makes the matrix


class TMPD(MomentSampler):
    r"""Tweedie moment projected diffusions (Boys, Girolami, Pidstrigach, Reich, Mosca & Akyildiz 2023, eq. 9–12).

    z_0 | z_k is taken for the Gaussian of its own first two moments, x̂_0 and C = (1−ᾱ_k)/√ᾱ_k ∇x̂_0 (Tweedie's second
    formula), so that p(y | z_k) = N(c; A x̂_0, A C A* + σ² I) and, with C held fixed in the gradient,

        E[z_0 | z_k, y] = x̂_0 + C A*(A C A* + σ² I)⁻¹(c − A x̂_0).

    For a Gaussian prior, of any covariance, it is exact. ``full`` makes the matrix A C A*, one vector–Jacobian product
    a number of y; ``diagonal``, the paper's for images, puts the row sums A C A* 1 on a diagonal, two products in all:
    exact where the matrix is diagonal; elsewhere numbers of y that vary together count for so much less. A row sum
    below 0 is taken for 0, which bounds nothing: where σ = 0 the likelihood's floor stands for it.
    """

    name = "tmpd"
    label = "TMPD"
    solver: Literal["auto", "full", "diagonal"] = "auto"
    """Full or diagonal, see above; auto: full for up to 16 numbers of y."""

    @property
    def full(self) -> bool:
        """Whether the matrix is made."""
        return self.solver == "full" or (self.solver == "auto" and math.prod(self.y_shape) <= _FULL)

    @property
    def step_passes(self) -> tuple[int, int]:
        return 1, math.prod(self.y_shape) if self.full else 2

    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        if not self.full:
            rows = self.operator(spread(torch.ones_like(residual))).clamp_min(0)
            return spread(residual / (rows + max(self.std, self.likelihood.floor / self.denoiser.scale) ** 2))
        var = (self.likelihood.positive_std / self.denoiser.scale) ** 2
        eye = torch.eye(math.prod(self.y_shape), dtype=residual.dtype, device=residual.device)
        columns = [spread(e.unflatten(0, self.y_shape).expand_as(residual)) for e in eye]
        matrix = torch.stack([self.operator(column).flatten(1) for column in columns], dim=2)
        weights = torch.linalg.solve_ex(matrix.double() + var * eye.double(), residual.flatten(1).double()).result
        return torch.einsum("jn...,nj->n...", torch.stack(columns), weights.to(residual.dtype))
