r"""The linear-Gaussian problem, whose posterior is Gaussian with one covariance for every y.

x ~ N(0, I), y = A x + σ N(0, I): p(x | y) = N(G y, C) with C = (I + AᵀA/σ²)⁻¹ and G = C Aᵀ/σ².

A = U diag(s) Vᵀ with U, V random orthogonal and s in geometric progression from 1.5 to .3: V turns the eigenvectors of
C, σ²/(σ² + s²), away from the coordinate axes, so that the coordinates of x | y are correlated.
"""

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from csb.problems.base import LinearProblem, Posterior, Simulated, register
from csb.problems.operators import Matrix, random_orthogonal
from csb.problems.specs import Dimension, Spread
from csb.problems.transform import Identity
from csb.process import Stream, psd_cholesky, seeded


class GaussianPosterior(Posterior):
    """N(mean, cov), float64: mean (d,), cov (d, d) positive semi-definite."""

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        super().__init__({"mean": mean, "cov": cov})
        self._mean, self._factor = mean, psd_cholesky(cov)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self._mean), generator=generator, dtype=torch.float64)
        return (self._mean + noise @ self._factor.T).float()


class LinearVectors(Simulated, LinearProblem):
    """x in ℝ^dx, y = A x + N(0, noise²) in ℝ^dy. The seed also fixes A.

    Args:
        dx, dy: dimensions.
        noise: σ, the standard deviation of the noise.
    """

    dx: Dimension = 5
    dy: Dimension = 5
    noise: Spread = 0.5

    A: ClassVar[Tensor]  # (dy, dx), float64

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.dx,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.dy,)

    @property
    def operator(self) -> Matrix:
        return Matrix(self.A)

    @property
    def noise_std(self) -> float:
        return self.noise


@register
class LinearGaussian(LinearVectors):
    """x ~ N(0, I)."""

    name = "linear_gaussian"

    @cached_property
    def A(self) -> Tensor:
        """(dy, dx), float64."""
        generator = seeded(self.seed, Stream.PROBLEM)
        U, V = random_orthogonal(self.dy, generator), random_orthogonal(self.dx, generator)
        rank = min(self.dx, self.dy)
        s = 1.5 * (0.3 / 1.5) ** torch.linspace(0, 1, rank, dtype=torch.float64)
        return (U[:, :rank] * s) @ V[:, :rank].T

    @cached_property
    def C(self) -> Tensor:
        """The posterior covariance, (dx, dx), float64."""
        eye = torch.eye(self.dx, dtype=torch.float64)
        if self.dy >= self.dx:
            return torch.linalg.inv(eye + self.A.T @ self.A / self.noise**2)
        rest = eye - self.G @ self.A  # Joseph's form: what y does not see is not lost beside 1/σ²
        return rest @ rest.T + self.noise**2 * self.G @ self.G.T

    @cached_property
    def G(self) -> Tensor:
        """The gain, (dx, dy), float64: the posterior mean is G y."""
        if self.dy >= self.dx:
            return self.C @ self.A.T / self.noise**2
        return torch.linalg.solve(self.A @ self.A.T + self.noise**2 * torch.eye(self.dy).double(), self.A).T

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.dx, dtype=torch.float32, generator=generator)

    def new_transform(self) -> Identity:
        return Identity(self.x_shape, self.y_shape)

    def posterior(self, y: Tensor) -> GaussianPosterior:
        return GaussianPosterior(self.G @ self.check_observation(y), self.C)
