"""Samples of a bridge in a few network calls, by a student distilled from it.

x_T ~ N(0, I) → x_0 → x_j given (x_0, x_T), by the step of the reference process that is pinned at x_0 and leads from T
to j → x_0 → …: all calls draw the same law of x_0, that of the bridge's samples, as :mod:`csb.bridge.student` derives.
This is the multistep sampling of Song et al. (2023, algorithm 1), with a draw in place of the deterministic map, and
with the new state joined to the old one: noise that is independent of x_k would give x_j Π's law only for ᾱ_T → 0.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from csb.bridge.student import Student
from csb.process import Noise, Reference, mix
from csb.samplers.amortized import AmortizedSampler
from csb.samplers.base import noised


class ConsistencySampler(AmortizedSampler):
    """One draw of the student from x_T, and one more from each lower level.

    Args:
        student: fitted.
        calls: network calls a sample, one of those that the student is fitted for; else CSBError.
        batch_size: states a network call.
    """

    name = "consistency"
    takes = Student
    remedy = "distil the bridge again, or check y"

    def __init__(self, student: Student, calls: int = 1, batch_size: int = 1024) -> None:
        super().__init__(student, student.spec.precision, batch_size=batch_size)
        self.levels = student.levels(calls)

    @property
    def evaluations(self) -> int:
        return len(self.levels)

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        n, student = len(z) // len(contexts), self.model

        def draw(z: Tensor, k: int) -> Tensor:
            """x_0 given z at k."""
            step, numbers = torch.tensor([k], device=z.device), noise.normal(n, student.noise_size)
            return self.call(lambda z, own, c: student.draw(z, step, c, own), contexts, z, numbers)

        yield (x_0 := draw(z, self.levels[0]))
        for k, j in pairwise(self.levels):
            law = Reference(student.grid.keep(0, j, k)).pinned_start(2)
            z = noised(mix(law, z, x_0), law.var, partial(noise.normal, n, *z.shape[1:]))
            yield (x_0 := draw(z, j))
