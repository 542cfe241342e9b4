r"""The ensemble score filter (Bao, Zhang & Zhang 2024, CMAME 432, 117447): a diffusion model without training.

In coordinates z standardised by the forecast's means and standard deviations, z_t = α_t z_0 + β_t ε with α_t = 1 −
t(1 − ε_α) and β_t² = t, t in [0, 1]. The score of the forecast at z_t is that of the members' own mixture of
Gaussians,

    s_t(z) = Σ_j w_j(z)·(α_t z^j − z)/β_t²,    w_j(z) ∝ exp(−|z − α_t z^j|²/(2β_t²)),

and that of the analysis is taken to be s_t(z) + h(t)·∇_z log p(y | z) with the damping h(t) = 1 − t: the likelihood
of the noisy state itself, which is right at t = 0 alone. So the filter is biased, for Gaussians by what a linear
recursion tells (tests/filtering/test_ensf.py). The reverse SDE is integrated by Euler's rule.

On this project's process: u = z_t/c_t with c_t² = α_t² + β_t² preserves variance, with ᾱ = α_t²/c_t². In the clock s
= −log ᾱ its reverse SDE is du = [−½u − S] ds + dW̄, where S = c_t·(score in z), so that

    u_{k−1} = near·u_k + far·ẑ_0 + (s_k − s_{k−1})·c_k·h_k·∇_z log p(y | z = c_k u_k) + √var·ε,    ẑ_0 = Σ_j w_j z^j,

with near, far and var of :func:`csb.process.euler_maruyama`: the denoiser of the members takes the place of a trained
one. Where M members are few against the dimensions, that denoiser leads every state back to the member nearest to it,
and near the observation to the same few: the ensemble collapses. With a mini-batch of one, ẑ_0 = z^m for state m, each
state is led back to its own member: a relaxation towards the observation that keeps the members apart. It is no
estimate of the forecast's score, and its bias is another one, known for any forecast since the steps are affine.
"""

import torch
from torch import Tensor

from csb.errors import CSBError, require_int
from csb.filtering.base import Analysis, Filter, require_between
from csb.filtering.model import StateSpace
from csb.process import Grid, clock, euler_maruyama, noise_like


def denoise(u: Tensor, members: Tensor, alpha_bar: float) -> Tensor:
    """E[z_0 | u] (B, d) for z_0 one of the members (M, d), each as likely, and u = √ᾱ z_0 + √(1−ᾱ) ε."""
    centres = alpha_bar**0.5 * members
    square = u.square().sum(1, keepdim=True) - 2 * u @ centres.T + centres.square().sum(1)
    return (-square / (2 * (1 - alpha_bar))).softmax(1) @ members


class EnSF(Filter):
    """See the module's docstring.

    Args:
        steps: T ≥ 2, of Euler's rule.
        floor: ε_α in (0, 1), the share of the state that is left at t = 1.
        batch: members that the score is estimated from, drawn once an analysis, at a cost of M·batch·T; None for all;
            1 for each state its own.
        inflation: λ ≥ 1, by which the analysis is spread about its mean.

    Raises:
        CSBError: a value out of range.
    """

    name = "ensf"

    def __init__(self, steps: int = 100, floor: float = 0.05, batch: int | None = None, inflation: float = 1.0) -> None:
        require_int("steps", steps, 2)
        if batch is not None:
            require_int("batch", batch, 1)
        require_between("floor", floor, 1e-4, 1)
        if floor == 1:
            raise CSBError("floor=1 leaves no noise to start from; choose .05")
        require_between("inflation", inflation, 1)
        self.steps, self.batch, self.inflation = steps, batch, inflation
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        alpha = 1 - t * (1 - floor)
        self.scale = (alpha.square() + t).sqrt()
        self.grid, self.damping = Grid(alpha.square() / self.scale.square()), 1 - t

    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        mean, std = x.mean(0), x.std(0)
        members = (x - mean) / std
        if self.batch is not None and 1 < self.batch < len(x):
            members = members[torch.randperm(len(x), generator=generator)[: self.batch]]
        s, u = clock(self.grid), noise_like(x, generator)
        for k in range(self.steps, 0, -1):
            law, c = euler_maruyama(self.grid, k), self.scale[k]
            force = c * self.damping[k] * std * model.likelihood_score(y, mean + std * c * u)
            guess = members if self.batch == 1 else denoise(u, members, float(self.grid.alpha_bar[k]))
            u = law.near * u + law.far * guess + (s[k] - s[k - 1]) * force + law.var.sqrt() * noise_like(u, generator)
        centre = u.mean(0)
        return Analysis(mean + std * (centre + self.inflation * (u - centre)), {"shift": float(centre.norm())})
