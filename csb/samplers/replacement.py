r"""Replacement: the seen part of the state is put in place before each step; and what RePaint and ILVR share with it.

All need an operator with A A* = c I, whose P = A*A/c projects onto what is observed. Given y = A x + σε, A*y/c stands
for P x (σ is taken for 0), and z̃ = (A*y/c − P shift)/scale for P z_0. The seen part of a state at level k is put in
place by a noised copy, z ← (I − P) z + P(√ᾱ_k z̃ + √(1−ᾱ_k) ε).
"""

from typing import Any

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.process import expand
from csb.samplers.base import Fresh, noised
from csb.samplers.diffusion import LinearSampler


class ProjectionSampler(LinearSampler):
    """A sampler that replaces the seen part P z of its states. CSBError where A*A is no multiple of a projection."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        probe = torch.randn((2, *self.x_shape), dtype=torch.float32, generator=torch.Generator().manual_seed(0))
        seen = self.operator(probe)
        again = self.operator(self.operator.adjoint(seen))
        self.c = float((again * seen).sum() / (seen * seen).sum())
        if not torch.allclose(again, self.c * seen, atol=1e-4 * float(seen.abs().max())):
            raise CSBError(
                f"A A* of {self.likelihood.name} is not a multiple of the identity; {self.label} cannot be used"
            )

    def project(self, x: Tensor) -> Tensor:
        """P x, (N, *x_shape)."""
        return self.operator.adjoint(self.operator(x)) / self.c

    def observed(self, y: Tensor) -> Tensor:
        """z̃ = P z̃, (B, *x_shape)."""
        known = self.operator.adjoint(y) / self.c - self.project(self.denoiser.shift[None])
        return known / self.denoiser.scale

    def replaced(self, z: Tensor, known: Tensor, k: int, fresh: Fresh) -> Tensor:
        """z (N, *x_shape) at level k in 0..T, with its seen part noised from z̃; at k = 0 it is z̃ itself."""
        if k == 0:
            return z + known - self.project(z)
        law = self.reference.marginal(k)
        there = noised(expand(law.scale, z) * known, law.var, fresh)
        return z + self.project(there - z)

    def descend(self, z: Tensor, k: int, fresh: Fresh, wide: bool = False) -> Tensor:
        """A draw of the unconditional step from level k, of variance β̃_k, or β_k if wide; the last has none."""
        mean, var = self.unconditional(z, self.denoise(z, k), k)
        return noised(mean, self.grid.beta[k] if wide and k > 1 else var, fresh)


class Replacement(ProjectionSampler):
    r"""What y says of z_k is put in place before every step (Song et al. 2021, appendix I.2; Ho et al. 2022).

    At k = T..1: z_k ← (I − P) z_k + P(√ᾱ_k z̃ + √(1−ᾱ_k) ε), then
    the unconditional step; at last P z_0 = z̃. The other coordinates learn of y through the denoiser only: the samples
    are not from the posterior, for no step looks back (Trippe et al. 2023).
    """

    name = "replacement"
    label = "replacement"

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        z = self.descend(self.replaced(z, y, k, fresh), k, fresh)
        return z if k > 1 else self.replaced(z, y, 0, fresh)
