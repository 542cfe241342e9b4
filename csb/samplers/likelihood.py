r"""What guides a diffusion sampler: log p̃_k(y | z_k), an approximation of log p(y | z_k) at the denoiser's x̂_0(z_k).

Additive noise: p̃_k(y | z_k) = N(y; H(x̂_0(z_k)), s_k²). x̂_0 is uncertain by the law of z_0 | z_k. For a Gaussian prior
of variance v a coordinate (in z) that leaves v(1−ᾱ)/(1−ᾱ + ᾱv), a share (1−ᾱ)/(1−ᾱ + ᾱv) of the prior's. The same share
of the variance of H(x) over the data is added to the variance of the noise: s_k² = σ² + Var[H(x)]·(1−ᾱ_k)/(1−ᾱ_k + ᾱ_k
v), *on the scale of the data* (Wu et al. 2023, §4; Rozet & Louppe 2023, eq. 12; without the data's scale it diverges as
ᾱ → 0). For a Gaussian prior and orthonormal rows of a linear H that is the exact p(y | z_k).

A class: p̃_k(y | z_k) = p(class y | x̂_0(z_k)) of a classifier (Wu et al. 2023, §5.2). p(y | z_k) = E[p(y | x_0) | z_k],
and a classifier of clean data at x̂_0 = E[x_0 | z_k] is surer than that: between two Gaussians at ±m of variance S, with
the log-odds ℓ of p(y | z_k), those at x̂_0 are ℓ + 2m²/S·(1−ᾱ)/(ᾱS + 1−ᾱ)·tanh(ℓ/2) (put x̂_0 = [√ᾱ S z + (1−ᾱ) m
tanh(ℓ/2)]/(ᾱS + 1−ᾱ) into the clean log-odds 2m x/S). A classifier may therefore know ᾱ: one that is fitted to denoised
states approaches p(y | x̂_0, ᾱ) = E[p(y | z_k) | x̂_0], which does not overstate.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from csb.errors import CSBError
from csb.networks.diffusion import Denoiser
from csb.problems import AdditiveNoise, Pairs, Problem

_FLOOR = 0.01  # of the root mean variance of H(x) over the data


class GuidanceLikelihood(ABC):
    """log p̃_k(y | z_k), a function of y, x̂_0(z_k) and ᾱ_k; at ᾱ = 1 the likelihood log p(y | x).

    Attributes:
        z_variance: the mean variance v of a coordinate of z over the data, which says how long a horizon must be.
    """

    z_variance: float

    @abstractmethod
    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """At x̂_0 (B, *x_shape) in data units and y (B, *y_shape): (B,), float64, differentiable in x̂_0."""


class Likelihood(GuidanceLikelihood):
    """y = H(x) + N(0, σ²), softened while x is uncertain.

    Args:
        forward: H, (B, *x_shape) → (B, *y_shape), differentiable.
        noise_std: σ ≥ 0.
        spread: (*y_shape), the variance of H(x) over the data.
        z_variance: v.
        min_std: stands for σ where that is 0 (noise-free observations), in units of the root mean of ``spread``; > 0.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        noise_std: float,
        spread: Tensor,
        z_variance: float,
        min_std: float = 0.1,
    ) -> None:
        if not min_std > 0 or not math.isfinite(min_std):
            raise CSBError(f"min_std={min_std!r} is not positive; give the smallest deviation of y, e.g. 0.1")
        self.forward, self.noise_std = forward, noise_std
        self.spread, self.z_variance = spread.double(), z_variance
        self.floor = 0.0 if noise_std > 0 else min_std * float(spread.mean().sqrt())

    @classmethod
    def of(cls, problem: Problem, denoiser: Denoiser, train: Pairs, min_std: float = 0.1) -> "Likelihood":
        """From a problem with additive noise, else CSBError, and (a part of) its training pairs."""
        if not isinstance(problem, AdditiveNoise):
            raise CSBError(
                f"{problem.name} has no likelihood y = H(x) + noise, which guidance needs; compare it by exact samples"
            )
        spread = problem.forward(train.x).var(0)
        z_variance = float(denoiser.encode(train.x.to(denoiser.shift.device)).var(0).mean())
        return cls(problem.forward, problem.noise_std, spread, z_variance, min_std)

    @property
    def positive_std(self) -> float:
        """σ, or a floor above 0 for equations that 0 would make singular."""
        return max(self.noise_std, _FLOOR * float(self.spread.mean().sqrt()))

    def remaining(self, alpha_bar: float) -> float:
        """The variance v(1−ᾱ)/(1−ᾱ + ᾱv) of a coordinate of z_0 | z_k for a Gaussian prior of variance v."""
        return self.z_variance * (1 - alpha_bar) / (1 - alpha_bar + alpha_bar * self.z_variance)

    def variance(self, alpha_bar: float) -> Tensor:
        """s_k² of each coordinate of y, (*y_shape), float64; ᾱ = 1 gives that of the observation itself."""
        share = self.remaining(alpha_bar) / self.z_variance
        return max(self.noise_std, self.floor) ** 2 + share * self.spread

    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        var = self.variance(alpha_bar).to(y.device)
        square = (y - self.forward(x_0)).double() ** 2 / var
        return -0.5 * (square + (2 * math.pi * var).log()).flatten(1).sum(1)


class ClassLikelihood(GuidanceLikelihood):
    """y, one-hot, is the class that a classifier reads.

    Args:
        log_probabilities: of the classes at x̂_0 (B, *x_shape) in data units and ᾱ_k, (B, classes), differentiable.
        z_variance: v.
    """

    def __init__(self, log_probabilities: Callable[[Tensor, float], Tensor], z_variance: float) -> None:
        self.log_probabilities, self.z_variance = log_probabilities, z_variance

    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """CSBError where a row of y (B, classes) is not one-hot."""
        if not bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all()):
            raise CSBError("y holds rows that are no class; give one 1 among zeros in each")
        return (y * self.log_probabilities(x_0, alpha_bar)).double().sum(1)
