"""The batches of a half-step. Batch s is a function of (seed, half-step, s) alone, so a resumed run repeats none."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from csb.bridge.objectives import Objective, Target
from csb.process import Grid, Reference, draw_linear, seeded
from csb.training.cache import Cache
from csb.training.plan import HalfStep

_BATCH = 2  # the key of the batches' random stream, apart from the cache's


class Batch(NamedTuple):
    """One optimiser step: states x at which the kernel of step k is evaluated, and what it should say there."""

    x: Tensor
    k: Tensor
    c: Tensor
    target: Target
    step: int


class Batches:
    """An iterable over steps start..stop − 1 of a half-step.

    Without a cache, states come from the reference process (the first half-step); with one, from its trajectories.
    """

    def __init__(
        self,
        half_step: HalfStep,
        grid: Grid,
        objective: Objective,
        pairs: tuple[Tensor, Tensor],
        cache: Cache | None,
        batch_size: int,
        seed: int,
        steps: tuple[int, int],
    ) -> None:
        self.half_step, self.objective, self.cache = half_step, objective, cache
        self.z, self.c = pairs
        self.reference, self.T = Reference(grid), grid.T
        self.batch_size, self.seed, self.steps = batch_size, seed, range(*steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps:
            generator = seeded(self.seed, self.half_step.index, step, _BATCH)
            yield self._first(step, generator) if self.cache is None else self._cached(step, generator, self.cache)

    def _numbers(self, generator: torch.Generator) -> Tensor:
        """k for each row: every step as often as any other, the remainder at random."""
        shift = int(torch.randint(self.T, (1,), generator=generator))
        return (torch.arange(self.batch_size) + shift) % self.T + 1

    def _first(self, step: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(self.z), (self.batch_size,), generator=generator)
        x_0, k = self.z[rows], self._numbers(generator)
        x_k = draw_linear(self.reference.marginal(k), x_0, generator)
        return Batch(x_k, k, self.c[rows], self.objective.first_target(self.reference, k, x_k, x_0), step)

    def _cached(self, step: int, generator: torch.Generator, cache: Cache) -> Batch:
        rows = torch.randint(len(cache.owner), (self.batch_size,), generator=generator)
        k = self._numbers(generator)
        here, there = (k, k - 1) if self.half_step.direction == "backward" else (k - 1, k)
        mean = cache.states[there, rows] if cache.targets is None else cache.targets[k - 1, rows]
        return Batch(cache.states[here, rows], k, self.c[cache.owner[rows]], Target(mean), step)
