r"""The ensemble score filter (Bao, Zhang & Zhang 2024, CMAME 432, 117447): a diffusion model without training.

In coordinates z standardised by the forecast's means and standard deviations, z_t = α_t z_0 + β_t ε with α_t = 1 −
t(1 − ε_α) and β_t² = t, t in [0, 1]. The score of the forecast at z_t is that of the members' own mixture of
Gaussians,

    s_t(z) = Σ_j w_j(z)·(α_t z^j − z)/β_t²,    w_j(z) ∝ exp(−|z − α_t z^j|²/(2β_t²)),

and that of the analysis is taken to be s_t(z) + h(t)·∇_z log p(y | z) with the damping h(t) = 1 − t: the likelihood
of the noisy state itself, which is right at t = 0 alone. So the filter is biased, for Gaussians as a linear recursion
tells (tests/filtering/test_ensf.py).

u = z_t/c_t with c_t² = α_t² + β_t² preserves variance, with ᾱ = α_t²/c_t². In the clock s = −log ᾱ its reverse SDE is
du = [−½u − S] ds + dW̄, where S = c_t·(score in z). Euler's rule for the forecast's part of S, with near, far and var of
:func:`csb.process.euler_maruyama` and the denoiser of the members, gives

    u' = near·u_k + far·ẑ_0 + √var·ε,    ẑ_0 = Σ_j w_j z^j.

The step of the likelihood's part, which would explode where y is precise, is implicit, in h linearised at u': with δ =
s_k − s_{k−1}, J = ∂h/∂z and B = √(δ h_{k−1}) c_{k−1} J/σ,

    u_{k−1} = u' + Bᵀ(I + BBᵀ)⁻¹[√(δ h_{k−1}) (y − h(c_{k−1} u'))/σ + ξ],    ξ ~ N(0, δ/2 I),

stable for any σ where h is linear. ξ gives back what an implicit step damps of ε beyond what the SDE does: a direction
that y decides has the SDE's variance, half of what is right, down to σ → 0. At k = 1, where var = 0 for the sake of
what y does not decide, ξ has the covariance δ/2 I + (I + BBᵀ/δ)⁻¹: ε is kept in the measure of Kalman's gain.

Where M members are few against the dimensions, that denoiser leads every state back to the member nearest to it, and
near the observation to the same few: the ensemble collapses. With a mini-batch of one, ẑ_0 = z^m for state m, each is
led back to its own member, which keeps the members apart. That estimates no score; its bias is another one, known for
any forecast since the steps are affine.
"""

from functools import cached_property
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.filtering.filters import Analysis, Filter
from csb.filtering.models import StateSpace
from csb.filtering.whitening import spread
from csb.process import Grid, euler_maruyama, noise_like
from csb.process.schedule import MOST_STEPS
from csb.schema import Count, Schema


def denoise(u: Tensor, members: Tensor, alpha_bar: float) -> Tensor:
    """E[z_0 | u] (B, d) for z_0 one of the members (M, d), each as likely, and u = √ᾱ z_0 + √(1−ᾱ) ε."""
    centres = alpha_bar**0.5 * members
    square = u.square().sum(1, keepdim=True) - 2 * u @ centres.T + centres.square().sum(1)
    return (-square / (2 * (1 - alpha_bar))).softmax(1) @ members


def _assimilate(B: Tensor, gap: Tensor, spare: Tensor | None, delta: Tensor) -> Tensor:
    """Bᵀ(I + BBᵀ)⁻¹(gap + L⁻ᵀ spare), L Lᵀ = I + BBᵀ/δ: B (M, m, d), or (1, m, d) for all, the others (M, m)."""
    eye, gram = torch.eye(B.shape[1], dtype=B.dtype), B @ B.mT
    columns = gap.T[None] if len(B) == 1 else gap[..., None]
    if spare is not None:
        factor = torch.linalg.cholesky_ex(eye + gram / delta).L  # fails for NaN alone, which comes through
        extra = spare.T[None] if len(B) == 1 else spare[..., None]
        columns = columns + torch.linalg.solve_triangular(factor.mT, extra, upper=True)
    found = B.mT @ torch.cholesky_solve(columns, torch.linalg.cholesky_ex(eye + gram).L)
    return found[0].T if len(B) == 1 else found[..., 0]


class EnSF(Filter, Schema):
    """See the module's docstring."""

    name: ClassVar[str] = "ensf"

    steps: int = Field(default=100, ge=2, le=MOST_STEPS, description="T")
    floor: float = Field(default=0.05, ge=1e-4, lt=1, description="ε_α, the share of the state that is left at t = 1")
    batch: Count | None = None
    """Members that the score is estimated from, drawn once an analysis, at a cost of M·batch·T; None for all; 1 for
    each state its own."""
    inflation: float = Field(default=1.0, ge=1, description="λ, by which the analysis is spread about its mean")

    @cached_property
    def _t(self) -> Tensor:
        return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)

    @cached_property
    def scale(self) -> Tensor:
        """(steps + 1,), c_t."""
        return ((1 - self._t * (1 - self.floor)).square() + self._t).sqrt()

    @cached_property
    def grid(self) -> Grid:
        """ᾱ = α_t²/c_t²."""
        return Grid((1 - self._t * (1 - self.floor)).square() / self.scale.square())

    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        mean, std = x.mean(0), spread(x)
        members = (x - mean) / torch.where(std > 0, std, torch.inf)
        if self.batch is not None and 1 < self.batch < len(x):
            members = members[torch.randperm(len(x), generator=generator)[: self.batch]]
        s, u = self.grid.clock, noise_like(x, generator)
        for k in range(self.steps, 0, -1):
            law, c, delta = euler_maruyama(self.grid, k), self.scale[k - 1], s[k] - s[k - 1]
            guess = members if self.batch == 1 else denoise(u, members, float(self.grid.alpha_bar[k]))
            u = law.near * u + law.far * guess + law.var.sqrt() * noise_like(u, generator)
            h, J = model.linearised(mean + std * c * u)
            weight = (delta * (1 - self._t[k - 1])).sqrt() / model.noise_std
            gap = weight * (y - h) + (delta / 2).sqrt() * noise_like(h, generator)
            spare = noise_like(h, generator) if k == 1 else None
            u = u + _assimilate(weight * c * J * std, gap, spare, delta)
        centre = u.mean(0)
        return Analysis(mean + std * (centre + self.inflation * (u - centre)), {"shift": float(centre.norm())})
