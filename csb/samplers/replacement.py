r"""Replacement: what y says of z_k is put in place before every step (Song et al. 2021, appendix I.2; Ho et al. 2022).

With A A* = c I, P = A*A/c projects onto what is observed. Given y = A x + σε, x̃ = A*y/c stands for P x (σ is taken
for 0), and z_k ← (I − P) z_k + P(√ᾱ_k z̃ + √(1−ᾱ_k) ε), z̃ = (x̃ − P shift)/scale. The other coordinates learn of it
through the denoiser only: the samples are not from the posterior, for no step looks back (Trippe et al. 2023).
"""

from typing import Any

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems import LinearProblem
from csb.process import Noise, expand
from csb.samplers.base import Draws
from csb.samplers.diffusion import DiffusionSampler


class Replacement(DiffusionSampler):
    """See the module's docstring. CSBError for a problem whose operator is not a multiple of a projection."""

    name = "replacement"
    label = "replacement"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        problem = self.problem
        if not isinstance(problem, LinearProblem):
            raise CSBError(f"{problem.name} is not linear; replacement needs y = A x + noise")
        self.operator = problem.operator
        probe = torch.randn((2, *problem.x_shape), generator=torch.Generator().manual_seed(0))
        seen = self.operator(probe)
        again = self.operator(self.operator.adjoint(seen))
        self.c = float((again * seen).sum() / (seen * seen).sum())
        if not torch.allclose(again, self.c * seen, atol=1e-4 * float(seen.abs().max())):
            raise CSBError(f"A A* of {problem.name} is not a multiple of the identity; replacement cannot be used")

    def _project(self, x: Tensor) -> Tensor:
        """P x."""
        return self.operator.adjoint(self.operator(x)) / self.c

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        known = self.operator.adjoint(y) / self.c - self._project(self.denoiser.shift[None])
        known = (known / self.denoiser.scale).repeat_interleave(n, 0)
        z = noise.normal(n, *self.x_shape)
        for k in range(self.grid.T, 0, -1):
            law = self.reference.marginal(k)
            there = expand(law.scale, z) * known + expand(law.var.sqrt(), z) * noise.normal(n, *self.x_shape)
            z = z + self._project(there - z)
            step = self.step(z, self.denoise(z, k), k)
            z = step.mean
            if k > 1:
                z = z + step.var**0.5 * noise.normal(n, *self.x_shape)
        z = z + known - self._project(z)
        return Draws(self.finish(z, y, n), self.grid.T, 0)
