import math
from typing import Any

import torch
from torch import Tensor

from csb.samplers.base import Fresh
from csb.samplers.diffusion import LinearSampler
from csb.schema import Share


class DDRM(LinearSampler):
    r"""Denoising diffusion restoration models (Kawar, Elad, Ermon & Song 2022, eq. 7 and 8), without gradients.

    In the states u = z/√ᾱ, levels σ_k = √((1−ᾱ_k)/ᾱ_k) and the axes of A = U diag(s) V*, a number ū_i of V*u is seen
    with the noise τ_i = σ/s_i at ȳ_i = (U*c)_i/s_i. From x̄_i = (V*x̂_0(z_{k+1}))_i and independent ε

    - unseen          ū_i = x̄_i + √(1−η²) σ_k (ū_{k+1,i} − x̄_i)/σ_{k+1} + η σ_k ε
    - τ_i > σ_k       ū_i = x̄_i + √(1−η²) σ_k (ȳ_i − x̄_i)/τ_i + η σ_k ε
    - τ_i ≤ σ_k       ū_i = (1−η_b) x̄_i + η_b ȳ_i + √(σ_k² − η_b² τ_i²) ε

    and at the start ū_T = ȳ + √(σ_T² − τ²) ε where it is seen well enough, N(0, σ_T²) elsewhere.
    At k = 0 what is left is x̄, or ȳ for σ = 0.

    Given y that is no posterior. It is exact (T → ∞) for σ = 0, η_b = 1 and η = 0 where seen coordinates say nothing of
    the others. η > 0 draws a share of the noise again around the point x̂_0 at every step, however small (DDIM's η goes
    with the size of the step), and loses the variance of z_0 | z_k there: of a Gaussian prior's, (1 + √(1−η²))/2 is
    left in the unseen coordinates as T → ∞. With noise ȳ is τ² off: little where the signal is large against it.
    """

    name = "ddrm"
    label = "DDRM"
    swept = ("eta", "η")
    needs_svd = True
    eta: Share = 0.85
    """η: fresh noise of the coordinates that are not seen, or worse than the level."""
    eta_b: Share = 1.0
    """η_b: weight of y in those that are seen better than the level."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.sigma, self.root = self.grid.noise_ratio.tolist(), self.grid.alpha_bar.sqrt().tolist()
        values = self.svd.values
        self.s, self.tau = values.to(self.denoiser.shift), (self.std / values).to(self.denoiser.shift)

    def observed(self, y: Tensor) -> Tensor:
        """U*c (B, r)."""
        return self.svd.ut(super().observed(y))

    def start(self, y: Tensor, fresh: Fresh) -> Tensor:
        sigma, noise = self.sigma[-1], fresh()
        e = self.svd.vt(noise)
        well = y / self.s + (sigma**2 - self.tau**2).clamp_min(0).sqrt() * e
        return sigma * noise + self.svd.v(torch.where(self.tau <= sigma, well, sigma * e) - sigma * e)

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        z_0 = self.denoise(self.root[k] * z, k)
        noise = fresh() if k > 1 else torch.zeros_like(z)
        kept = math.sqrt(1 - self.eta**2) * self.sigma[k - 1]
        rest = z_0 + kept / self.sigma[k] * (z - z_0) + self.eta * self.sigma[k - 1] * noise
        return rest + self.svd.v(self._seen(y, z_0, noise, self.sigma[k - 1], kept) - self.svd.vt(rest))

    def _seen(self, seen: Tensor, z_0: Tensor, noise: Tensor, sigma: float, kept: float) -> Tensor:
        """ū_k of the coordinates that A sees, (N, r); ``kept`` is √(1−η²) σ_k."""
        guess, e = self.svd.vt(z_0), self.svd.vt(noise)
        well = (1 - self.eta_b) * guess + self.eta_b * seen / self.s
        well = well + (sigma**2 - (self.eta_b * self.tau) ** 2).clamp_min(0).sqrt() * e
        if self.std == 0:
            return well
        poorly = guess + kept * (seen - self.s * guess) / self.std + self.eta * sigma * e
        return torch.where(self.tau <= sigma, well, poorly)
