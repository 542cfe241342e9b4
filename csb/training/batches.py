"""The batches of a half-step. Batch s is a function of (seed, half-step, s) alone, so a resumed run repeats none."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from csb.bridge.objectives import Objective, Target, bridged
from csb.process import Grid, Reference, Stream, draw_linear, repeated, seeded
from csb.training.cache import Cache
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.plan import HalfStep
from csb.training.ranks import ALONE, Ranks


class Batch(NamedTuple):
    """One optimiser step: states x (B, …) at which the kernel of step k is evaluated, and what it should say there.

    The observations c are those of the B/r pairs of the batch; r states that follow each other share one.
    """

    x: Tensor
    k: Tensor
    c: Tensor
    target: Target
    step: int

    def map(self, of: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with ``of`` applied to each of its tensors."""
        var = self.target.var
        target = Target(of(self.target.mean), of(var) if isinstance(var, Tensor) else var)
        return Batch(of(self.x), of(self.k), of(self.c), target, self.step)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return self.map(lambda tensor: tensor.to(device))

    def part(self, ranks: Ranks) -> "Batch":
        """A process's part of the batch, in whole pairs."""
        if ranks.size == 1:
            return self
        pairs, shared = ranks.part(len(self.c)), len(self.x) // len(self.c)
        rows = slice(pairs.start * shared, pairs.stop * shared)
        var = self.target.var
        target = Target(self.target.mean[rows], var[rows] if isinstance(var, Tensor) else var)
        return Batch(self.x[rows], self.k[rows], self.c[pairs], target, self.step)


class Batches:
    """An iterable over steps start..stop − 1 of a half-step.

    Without a cache, states come from the reference process (the first half-step); with one, from its trajectories.
    ``draw_targets``: targets are single draws, for laws that cannot integrate a target's variance out. ``ranks``: the
    processes that a batch of ``batch_size`` states is divided among. Batches are made where pairs and cache lie; which
    pairs and steps they hold does not depend on it, their noise is that of the device.
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
        key: Stream = Stream.BATCH,
        ranks: Ranks = ALONE,
    ) -> None:
        self.half_step, self.objective, self.cache = half_step, objective, cache
        self.pairs, self.device = as_pairs(pairs), torch.device("cpu")
        self.reference, self.T = Reference(grid), grid.T
        self.batch_size, self.shared = batch_size, states_per_pair
        self.seed, self.steps, self.draw_targets = seed, range(*steps), draw_targets
        self.key, self.ranks = key, ranks

    def __len__(self) -> int:
        return len(self.steps)

    def move(self, device: torch.device) -> None:
        """Puts pairs and cache, which must be in memory, on a device."""
        self.pairs, self.device = self.pairs.to(device), device
        if self.cache is not None:
            self.cache = self.cache.to(device)

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps:
            key, device = (self.seed, self.half_step.index, step, self.key), self.device
            generator = seeded(*key)
            of = self._numbers_and_pairs(generator)
            noise = generator if device.type == "cpu" else seeded(*key, device=device)
            batch = self._first(step, *of, noise) if self.cache is None else self._cached(step, *of, noise, self.cache)
            whole = batch._replace(target=batch.target.drawn(noise)) if self.draw_targets else batch
            yield whole.part(self.ranks)

    def _numbers_and_pairs(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """k for each state, (B,): every step as often as any other, up to a remainder, in random order; on the CPU.

        And a random pair, or trajectory, for every ``states_per_pair`` states, where the data lie.
        """
        available = len(self.pairs if self.cache is None else self.cache.owner)
        rows = torch.randint(available, (self.batch_size // self.shared,), generator=generator)
        pool = torch.arange(self.batch_size) + int(torch.randint(self.T, (1,), generator=generator))
        k = pool[torch.randperm(self.batch_size, generator=generator)] % self.T + 1
        return k, rows.to(self.device)

    def _first(self, step: int, k: Tensor, chosen: Tensor, noise: torch.Generator) -> Batch:
        z, c = self.pairs.rows(chosen, noise)
        x_0 = repeated(z, self.shared)
        x_k = draw_linear(self.reference.marginal(k), x_0, noise)
        return Batch(x_k, k, c, self.objective.first_target(self.reference, k, x_k, x_0), step)

    def _cached(self, step: int, k: Tensor, paths: Tensor, noise: torch.Generator, cache: Cache) -> Batch:
        rows, c = repeated(paths, self.shared), self.pairs.conditions(cache.owner[paths])
        if self.objective.caches == "ends":
            ends = cache.states[0, rows].float(), cache.states[1, rows].float()
            x, target = bridged(self.reference, self.half_step.direction, k, *ends, noise)
            return Batch(x, k, c, target, step)
        at = k.to(rows.device)
        here, there = (at, at - 1) if self.half_step.direction == "backward" else (at - 1, at)
        mean = cache.states[there, rows] if cache.targets is None else cache.targets[at - 1, rows]
        return Batch(cache.states[here, rows].float(), k, c, Target(mean.float()), step)
