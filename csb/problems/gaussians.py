r"""Problems of vectors with Gaussians and mixtures of them as priors, and so with exact posteriors.

- ``linear_gaussian``: x ~ N(0, I), y = A x + σ N(0, I): p(x | y) = N(G y, C) with C = (I + AᵀA/σ²)⁻¹, G = C Aᵀ/σ².
  A = U diag(s) Vᵀ with U, V random orthogonal and s in geometric progression from 1.5 to .3: V turns the eigenvectors
  of C, σ²/(σ² + s²), away from the coordinate axes, so that the coordinates of x | y are correlated.
- ``gaussian_mixture``: 25 Gaussians seen through a few random projections. The prior is that of Cardoso et al. 2024
  (MCGdiff): unit covariances, means (8i, 8j, 8i, 8j, …), i, j ∈ {−2, …, 2}. The posterior is again a mixture.
- ``mixture_class``: which of a few overlapping Gaussians in the plane a point is from. p(y = c | x) = γ_c(x) ∝
  w_c N(x; m_c, S_c), and p(x | y = c) = N(m_c, S_c). The exact p(y = c | x_k) of a noisy state is the same of the
  diffused mixture (:mod:`csb.problems.mixture`).
"""

import math
from functools import cached_property
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import PROBLEMS, ClassProblem, LinearProblem, Posterior, Simulated
from csb.problems.mixture import Mixture
from csb.problems.operators import Matrix, random_orthogonal
from csb.problems.transform import Identity
from csb.process import Stream, psd_cholesky, seeded
from csb.schema import Dimension, OneOf, Spread


class GaussianPosterior(Posterior):
    """N(mean, cov), float64: mean (d,), cov (d, d) positive semi-definite."""

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        super().__init__({"mean": mean, "cov": cov})
        self._mean, self._factor = mean, psd_cholesky(cov)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, len(self._mean), generator=generator, dtype=torch.float64)
        return (self._mean + noise @ self._factor.T).float()


class MixturePosterior(Posterior):
    """A mixture as posterior, with exact mean and covariance; the mixture itself is the attribute ``mixture``."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__({"mean": mixture.mean, "cov": mixture.cov})
        self.mixture = mixture

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()


class LinearVectors(Simulated, LinearProblem):
    """x in ℝ^dx, y = A x + N(0, noise²) in ℝ^dy. The seed also fixes A."""

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

    @property
    def R(self) -> Tensor:
        """The covariance of the noise, (dy, dy), float64."""
        return self.noise**2 * torch.eye(self.dy, dtype=torch.float64)


@PROBLEMS.register
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
        return torch.linalg.solve(self.A @ self.A.T + self.R, self.A).T

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.dx, dtype=torch.float32, generator=generator)

    def new_transform(self) -> Identity:
        return Identity(self.x_shape, self.y_shape)

    def posterior(self, y: Tensor) -> GaussianPosterior:
        return GaussianPosterior(self.G @ self.check_observation(y), self.C)


@PROBLEMS.register
class GaussianMixture(LinearVectors):
    """x in ℝ^dx, dx even, from 25 Gaussians; y = A x + N(0, noise²) in ℝ^dy, dy ≤ dx, random orthonormal rows of A.

    Their weights are "random" (uniform numbers, normalised, fixed by the seed) or "equal".
    """

    dx: Annotated[Dimension, Field(multiple_of=2)] = 2
    dy: Dimension = 1
    weights: Annotated[str, OneOf(("random", "equal"))] = "random"

    name = "gaussian_mixture"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dy > self.dx:
            raise CSBError(f"dy={self.dy} is outside 1..dx={self.dx}; the rows of A are orthonormal")
        return self

    @cached_property
    def mixture(self) -> Mixture:
        """The prior."""
        axis = 8 * torch.arange(-2, 3, dtype=torch.float64)
        means = torch.cartesian_prod(axis, axis).repeat(1, self.dx // 2)
        w = torch.ones(25, dtype=torch.float64)
        if self.weights == "random":
            w = torch.rand(25, generator=seeded(self.seed, Stream.PROBLEM), dtype=torch.float64)
        return Mixture(w / w.sum(), means, torch.eye(self.dx, dtype=torch.float64)[None])

    @cached_property
    def A(self) -> Tensor:
        """(dy, dx), float64, orthonormal rows."""
        return random_orthogonal(self.dx, seeded(self.seed, Stream.PROBLEM_MATRIX))[: self.dy]

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()

    def posterior(self, y: Tensor) -> MixturePosterior:
        return MixturePosterior(self.mixture.conditioned(self.A, self.R, self.check_observation(y)))


@PROBLEMS.register
class MixtureClass(Simulated, ClassProblem):
    """x in ℝ² from one of several Gaussians on a circle, which overlap; y is which, one-hot.

    Component c = 0..components−1 has the weight (1 + c)/Σ, its mean on a circle of this radius at the angle
    2πc/components, and the variances 1 along the radius and ¼ across.
    """

    components: Annotated[Dimension, Field(ge=2)] = 4
    radius: Spread = 1.5

    name = "mixture_class"
    x_shape = (2,)

    @property
    def classes(self) -> int:
        return self.components

    @cached_property
    def mixture(self) -> Mixture:
        """The prior."""
        angle = 2 * math.pi * torch.arange(self.components, dtype=torch.float64) / self.components
        out = torch.stack([angle.cos(), angle.sin()], dim=1)
        weights = 1 + torch.arange(self.components, dtype=torch.float64)
        covs = 0.25 * torch.eye(2, dtype=torch.float64) + 0.75 * (out[:, :, None] * out[:, None])
        return Mixture(weights / weights.sum(), self.radius * out, covs)

    def log_probabilities(self, x: Tensor) -> Tensor:
        """The exact log p(y = c | x) of every class, (B, 2) → (B, components); differentiable."""
        return self.mixture.log_responsibilities(x)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        chance = self.log_probabilities(x).exp()
        return self.one_hot(torch.multinomial(chance, 1, generator=generator)[:, 0])

    def posterior(self, y: Tensor) -> GaussianPosterior:
        c = self.class_of(y)
        return GaussianPosterior(self.mixture.means[c], self.mixture.covs[c])
