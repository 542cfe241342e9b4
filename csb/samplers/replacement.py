r"""Replacement: what y says of z_k is put in place before every step (Song et al. 2021, appendix I.2; Ho et al. 2022).

In the notation of :mod:`csb.samplers.projection`, at k = T..1: z_k ← (I − P) z_k + P(√ᾱ_k z̃ + √(1−ᾱ_k) ε), then the
unconditional step; at last P z_0 = z̃. The other coordinates learn of y through the denoiser only: the samples are not
from the posterior, for no step looks back (Trippe et al. 2023).
"""

from torch import Tensor

from csb.process import Noise
from csb.samplers.base import Draws
from csb.samplers.projection import ProjectionSampler


class Replacement(ProjectionSampler):
    """See the module's docstring. CSBError for a problem whose operator is not a multiple of a projection."""

    name = "replacement"
    label = "replacement"

    @property
    def evaluations(self) -> int:
        return self.grid.T

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        known, z = self.known(y, n), noise.normal(n, *self.x_shape)
        for k in range(self.grid.T, 0, -1):
            z = self.descend(self.replaced(z, known, k, n, noise), k, n, noise)
        return Draws(self.finish(self.replaced(z, known, 0, n, noise), y, n), self.grid.T, 0)
