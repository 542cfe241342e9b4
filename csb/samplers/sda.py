r"""SDA: score-based data assimilation (Rozet & Louppe 2023, eq. 12 and algorithms 3 and 4).

p(y | z_k) is taken for N(y; H(x̂_0), σ² I + γ (1−ᾱ_k)/ᾱ_k G), (1−ᾱ)/ᾱ the variance of z_0 | z_k for a flat prior. G
turns variances of z into such of y: for a linear H = A it is A A* on z's scale, by A's singular values (the paper has a
multiple of I, which softens small singular values too much); for another H it is gI, g the mean of Var[H(x)]/v over
the numbers of y and v the variance of a coordinate of z. For a prior N(m, v I) and a linear H the exact γ is
v/(v + (1−ᾱ)/ᾱ): 1 near the data, less at large noise, where γ = 1 follows y too little. With γ ≥ 1 and A A* no
direction is corrected beyond what y says, whatever the prior.

Each step is DDIM's deterministic one with the posterior's guess x̂_0 + (1−ᾱ)/√ᾱ ∇log p(y | z_k). It is followed by
corrections at the level reached, Langevin steps on its own approximate posterior, s = ∇log p_k(z) + ∇log p(y | z):

    z ← z + δ s + √(2δ) ε,   δ = τ (1−ᾱ_k) γ/(1 + γ),

which forget the errors of the levels before: what counts is the law of the last levels, where it is right. The paper's
δ = τ d/‖s‖² depends on the state, which changes the law that the steps leave as it is; here it does not, and since (1
+ γ)/(γ(1−ᾱ)) bounds the curvature of the two parts for a linear H and a Gaussian prior, τ < 2 is stable.
"""

import math
from typing import Any

from torch import Tensor

from csb.errors import MOST_ROUNDS, CSBError, is_number, require_int
from csb.problems import LinearProblem
from csb.process import Noise, ddim, mix
from csb.samplers.base import Draws
from csb.samplers.diffusion import DiffusionSampler, Guidance
from csb.samplers.linear import FLOOR


class SDA(DiffusionSampler):
    """See the module's docstring. Any problem with additive noise.

    Args:
        gamma: γ > 0.
        corrections: Langevin steps a level, ≥ 0.
        step: τ in (0, 2).
        **settings: see :class:`DiffusionSampler`.
    """

    name = "sda"
    label = "SDA"
    swept = ("gamma", "γ")

    def __init__(
        self, *args: Any, gamma: float = 1.0, corrections: int = 2, step: float = 0.5, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        if not is_number(gamma) or not 0 < gamma < math.inf:
            raise CSBError(f"gamma={gamma!r} of SDA is no number above 0; sweep over e.g. 0.1 … 10")
        if not is_number(step) or not 0 < step < 2:
            raise CSBError(f"step={step!r} of SDA is outside (0, 2), where its Langevin steps are stable; try 0.5")
        require_int("corrections", corrections, 0, MOST_ROUNDS)
        self.gamma, self.corrections, self.step_size = float(gamma), corrections, float(step)
        spread = self.likelihood.spread
        self.noise_var = max(self.likelihood.noise_std, FLOOR * float(spread.mean().sqrt())) ** 2
        self.gain = float(spread.mean()) / self.likelihood.z_variance
        self.svd = self.problem.operator.svd if isinstance(self.problem, LinearProblem) else None

    def log_likelihood(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """log p(y | z_k) up to a constant, (N,), float64."""
        soft, residual = self.gamma * (1 - alpha_bar) / alpha_bar, (y - self.likelihood.forward(x_0)).double()
        if self.svd is None:
            return -0.5 * (residual**2).flatten(1).sum(1) / (self.noise_var + soft * self.gain)
        s, seen = self.svd.values.to(residual.device), self.svd.ut(residual)
        rest = (residual - self.svd.u(seen)).flatten(1)  # what no x explains
        var = self.noise_var + soft * (self.denoiser.scale * s) ** 2
        return -0.5 * ((seen**2 / var).sum(1) + (rest**2).sum(1) / self.noise_var)

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        each, z = y.repeat_interleave(n, 0), noise.normal(n, *self.x_shape)
        for k in range(self.grid.T, 0, -1):
            at, alpha_bar = self.guide(z, k, each, self.log_likelihood), float(self.grid.alpha_bar[k])
            z = mix(ddim(self.grid, k), z, at.z_0 + (1 - alpha_bar) / math.sqrt(alpha_bar) * at.gradient)
            for _ in range(self.corrections if k > 1 else 0):
                z = self._correct(z, k - 1, self.guide(z, k - 1, each, self.log_likelihood), noise, n)
        passes = self.grid.T + self.corrections * (self.grid.T - 1)
        return Draws(self.finish(z, y, n), passes, passes)

    def _correct(self, z: Tensor, k: int, at: Guidance, noise: Noise, n: int) -> Tensor:
        """A Langevin step at level k."""
        alpha_bar = float(self.grid.alpha_bar[k])
        score = (math.sqrt(alpha_bar) * at.z_0 - z) / (1 - alpha_bar) + at.gradient
        delta = self.step_size * (1 - alpha_bar) * self.gamma / (1 + self.gamma)
        return z + delta * score + math.sqrt(2 * delta) * noise.normal(n, *self.x_shape)
