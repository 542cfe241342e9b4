r"""Tasks whose observations are sets of any size, or have gaps, with exact posteriors.

- Normal set: σ² ~ InvGamma(a, b), μ | σ² ~ N(0, σ²/κ), y_1..y_n | x ~ N(μ, σ²) independent, x = (μ, log σ). With
  ȳ and S = Σ (y_i − ȳ)², p(μ, σ² | y) is of the same family (Gelman et al. 2013, Bayesian Data Analysis, § 3.3):
  κ' = κ + n, μ' = n ȳ/κ', a' = a + n/2, b' = b + ½ S + ½ κ n ȳ²/κ'. Hence E[log σ] = ½ (log b' − ψ(a')), its
  variance is ¼ ψ'(a'), that of μ is b'/((a' − 1) κ'), and both are uncorrelated.
- Linear gaps: x ~ N(0, I), y = A x + s N(0, I), of which values are missing at random. Given those that are there,
  p(x | y) is Gaussian with precision I + Aᵀ A/s² over their rows of A.
"""

import math
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csb.problems.base import PROBLEMS, Posterior, Simulated
from csb.problems.gaussians import GaussianPosterior
from csb.process import noise_like, seeded
from csb.schema import Count, Share

_KAPPA, _A, _B = 0.25, 3.0, 2.0
_NOISE = 0.5  # standard deviation of the readings of "linear gaps"


def _gamma(a: float, n: int, generator: torch.Generator) -> Tensor:
    """n draws of Gamma(a, 1), float64, for 2a a whole number: half of χ² of 2a degrees of freedom."""
    return torch.randn(n, round(2 * a), dtype=torch.float64, generator=generator).square().sum(1) / 2


def set_sizes(x: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Sizes in 1..largest for each of x (B, …), about log-uniform, so that few and many are learned alike; (B, 1)."""
    u = torch.rand(len(x), 1, generator=generator, dtype=torch.float32, device=x.device)
    return (u * math.log(largest + 1)).exp().floor().clamp(max=largest)


def first_rows(y: Tensor, count: Tensor) -> Tensor:
    """The first count (B, 1) of the numbers y (B, L), as rows (B, L, 1), of which the others are NaN."""
    return y.masked_fill(torch.arange(y.shape[1], device=y.device) >= count, torch.nan)[..., None]


def hide(y: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """y (B, L) of which a share, uniform in [0, most] for each y, is missing, each value by itself."""
    share = most * torch.rand(len(y), 1, generator=generator, dtype=y.dtype, device=y.device)
    return y.masked_fill(torch.rand(y.shape, generator=generator, dtype=y.dtype, device=y.device) < share, torch.nan)


class NormalPosterior(Posterior):
    """Exact draws of (μ, log σ) given readings y (n,), float64."""

    def __init__(self, y: Tensor) -> None:
        n, total = len(y), y.sum()
        self.kappa, self.a = _KAPPA + n, torch.tensor(_A + n / 2, dtype=torch.float64)
        self.mean_of_mu = total / self.kappa
        self.b = _B + 0.5 * (y.square().sum() - total * self.mean_of_mu)  # ½ S + ½ κ n ȳ²/κ', rearranged
        var = torch.stack([self.b / ((self.a - 1) * self.kappa), torch.polygamma(1, self.a) / 4])
        mean = torch.stack([self.mean_of_mu, (self.b.log() - torch.digamma(self.a)) / 2])
        super().__init__({"mean": mean, "cov": var.diag()})

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        var = self.b / _gamma(float(self.a), n, generator)
        noise = torch.randn(n, dtype=torch.float64, generator=generator)
        return torch.stack([self.mean_of_mu + (var / self.kappa).sqrt() * noise, var.log() / 2], 1).float()


@PROBLEMS.register
class NormalSet(Simulated):
    """x = (μ, log σ); y a set of n ≤ ``largest`` readings, (largest, 1), whose other rows are NaN."""

    largest: Count = 50

    name = "normal_set"
    x_shape = (2,)
    may_miss = True

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.largest, 1)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        var = _B / _gamma(_A, n, generator)
        mu = (var / _KAPPA).sqrt() * torch.randn(n, dtype=torch.float64, generator=generator)
        return torch.stack([mu, var.log() / 2], 1).float()

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        count = set_sizes(x, self.largest, generator)
        return first_rows(x[:, :1] + x[:, 1:].exp() * noise_like(x[:, :1].expand(-1, self.largest), generator), count)

    def posterior(self, y: Tensor) -> NormalPosterior:
        y = self.check_observation(y)
        return NormalPosterior(y[~y.isnan()])


@PROBLEMS.register
class LinearGaps(Simulated):
    """x in ℝ^dx, y in ℝ^dy; of each y a share, uniform in [0, ``gaps``], is missing, each value by itself."""

    dx: Count = 3
    dy: Count = 8
    gaps: Annotated[Share, Field(description="the largest share of values that are missing")] = 0.8

    name = "linear_gaps"
    may_miss = True

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.dx,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.dy,)

    @cached_property
    def matrix(self) -> Tensor:
        """A (dy, dx), float64, random with rows of about unit length; the same for every seed of the pairs."""
        return torch.randn(self.dy, self.dx, dtype=torch.float64, generator=seeded(0)) / math.sqrt(self.dx)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.dx, dtype=torch.float32, generator=generator)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        y = x @ self.matrix.to(x).T
        return hide(y + _NOISE * noise_like(y, generator), self.gaps, generator)

    def posterior(self, y: Tensor) -> GaussianPosterior:
        y = self.check_observation(y)
        A = self.matrix[~y.isnan()]
        cov = torch.linalg.inv(torch.eye(self.dx, dtype=torch.float64) + A.T @ A / _NOISE**2)
        return GaussianPosterior(cov @ (A.T @ y[~y.isnan()]) / _NOISE**2, cov)
