r"""Logistic regression on fixed covariates, whose posterior is sampled by many chains of Pólya–Gamma Gibbs.

x = β ~ N(0, I) in ℝ¹⁰; n labels z_i are 1 with probability 1/(1 + e^{−cᵢᵀβ}), where the rows cᵢ of the covariates C
(n, 10) are a 1 and nine fixed normal numbers. y = Cᵀ(z − ½) is sufficient: p(y | β) ∝ e^{yᵀβ} Π 1/(2 cosh ½cᵢᵀβ).

With ω_i | β ~ PG(1, cᵢᵀβ) independent, β | ω, y ~ N(P⁻¹ y, P⁻¹), P = I + Cᵀ diag(ω) C (Polson, Scott & Windle 2013,
Bayesian inference for logistic models using Pólya–Gamma latent variables). Each draw is the last state of a chain of
its own, so that draws are independent; the chains start at draws of the normal approximation at the mode. PG(1, c) is
the sum over k = 1, 2, … of Exp(1)/(2π²((k − ½)² + c²/4π²)), with mean tanh(½c)/(2c): 16 terms are drawn, the others,
whose variance is below 3·10⁻⁷ for every c, are set to their mean.
"""

import math
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csb.problems.base import PROBLEMS, Posterior, Simulated
from csb.problems.pushed import sobol_normal, weighted_moments
from csb.process import seeded
from csb.schema import Dimension

_UNKNOWNS = 10
_SWEEPS = 20  # of a chain; the autocorrelation of a coordinate is about ½ after one, .05 after five
_TERMS = 16  # of PG(1, c)
_NEWTON = 30  # steps to the mode
_WIDER = 1.3  # standard deviations of the importance proposal over those at the mode


def polya_gamma(c: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of PG(1, c), of c's shape, float64."""
    square, drawn, expected = (c / (2 * math.pi)).square(), torch.zeros_like(c), torch.zeros_like(c)
    for k in range(_TERMS):
        scale = 1 / (2 * math.pi**2 * ((k + 0.5) ** 2 + square))
        drawn += scale * torch.empty_like(c).exponential_(generator=generator)
        expected += scale
    half = c.abs().clamp_min(1e-6) / 2
    return drawn + half.tanh() / (4 * half) - expected


class LogisticPosterior(Posterior):
    """Draws of β given y (10,), float64, for covariates (n, 10).

    Moments by importance sampling: Sobol points of the normal approximation at the mode, made wider.
    """

    def __init__(self, covariates: Tensor, y: Tensor) -> None:
        self.covariates, self.y = covariates, y
        self.mode = torch.zeros_like(y)
        for _ in range(_NEWTON):
            logit = covariates @ self.mode
            slope = logit.sigmoid() * (-logit).sigmoid()
            precision = torch.eye(len(y), dtype=torch.float64) + covariates.T @ (slope[:, None] * covariates)
            gradient = y - covariates.T @ (logit / 2).tanh() / 2 - self.mode
            self.mode = self.mode + torch.linalg.solve(precision, gradient)
        self.root = torch.linalg.cholesky(torch.linalg.inv(precision))
        super().__init__(self._importance)

    def _importance(self) -> dict[str, Tensor]:
        z = sobol_normal(len(self.y))
        x = self.mode + _WIDER * z @ self.root.T
        return weighted_moments(x, (self.log_density(x) + 0.5 * z.square().sum(1)).softmax(0))

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x | y) but for a constant, (M, 10) → (M,)."""
        half = (x @ self.covariates.T).abs() / 2
        log_cosh = half + torch.log1p((-2 * half).exp())
        return x @ self.y - log_cosh.sum(1) - 0.5 * x.square().sum(1)

    def sweep(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The next state of each chain, (M, 10) → (M, 10)."""
        omega = polya_gamma(x @ self.covariates.T, generator)
        pairs = (self.covariates[:, :, None] * self.covariates[:, None]).flatten(1)
        precision = torch.eye(x.shape[1], dtype=torch.float64) + (omega @ pairs).view(-1, x.shape[1], x.shape[1])
        factor = torch.linalg.cholesky(precision)
        noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)[..., None]
        shift = torch.linalg.solve_triangular(factor.mT, noise, upper=True)
        return (torch.cholesky_solve(self.y[:, None], factor) + shift)[..., 0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        x = self.mode + torch.randn(n, len(self.y), dtype=torch.float64, generator=generator) @ self.root.T
        for _ in range(_SWEEPS):
            x = self.sweep(x, generator)
        return x.float()


@PROBLEMS.register
class Logistic(Simulated):
    """x in ℝ¹⁰, coefficients; y in ℝ¹⁰, the sum over labels z_i of cᵢ(z_i − ½)."""

    n: Annotated[Dimension, Field(description="labels")] = 50

    name = "logistic"
    x_shape = y_shape = (_UNKNOWNS,)

    @cached_property
    def covariates(self) -> Tensor:
        """(n, 10), float64; the same for every seed of the pairs."""
        others = torch.randn(self.n, _UNKNOWNS - 1, dtype=torch.float64, generator=seeded(0))
        return torch.cat([torch.ones(self.n, 1, dtype=torch.float64), others], 1)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, _UNKNOWNS, dtype=torch.float32, generator=generator)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        covariates = self.covariates.to(x)
        chance = (x @ covariates.T).sigmoid()
        return (torch.bernoulli(chance, generator=generator) - 0.5) @ covariates

    def posterior(self, y: Tensor) -> LogisticPosterior:
        return LogisticPosterior(self.covariates, self.check_observation(y))
