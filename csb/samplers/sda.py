r"""SDA: score-based data assimilation (Rozet & Louppe 2023, eq. 12 and algorithms 3 and 4).

p(y | z_k) is taken for N(y; H(x̂_0), σ² I + γ (1−ᾱ_k)/ᾱ_k G), (1−ᾱ)/ᾱ the variance of z_0 | z_k for a flat prior. G
turns variances of z into such of y: for a linear H = A it is A A* on z's scale, by A's singular values (the paper has a
multiple of I, which softens small singular values too much); for another H it is gI, g the mean of Var[H(x)]/v over
the numbers of y and v the variance of a coordinate of z. γ = 1 is right near the data, and follows y too little at
large noise.

Each step is DDIM's deterministic one with the posterior's guess x̂_0 + (1−ᾱ)/√ᾱ ∇log p(y | z_k). It is followed by
corrections at the level reached, Langevin steps on its own approximate posterior, s = ∇log p_k(z) + ∇log p(y | z),
which forget the errors of the levels before:

    z ← z + δ s + √(2δ) ε,   δ = τ (1−ᾱ_k) γ/(1 + γ).

The paper's δ = τ d/‖s‖² depends on the state, which changes the law that the steps leave as it is. (1 + γ)/(γ(1−ᾱ))
bounds the curvature of the two parts for a linear H and a Gaussian prior: τ < 2 is stable.
"""

import math
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from csb.errors import MOST_ROUNDS
from csb.process import ddim, mix
from csb.samplers.base import Fresh
from csb.samplers.diffusion import DiffusionSampler
from csb.schema import Positive


class SDA(DiffusionSampler):
    """For any y = H(x) + noise."""

    name = "sda"
    label = "SDA"
    swept = ("gamma", "γ")
    guided = True
    gamma: Positive = 1.0
    """γ; sweep over e.g. 0.1 … 10."""
    corrections: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] = 2
    """Langevin steps a level."""
    step: Annotated[float, Field(gt=0, lt=2)] = 0.5
    """τ."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.noise_var = self.likelihood.positive_std**2
        self.gain = float(self.likelihood.spread.mean()) / self.likelihood.z_variance
        self.svd = None if self.likelihood.operator is None else self.likelihood.operator.svd

    @property
    def passes(self) -> tuple[int, int]:
        total = self.grid.T + self.corrections * (self.grid.T - 1)
        return total, total

    def log_likelihood(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """log p(y | z_k) up to a constant, (N,), float64."""
        soft, residual = self.gamma * (1 - alpha_bar) / alpha_bar, (y - self.likelihood.forward(x_0)).double()
        if self.svd is None:
            return -0.5 * (residual**2).flatten(1).sum(1) / (self.noise_var + soft * self.gain)
        s, seen = self.svd.values.to(residual.device), self.svd.ut(residual)
        rest = (residual - self.svd.u(seen)).flatten(1)  # what no x explains
        var = self.noise_var + soft * (self.denoiser.scale * s) ** 2
        return -0.5 * ((seen**2 / var).sum(1) + (rest**2).sum(1) / self.noise_var)

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        at, alpha_bar = self.guide(z, k, y, self.log_likelihood), float(self.grid.alpha_bar[k])
        z = mix(ddim(self.grid, k), z, at.z_0 + (1 - alpha_bar) / math.sqrt(alpha_bar) * at.gradient)
        for _ in range(self.corrections if k > 1 else 0):
            at, alpha_bar = self.guide(z, k - 1, y, self.log_likelihood), float(self.grid.alpha_bar[k - 1])
            score = (math.sqrt(alpha_bar) * at.z_0 - z) / (1 - alpha_bar) + at.gradient
            delta = self.step * (1 - alpha_bar) * self.gamma / (1 + self.gamma)
            z = z + delta * score + math.sqrt(2 * delta) * fresh()
        return z
