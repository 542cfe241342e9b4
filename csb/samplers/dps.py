r"""Diffusion posterior sampling (Chung et al. 2023, algorithm 1).

z_{k−1} = μ_k + √β̃_k ε − ζ ∇_{z_k} ‖y − H(x̂_0(z_k))‖₂, the norm of *each sample*: across a batch it would couple the
samples, which is a known error of public code. The gradient is one in z = (x − shift)/scale: a step of ζ moves x by
ζ·scale² times the gradient in x. No ζ fits every problem and grid; try several and report them all.
"""

import math
from typing import Any

from torch import Tensor

from csb.errors import CSBError, is_number
from csb.process import Noise
from csb.samplers.base import Draws
from csb.samplers.diffusion import DiffusionSampler
from csb.samplers.likelihood import residual_norm


class DPS(DiffusionSampler):
    """See the module's docstring.

    Args:
        step_size: ζ ≥ 0.
        **settings: see :class:`DiffusionSampler`.
    """

    name = "dps"
    label = "DPS"
    swept = ("step_size", "ζ")

    def __init__(self, *args: Any, step_size: float = 1.0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if not is_number(step_size) or not 0 <= step_size < math.inf:
            raise CSBError(f"step_size={step_size!r} of DPS is not a number of at least 0; sweep over e.g. 0.1 … 3")
        self.step_size = step_size

    @property
    def evaluations(self) -> int:
        return 2 * self.grid.T

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        each, z = y.repeat_interleave(n, 0), noise.normal(n, *self.x_shape)
        for k in range(self.grid.T, 0, -1):
            at = self.guide(z, k, each, lambda y, x_0, _: residual_norm(self.likelihood, y, x_0))
            step = self.step(z, at.z_0, k)
            z = step.mean - self.step_size * at.gradient
            if k > 1:
                z = z + math.sqrt(step.var) * noise.normal(n, *self.x_shape)
        return Draws(self.finish(z, y, n), self.grid.T, self.grid.T)
