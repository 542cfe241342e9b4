"""A mixture of 25 Gaussians seen through a few random projections; exact posterior, again a mixture.

The prior is that of Cardoso et al. 2024 (MCGdiff): unit covariances, means (8i, 8j, 8i, 8j, …), i, j ∈ {−2, …, 2}.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import LinearProblem, Posterior, Simulated, register, require_at_least, require_dimensions
from csb.problems.exact.mixture import Mixture
from csb.problems.operators import Matrix, random_orthogonal
from csb.problems.standardise import Standardise
from csb.process import Stream, seeded


class MixturePosterior(Posterior):
    """A mixture as posterior, with exact mean and covariance; the mixture itself is the attribute ``mixture``."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__({"mean": mixture.mean, "cov": mixture.cov})
        self.mixture = mixture

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()


@register
@dataclass(frozen=True, eq=False)
class GaussianMixture(Simulated, LinearProblem):
    """x in ℝ^dx from 25 Gaussians; y = A x + N(0, noise²) in ℝ^dy, the rows of A orthonormal and random.

    Args:
        dx: an even number, at least 2.
        dy: in 1..dx.
        noise: the standard deviation of the noise, > 0.
        weights: "random" (uniform numbers, normalised) or "equal".
        n_train, n_val, n_test, seed: as in :class:`Simulated`; the seed also fixes A and the weights.
    """

    dx: int = 2
    dy: int = 1
    noise: float = 0.5
    weights: str = "random"
    n_train: int = 100_000
    n_val: int = 10_000
    n_test: int = 10_000
    seed: int = 0

    name = "gaussian_mixture"
    has_exact_posterior = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_dimensions(dx=self.dx, dy=self.dy)
        if self.dx < 2 or self.dx % 2:
            raise CSBError(f"dx={self.dx} is not even and at least 2; the means repeat (8i, 8j)")
        if not 1 <= self.dy <= self.dx:
            raise CSBError(f"dy={self.dy} is outside 1..dx={self.dx}; the rows of A are orthonormal")
        if self.weights not in ("random", "equal"):
            raise CSBError(f"weights={self.weights!r} is unknown; choose one of random, equal")
        require_at_least("noise", self.noise, 0, strictly=True)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.dx,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.dy,)

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

    @property
    def R(self) -> Tensor:
        """The covariance of the noise, (dy, dy), float64."""
        return self.noise**2 * torch.eye(self.dy, dtype=torch.float64)

    @property
    def operator(self) -> Matrix:
        return Matrix(self.A)

    @property
    def noise_std(self) -> float:
        return self.noise

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()

    def new_transform(self) -> Standardise:
        return Standardise(self.x_shape, self.y_shape)

    def posterior(self, y: Tensor) -> MixturePosterior:
        return MixturePosterior(self.mixture.conditioned(self.A, self.R, self.check_observation(y)))
