"""Samples of a bridge in a few network calls, by a student distilled from it.

x_T ~ N(0, I) → x_0 → x_j given (x_0, x_T), by the step of the reference process that is pinned at x_0 and leads from T
to j → x_0 → …: all calls draw the same law of x_0, that of the bridge's samples, as :mod:`csb.bridge.student` derives.
This is the multistep sampling of Song et al. (2023, algorithm 1), with a draw in place of the deterministic map, and
with the new state joined to the old one: noise that is independent of x_k would give x_j Π's law only for ᾱ_T → 0.
"""

from itertools import pairwise

import torch
from torch import Tensor

from csb.bridge.bridge import autocast
from csb.bridge.samples import warn_far
from csb.bridge.student import Student
from csb.errors import require_int
from csb.process import Noise, Reference, expand, mix
from csb.samplers.base import Draws, Sampler, check_states


class ConsistencySampler(Sampler):
    """One draw of the student from x_T, and one more from each lower level.

    The noise of a call is drawn for the whole request at once, so that the result does not depend on batch_size. The
    observation's encoder runs once an observation and is not counted, as for the bridge.

    Args:
        student: fitted; set to evaluation.
        calls: network calls a sample, one of those that it is fitted for.
        batch_size: states a network call, which bounds the memory of activations.

    Raises:
        CSBError: a number of calls that the student is not fitted for, a batch_size that is not possible.
    """

    name = "consistency"

    def __init__(self, student: Student, calls: int = 1, batch_size: int = 1024) -> None:
        super().__init__(student.transform.x_shape, student.transform.y_shape, student.device)
        require_int("batch_size", batch_size, 1)
        self.y_dtype, self.any_units = student.transform.dtype_of("y"), student.transform.any_units
        self.levels, self.student, self.batch_size = student.levels(calls), student.eval(), batch_size

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        student, grid = self.student, self.student.grid
        warn_far(student.transform, y)
        with autocast(student.spec.precision, self.device):
            contexts = torch.cat([student.encode(c) for c in student.transform.encode_y(y).split(self.batch_size)])
            z = noise.normal(n, *student.transform.z_shape)
            x_0 = self._call(z, self.levels[0], contexts, noise.normal(n, student.noise_size))
            for k, j in pairwise(self.levels):
                law = Reference(grid.keep(0, j, k)).pinned_start(2)
                z = mix(law, z, x_0) + expand(law.var.sqrt(), z) * noise.normal(n, *z.shape[1:])
                x_0 = self._call(z, j, contexts, noise.normal(n, student.noise_size))
        check_states(self.name, x_0, n, "distil the bridge again, or check y")
        x = student.transform.decode(x_0, y.repeat_interleave(n, 0))
        return Draws(x.unflatten(0, (len(y), n)), len(self.levels), 0)

    def _call(self, z: Tensor, k: int, contexts: Tensor, noise: Tensor) -> Tensor:
        """x_0 given states z (B·n, *z_shape) at k, ``batch_size`` a network call."""
        owner = torch.arange(len(contexts), device=z.device).repeat_interleave(len(z) // len(contexts))
        step = torch.tensor([k], device=z.device)
        parts = (one.split(self.batch_size) for one in (z, owner, noise))
        return torch.cat([self.student.draw(state, step, contexts[rows], own) for state, rows, own in zip(*parts)])
