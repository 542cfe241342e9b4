"""The batches of a half-step. Batch s is a function of (seed, half-step, s) alone, so a resumed run repeats none."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from csb.bridge.objectives import Objective, Target, bridged
from csb.process import Grid, Reference, draw_linear, seeded
from csb.training.cache import Cache
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.plan import HalfStep

_BATCH = 2  # the key of the training batches' random stream, apart from the cache's


class Batch(NamedTuple):
    """One optimiser step: states x (B, …) at which the kernel of step k is evaluated, and what it should say there.

    The observations c are those of the B/r pairs of the batch; r states that follow each other share one.
    """

    x: Tensor
    k: Tensor
    c: Tensor
    target: Target
    step: int

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        var = self.target.var
        target = Target(self.target.mean.to(device), var.to(device) if isinstance(var, Tensor) else var)
        return Batch(self.x.to(device), self.k.to(device), self.c.to(device), target, self.step)


class Batches:
    """An iterable over steps start..stop − 1 of a half-step.

    Without a cache, states come from the reference process (the first half-step); with one, from its trajectories.
    ``draw_targets``: targets are single draws, for laws that cannot integrate a target's variance out.
    """

    def __init__(
        self,
        half_step: HalfStep,
        grid: Grid,
        objective: Objective,
        pairs: EncodedPairs | tuple[Tensor, Tensor],
        cache: Cache | None,
        batch_size: int,
        states_per_pair: int,
        seed: int,
        steps: tuple[int, int],
        draw_targets: bool = False,
        key: int = _BATCH,
    ) -> None:
        self.half_step, self.objective, self.cache = half_step, objective, cache
        self.pairs = as_pairs(pairs)
        self.reference, self.T = Reference(grid), grid.T
        self.batch_size, self.shared = batch_size, states_per_pair
        self.seed, self.steps, self.draw_targets = seed, range(*steps), draw_targets
        self.key = key

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps:
            generator = seeded(self.seed, self.half_step.index, step, self.key)
            batch = self._first(step, generator) if self.cache is None else self._cached(step, generator, self.cache)
            yield batch._replace(target=batch.target.drawn(generator)) if self.draw_targets else batch

    def _numbers(self, generator: torch.Generator) -> Tensor:
        """k for each state: every step as often as any other, up to a remainder, in random order."""
        pool = torch.arange(self.batch_size) + int(torch.randint(self.T, (1,), generator=generator))
        return pool[torch.randperm(self.batch_size, generator=generator)] % self.T + 1

    def _pairs(self, available: int, generator: torch.Generator) -> Tensor:
        """Random pairs or trajectories, one for every ``states_per_pair`` states."""
        return torch.randint(available, (self.batch_size // self.shared,), generator=generator)

    def _first(self, step: int, generator: torch.Generator) -> Batch:
        pairs, k = self._pairs(len(self.pairs), generator), self._numbers(generator)
        z, c = self.pairs.rows(pairs, generator)
        x_0 = z.repeat_interleave(self.shared, 0)
        x_k = draw_linear(self.reference.marginal(k), x_0, generator)
        return Batch(x_k, k, c, self.objective.first_target(self.reference, k, x_k, x_0), step)

    def _cached(self, step: int, generator: torch.Generator, cache: Cache) -> Batch:
        paths, k = self._pairs(len(cache.owner), generator), self._numbers(generator)
        rows, c = paths.repeat_interleave(self.shared), self.pairs.conditions(cache.owner[paths])
        if self.objective.caches == "ends":
            ends = cache.states[0, rows].float(), cache.states[1, rows].float()
            x, target = bridged(self.reference, self.half_step.direction, k, *ends, generator)
            return Batch(x, k, c, target, step)
        here, there = (k, k - 1) if self.half_step.direction == "backward" else (k - 1, k)
        mean = cache.states[there, rows] if cache.targets is None else cache.targets[k - 1, rows]
        return Batch(cache.states[here, rows].float(), k, c, Target(mean.float()), step)
