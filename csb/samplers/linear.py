r"""What the guided samplers of linear problems share: y in z's units, and steps from a guess of E[z_0 | z_k, y].

In z = (x − shift)/scale an observation y = A x + σε is c = A z_0 + (σ/scale) ε with c = (y − A shift)/scale. Whatever
stands for p(y | z_k), its gradient turns the denoiser's x̂_0 into that of the posterior, by Tweedie's formula for the
marginals of p(z_0 | y):

    E[z_0 | z_k, y] = x̂_0 + (1−ᾱ_k)/√ᾱ_k ∇_{z_k} log p(y | z_k),

and where z_0 | z_k is a Gaussian of covariance C it is (C = (1−ᾱ)/√ᾱ ∇x̂_0, the covariance by Tweedie's second formula)
x̂_0 + C A*(A C A* + σ² I)⁻¹(c − A x̂_0): the methods differ in what they take for C. The step is DDIM's of
:mod:`csb.process.reference`, with the posterior's guess in the place of the prior's; η = 1 is the ancestral one.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems import SVD
from csb.process import ddim, mix
from csb.samplers.base import Fresh, noised
from csb.samplers.diffusion import DiffusionSampler
from csb.schema import Share

ROUNDING = 10 * torch.finfo(torch.float32).eps  # of the largest s: y and the states are float32
Spread = Callable[[Tensor], Tensor]  # C A* v in z's units for v (N, *y_shape)


class LinearSampler(DiffusionSampler):
    """A sampler for y = A x + σε; see the module's docstring. CSBError for a likelihood without an operator.

    Attributes:
        operator: A.
        std: σ in z's units, ≥ 0.
        svd: that of A, of a method that ``needs_svd``. Where y has no noise, of what float32 tells from rounding alone:
            errors are divided by s there.
    """

    needs_svd: ClassVar[bool] = False
    svd: SVD

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        if self.likelihood.operator is None:
            raise CSBError(
                f"{self.likelihood.name} has no linear operator; {self.label} needs y = A x + noise, A a matrix or a "
                f"csb.problems.Operator; tds, smc, dps, copaint, sda and guidance take any differentiable function"
            )
        self.operator, self.std = self.likelihood.operator, self.likelihood.noise_std / self.denoiser.scale
        if self.needs_svd:
            self.svd = self.operator.svd if self.std > 0 else self.operator.svd.above(ROUNDING)

    def observed(self, y: Tensor) -> Tensor:
        """c (B, *y_shape)."""
        return (y - self.operator(self.denoiser.shift[None])) / self.denoiser.scale


class MomentSampler(LinearSampler):
    """A linear sampler that takes z_0 | z_k for a Gaussian, by the Jacobian of the denoiser."""

    guided = True
    eta: Share = 1.0
    """η of DDIM's step; 1 is the ancestral step."""

    @abstractmethod
    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        """E[z_0 | z_k, y] − x̂_0, (N, *x_shape), from c − A x̂_0; ``spread`` is called once a backward pass of a step."""

    def posterior_mean(self, z: Tensor, k: int, c: Tensor) -> Tensor:
        """E[z_0 | z_k, y] for states z (N, *x_shape), c (N, *y_shape), ``batch_size`` states a network call."""
        alpha_bar = self.grid.alpha_bar[k]
        ratio, size = float((1 - alpha_bar) / alpha_bar.sqrt()), self.batch_size
        parts = []
        for z_part, c_part in zip(z.split(size), c.split(size)):
            at, z_0 = self.tracked(z_part, k)

            def spread(v: Tensor, z_0: Tensor = z_0, at: Tensor = at) -> Tensor:
                (found,) = torch.autograd.grad(z_0, at, self.operator.adjoint(v), retain_graph=True)
                return ratio * found

            guess = z_0.detach()
            parts.append(guess + self.correction(c_part - self.operator(guess), spread, float(alpha_bar)))
        return torch.cat(parts)

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        law = ddim(self.grid, k, self.eta)
        return noised(mix(law, z, self.posterior_mean(z, k, y)), law.var, fresh)
