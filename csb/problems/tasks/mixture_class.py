"""Gaussians in the plane and which of them a point is from: classes with everything known in closed form.

p(y = c | x) = γ_c(x) ∝ w_c N(x; m_c, S_c), and p(x | y = c) = N(m_c, S_c). The exact p(y = c | x_k) of a noisy
state is the same of the diffused mixture (:mod:`csb.problems.exact.mixture`).
"""

import math
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csb.problems.base import ClassProblem, Simulated, register
from csb.problems.exact.mixture import Mixture
from csb.problems.specs import Dimension, Spread
from csb.problems.tasks.linear_gaussian import GaussianPosterior


@register
class MixtureClass(Simulated, ClassProblem):
    """x in ℝ² from one of several Gaussians on a circle, which overlap; y is which, one-hot.

    Component c = 0..components−1 has the weight (1 + c)/Σ, its mean on a circle at the angle 2πc/components, and the
    variances 1 along the radius and ¼ across.

    Args:
        components: how many.
        radius: of the circle.
    """

    components: Annotated[Dimension, Field(ge=2)] = 4
    radius: Spread = 1.5

    name = "mixture_class"
    x_shape = (2,)

    @property
    def classes(self) -> int:
        return self.components

    @cached_property
    def mixture(self) -> Mixture:
        """The prior."""
        angle = 2 * math.pi * torch.arange(self.components, dtype=torch.float64) / self.components
        out = torch.stack([angle.cos(), angle.sin()], dim=1)
        radial = out[:, :, None] * out[:, None]
        weights = 1 + torch.arange(self.components, dtype=torch.float64)
        covs = 0.25 * torch.eye(2, dtype=torch.float64) + 0.75 * radial
        return Mixture(weights / weights.sum(), self.radius * out, covs)

    def log_probabilities(self, x: Tensor) -> Tensor:
        """The exact log p(y = c | x) of every class, (B, 2) → (B, components); differentiable."""
        return self.mixture.log_responsibilities(x)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.mixture.sample(n, generator).float()

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        chance = self.log_probabilities(x).exp()
        return self.one_hot(torch.multinomial(chance, 1, generator=generator)[:, 0])

    def posterior(self, y: Tensor) -> GaussianPosterior:
        c = self.class_of(y)
        return GaussianPosterior(self.mixture.means[c], self.mixture.covs[c])
