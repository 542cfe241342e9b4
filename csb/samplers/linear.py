r"""What the guided samplers of linear problems share: y in z's units, and steps from a guess of E[z_0 | z_k, y].

In z = (x − shift)/scale an observation y = A x + σε is c = A z_0 + (σ/scale) ε with c = (y − A shift)/scale. Whatever
stands for p(y | z_k), its gradient turns the denoiser's x̂_0 into that of the posterior, by Tweedie's formula for the
marginals of p(z_0 | y):

    E[z_0 | z_k, y] = x̂_0 + (1−ᾱ_k)/√ᾱ_k ∇_{z_k} log p(y | z_k),

and where z_0 | z_k is a Gaussian of covariance C it is (C = (1−ᾱ)/√ᾱ ∇x̂_0, the covariance by Tweedie's second formula)
x̂_0 + C A*(A C A* + σ² I)⁻¹(c − A x̂_0): the methods differ in what they take for C. The step is DDIM's of
:mod:`csb.process.reverse`, with the posterior's guess in the place of the prior's; η = 1 is the ancestral one.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from csb.bridge.bridge import autocast
from csb.errors import CSBError
from csb.problems import SVD, LinearProblem
from csb.process import Noise, ddim, expand, mix
from csb.samplers.base import Draws
from csb.samplers.diffusion import DiffusionSampler, require_eta

FLOOR = 0.01  # of the root mean variance of A x over the data: stands for σ where 0 would make an equation singular
ROUNDING = 10 * torch.finfo(torch.float32).eps  # of the largest s: y and the states are float32
Spread = Callable[[Tensor], Tensor]  # C A* v in z's units for v (N, *y_shape)


class LinearSampler(DiffusionSampler):
    """A sampler for y = A x + σε; see the module's docstring. CSBError for another problem.

    Attributes:
        operator: A.
        std: σ in z's units, ≥ 0.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if not isinstance(self.problem, LinearProblem):
            raise CSBError(f"{self.problem.name} is not linear; {self.label} needs y = A x + noise")
        self.operator, self.std = self.problem.operator, self.problem.noise_std / self.denoiser.scale

    def known_svd(self) -> SVD:
        """That of A. Where y has no noise, of what float32 tells from rounding alone: errors are divided by s there."""
        return self.operator.svd if self.std > 0 else self.operator.svd.above(ROUNDING)

    @property
    def positive_std(self) -> float:
        """σ in z's units, or the floor, which is above 0."""
        return max(self.std, FLOOR * float(self.likelihood.spread.mean().sqrt()) / self.denoiser.scale)

    def observed(self, y: Tensor) -> Tensor:
        """c (B, *y_shape)."""
        return (y - self.operator(self.denoiser.shift[None])) / self.denoiser.scale


class MomentSampler(LinearSampler):
    """A linear sampler that takes z_0 | z_k for a Gaussian, by the Jacobian of the denoiser.

    Args:
        eta: η of DDIM's step, in [0, 1].
        **settings: see :class:`DiffusionSampler`.
    """

    def __init__(self, *args: Any, eta: float = 1.0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.eta = require_eta(eta, self.label)

    @property
    @abstractmethod
    def products(self) -> int:
        """Backward passes a step."""

    @abstractmethod
    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        """E[z_0 | z_k, y] − x̂_0, (N, *x_shape), from c − A x̂_0; ``spread`` may be called :attr:`products` times."""

    def posterior_mean(self, z: Tensor, k: int, c: Tensor) -> Tensor:
        """E[z_0 | z_k, y] for states z (N, *x_shape), c (N, *y_shape), ``batch_size`` states a network call."""
        alpha_bar = self.grid.alpha_bar[k].to(self.device)
        ratio = float((1 - alpha_bar) / alpha_bar.sqrt())
        parts = []
        for z_part, c_part in zip(z.split(self.batch_size), c.split(self.batch_size)):
            at = z_part.detach().requires_grad_()
            with torch.enable_grad(), autocast(self.precision, self.device):
                z_0 = self.denoiser(at, alpha_bar)

            def spread(v: Tensor, z_0: Tensor = z_0, at: Tensor = at) -> Tensor:
                (found,) = torch.autograd.grad(z_0, at, self.operator.adjoint(v), retain_graph=True)
                return ratio * found

            guess = z_0.detach()
            parts.append(guess + self.correction(c_part - self.operator(guess), spread, float(alpha_bar)))
        return torch.cat(parts)

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        c, z = self.observed(y).repeat_interleave(n, 0), noise.normal(n, *self.x_shape)
        for k in range(self.grid.T, 0, -1):
            law = ddim(self.grid, k, self.eta)
            z = mix(law, z, self.posterior_mean(z, k, c))
            if float(law.var) > 0:
                z = z + expand(law.var.sqrt(), z) * noise.normal(n, *self.x_shape)
        return Draws(self.finish(z, y, n), self.grid.T, self.grid.T * self.products)
