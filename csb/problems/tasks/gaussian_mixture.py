"""A mixture of 25 Gaussians seen through a few random projections; exact posterior, again a mixture.

The prior is that of Cardoso et al. 2024 (MCGdiff): unit covariances, means (8i, 8j, 8i, 8j, …), i, j ∈ {−2, …, 2}.
"""

from functools import cached_property
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import Posterior, register
from csb.problems.exact.mixture import Mixture
from csb.problems.operators import random_orthogonal
from csb.problems.specs import Dimension
from csb.problems.tasks.linear_gaussian import LinearVectors
from csb.process import Stream, seeded
from csb.schema import OneOf


class MixturePosterior(Posterior):
    """A mixture as posterior, with exact mean and covariance; the mixture itself is the attribute ``mixture``."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__({"mean": mixture.mean, "cov": mixture.cov})
        self.mixture = mixture

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()


@register
class GaussianMixture(LinearVectors):
    """x in ℝ^dx from 25 Gaussians; y = A x + N(0, noise²) in ℝ^dy, the rows of A orthonormal and random.

    Args:
        dx: even: the means repeat (8i, 8j).
        dy: at most dx.
        weights: "random" (uniform numbers, normalised, fixed by the seed) or "equal".
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

    @property
    def R(self) -> Tensor:
        """The covariance of the noise, (dy, dy), float64."""
        return self.noise**2 * torch.eye(self.dy, dtype=torch.float64)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()

    def posterior(self, y: Tensor) -> MixturePosterior:
        return MixturePosterior(self.mixture.conditioned(self.A, self.R, self.check_observation(y)))
