r"""Mean and covariance of a normal law from a few draws of it, with the normal–inverse-Wishart prior.

Σ ~ W⁻¹(Ψ, ν) with ν = d + 4 and Ψ = 3 I, so that E[Σ] = I; μ | Σ ~ N(0, 4 Σ); y_1..y_n ~ N(μ, Σ) independent.
p(μ, Σ | y) is of the same family (Gelman et al. 2013, Bayesian Data Analysis, § 3.6): with κ = ¼, κ' = κ + n,
μ' = Σ_i y_i/κ', ν' = ν + n, Ψ' = Ψ + Σ_i y_i y_iᵀ − κ' μ' μ'ᵀ. Draws: W ~ Wishart(I, ν') is B Bᵀ with B upper
triangular, B_ij ~ N(0, 1) above the diagonal and B_ii² ~ χ² of ν' − d + i degrees of freedom (Bartlett 1933). With
C Cᵀ = Ψ', L = C B⁻ᵀ is the Cholesky factor of Σ = C W⁻¹ Cᵀ; then μ = μ' + L N(0, I)/√κ'.

The unknowns are free real numbers: for d = 2 (μ, log σ_1, log σ_2, atanh ρ), where atanh ρ = asinh(L_21/L_22), for
d = 3 (μ, log L_11, log L_22, log L_33, L_21, L_31, L_32).
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from scipy.special import gammaincinv
from torch import Tensor
from torch.special import ndtr

from csb.problems.base import PROBLEMS, Simulated
from csb.problems.pushed import Pushed
from csb.process import noise_like
from csb.schema import Dimension, OneOf

_KAPPA, _FREEDOM = 0.25, 4  # of the prior; ν − d


def coordinates(mean: Tensor, L: Tensor) -> Tensor:
    """The unknowns of means (N, d) and Cholesky factors of covariances (N, d, d), d = 2 or 3: (N, 5) or (N, 9)."""
    if mean.shape[1] == 2:
        return torch.cat([mean, L.norm(dim=2).log(), (L[:, 1, :1] / L[:, 1, 1:]).asinh()], 1)
    rows, columns = torch.tril_indices(3, 3, -1)
    return torch.cat([mean, L.diagonal(dim1=1, dim2=2).log(), L[:, rows, columns]], 1)


def factors(x: Tensor, d: int) -> Tensor:
    """The Cholesky factors (N, d, d) of the covariances that x (N, 5) or (N, 9) stands for."""
    L = torch.diag_embed(x[:, d : 2 * d].exp())
    if d == 2:
        L[:, 1] = L[:, 1, 1:] * torch.stack([x[:, 4].tanh(), 1 / x[:, 4].cosh()], 1)
    else:
        rows, columns = torch.tril_indices(3, 3, -1, device=x.device)
        L[:, rows, columns] = x[:, 2 * d :]
    return L


@PROBLEMS.register
class NormalWishart(Simulated):
    """x the mean and covariance of a normal law in ℝᵈ, 5 or 9 numbers; y (n, d), draws of it."""

    d: Annotated[int, OneOf((2, 3)), Field(description="dimensions of the normal law")] = 2
    n: Annotated[Dimension | None, Field(description="draws; null: 4 for d=2, 8 for d=3")] = None

    name = "normal_wishart"

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.d * (self.d + 3) // 2,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.n or (4 if self.d == 2 else 8), self.d)

    def _given(self, y: Tensor) -> Pushed:
        """The law of x given draws y (n, d), float64; the prior for none."""
        d, kappa, nu = self.d, _KAPPA + len(y), self.d + _FREEDOM + len(y)
        centre = y.sum(0) / kappa
        psi = (_FREEDOM - 1) * torch.eye(d, dtype=torch.float64) + y.T @ y - kappa * centre.outer(centre)
        C = torch.linalg.cholesky(psi)
        shape = (nu - d + 1 + torch.arange(d)).double().numpy() / 2  # of χ², a gamma law
        rows, columns = torch.triu_indices(d, d, 1)

        def push(z: Tensor) -> Tensor:
            shift, diagonal, above = z[:, :d], z[:, d : 2 * d], z[:, 2 * d :]
            B = torch.diag_embed((2 * torch.as_tensor(gammaincinv(shape, ndtr(diagonal).numpy()))).sqrt())
            B[:, rows, columns] = above
            L = C @ torch.linalg.inv(B).mT
            return coordinates(centre + (L @ shift[..., None])[..., 0] / math.sqrt(kappa), L)

        return Pushed(push, self.x_shape[0])

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self._given(torch.empty(0, self.d, dtype=torch.float64)).sample(n, generator)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        noise = noise_like(x.new_empty(len(x), *self.y_shape), generator)
        return x[:, None, : self.d] + noise @ factors(x, self.d).mT

    def posterior(self, y: Tensor) -> Pushed:
        return self._given(self.check_observation(y))
