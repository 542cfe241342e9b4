r"""Classifier guidance (Dhariwal & Nichol 2021, algorithm 1), with any differentiable likelihood.

z_{k−1} ~ N(μ_k + s β̃_k g, β̃_k I), g = ∇_{z_k} log p̃_k(y | z_k). The conditional step is p(z_{k−1} | z_k) p(y | z_{k−1})
up to a constant; with log p(y | ·) linear around μ_k that is the unconditional Gaussian moved by β̃_k times the
gradient. So s = 1 draws from p(x | y) as T → ∞ *where p̃_k is the exact* p(y | z_k). Of x̂_0 it is an approximation,
and no weight corrects it as in TDS. s > 1 aims at p(x) p(y | x)^s: surer of y, less diverse, and no posterior. Dhariwal
& Nichol take g at z_k, from a classifier of noisy states; here it goes through the denoiser: a backward pass.
"""

import math
from typing import Any

from torch import Tensor

from csb.errors import CSBError, is_number
from csb.process import Noise
from csb.samplers.base import Draws
from csb.samplers.diffusion import DiffusionSampler


class ClassifierGuidance(DiffusionSampler):
    """See the module's docstring.

    Args:
        scale: s ≥ 0; 0 draws from the prior.
        **settings: see :class:`DiffusionSampler`.
    """

    name = "guidance"
    label = "guidance"
    swept = ("scale", "s")
    any_likelihood = True

    def __init__(self, *args: Any, scale: float = 1.0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if not is_number(scale) or not 0 <= scale < math.inf:
            raise CSBError(f"scale={scale!r} of guidance is not a number of at least 0; sweep over e.g. 1, 2, 4")
        self.scale = scale

    @property
    def evaluations(self) -> int:
        return 2 * self.grid.T

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        each, z = y.repeat_interleave(n, 0), noise.normal(n, *self.x_shape)
        for k in range(self.grid.T, 0, -1):
            at = self.guide(z, k, each, self.guidance_likelihood.log_prob)
            step = self.step(z, at.z_0, k)
            z = step.mean + self.scale * step.var * at.gradient
            if k > 1:
                z = z + math.sqrt(step.var) * noise.normal(n, *self.x_shape)
        return Draws(self.finish(z, y, n), self.grid.T, self.grid.T)
