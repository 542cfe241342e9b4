from torch import Tensor

from csb.samplers.base import Fresh
from csb.samplers.replacement import ProjectionSampler
from csb.schema import Share


class ILVR(ProjectionSampler):
    r"""Iterative latent variable refinement (Choi et al. 2021, algorithm 1).

    After the unconditional step z'_{k−1} the low frequencies are those of the noised observation,

        z_{k−1} = z'_{k−1} + φ(y_{k−1}) − φ(z'_{k−1}),   y_{k−1} = √ᾱ_{k−1} z̃ + √(1−ᾱ_{k−1}) ε.

    φ is the low-pass filter, here P = A*A/c: for super-resolution by averaging the mean of each block, spread over it,
    which is ILVR as published. (A φ that is no projection, e.g. bicubic, does not fit y = A x and is not built.)

    Against replacement: ILVR conditions *after* a step, at levels T−1..0, replacement *before* it. With every step
    conditioned, the two differ in z_T alone. What ILVR adds is the range of steps: those with k/T < ``until``, near the
    data, are left to the prior, so that the samples need not repeat the noise σ of y, which P takes for 0.
    """

    name = "ilvr"
    label = "ILVR"
    swept = ("until", "b")
    until: Share = 0.0
    """The steps k ≥ until·T are conditioned; 0 for all of them. (The paper's range "from T to b".)"""

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        z = self.descend(z, k, fresh)
        return self.replaced(z, y, k - 1, fresh) if k >= self.until * self.grid.T else z
