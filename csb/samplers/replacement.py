"""Replacement: the seen part of the state is put in place before each step."""

from torch import Tensor

from csb.samplers.base import Fresh
from csb.samplers.projection import ProjectionSampler


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
