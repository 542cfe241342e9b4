r"""The likelihood that guides a diffusion sampler: p̃_k(y | z_k) = N(y; H(x̂_0(z_k)), s_k²), x̂_0 the denoiser's.

x̂_0 is uncertain by the law of z_0 | z_k. For a Gaussian prior of variance v a coordinate (in z) that leaves
v(1−ᾱ)/(1−ᾱ + ᾱv), a share (1−ᾱ)/(1−ᾱ + ᾱv) of the prior's. The same share of the variance of H(x) over the data is
added to the variance of the noise: s_k² = σ² + Var[H(x)]·(1−ᾱ_k)/(1−ᾱ_k + ᾱ_k v), *on the scale of the data* (Wu et
al. 2023, §4; Rozet & Louppe 2023, eq. 12; without the data's scale it diverges as ᾱ → 0). For a Gaussian prior and
orthonormal rows of a linear H that is the exact p(y | z_k).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.networks.diffusion import Denoiser
from csb.problems import AdditiveNoise, Pairs, Problem
from csb.samplers.guidance_likelihood import GuidanceLikelihood


class Likelihood(GuidanceLikelihood):
    """y = H(x) + N(0, σ²), softened while x is uncertain.

    Args:
        forward: H, (B, *x_shape) → (B, *y_shape), differentiable.
        noise_std: σ ≥ 0.
        spread: (*y_shape), the variance of H(x) over the data.
        z_variance: the mean variance v of a coordinate of z over the data.
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
        """From a problem with additive noise and (a part of) its training pairs.

        CSBError for a problem whose likelihood is not a density of this kind.
        """
        if not isinstance(problem, AdditiveNoise):
            raise CSBError(
                f"{problem.name} has no likelihood y = H(x) + noise, which guidance needs; compare it by exact samples"
            )
        spread = problem.forward(train.x).var(0)
        z_variance = float(denoiser.encode(train.x.to(denoiser.shift.device)).var(0).mean())
        return cls(problem.forward, problem.noise_std, spread, z_variance, min_std)

    def remaining(self, alpha_bar: float) -> float:
        """The variance v(1−ᾱ)/(1−ᾱ + ᾱv) of a coordinate of z_0 | z_k for a Gaussian prior of variance v."""
        return self.z_variance * (1 - alpha_bar) / (1 - alpha_bar + alpha_bar * self.z_variance)

    def variance(self, alpha_bar: float) -> Tensor:
        """s_k² of each coordinate of y, (*y_shape), float64; ᾱ = 1 gives that of the observation itself."""
        share = self.remaining(alpha_bar) / self.z_variance
        return max(self.noise_std, self.floor) ** 2 + share * self.spread

    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """log p̃_k(y | z_k) at x̂_0 (B, *x_shape), y (B, *y_shape): (B,), float64."""
        var = self.variance(alpha_bar).to(y.device)
        square = (y - self.forward(x_0)).double() ** 2 / var
        return -0.5 * (square + (2 * math.pi * var).log()).flatten(1).sum(1)


def residual_norm(likelihood: Likelihood, y: Tensor, x_0: Tensor) -> Tensor:
    """‖y − H(x̂_0)‖₂ of each sample, (B,): never over the batch."""
    return torch.linalg.vector_norm((y - likelihood.forward(x_0)).flatten(1), dim=1)
