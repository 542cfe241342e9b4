"""The batches of a half-step. Batch s is a function of (seed, half-step, s) alone, so a resumed run repeats none.

On the CPU they are made when they are asked for. A GPU makes its own if :func:`resident` moves the data to it: a batch
is then a few gathers and random numbers, and no state crosses the bus. Data that are too large stay on the CPU, and
:func:`ahead` makes the next batch in a thread, in pinned memory, while the GPU computes.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from csb.bridge.objectives import Objective, Target, bridged
from csb.process import Grid, Reference, Stream, repeated, seeded
from csb.training.pairs import Cache, EncodedPairs
from csb.training.ranks import ALONE, Ranks
from csb.training.settings import DeviceSettings, HalfStep


class Batch(NamedTuple):
    """One optimiser step: states x (B, …) at which the kernel of step k is evaluated, and what it should say there.

    The observations c are those of the B/r pairs of the batch; r states that follow each other share one.
    """

    x: Tensor
    k: Tensor
    c: Tensor
    target: Target
    step: int

    def part(self, ranks: Ranks) -> "Batch":
        """A process's part of the batch, in whole pairs."""
        if ranks.size == 1:
            return self
        pairs, shared = ranks.part(len(self.c)), len(self.x) // len(self.c)
        rows = slice(pairs.start * shared, pairs.stop * shared)
        var = self.target.var
        target = Target(self.target.mean[rows], var[rows] if isinstance(var, Tensor) else var)
        return Batch(self.x[rows], self.k[rows], self.c[pairs], target, self.step)


@dataclass(frozen=True)
class Draw:
    """How the batches of a half-step are drawn.

    Attributes:
        grid: of the bridge.
        objective: sets the targets.
        batch_size: states a step, of all processes together.
        states_per_pair: how many of them share one pair, or trajectory.
        seed: of the training.
        draw_targets: targets are single draws, for laws that cannot integrate a target's variance out.
        ranks: the processes that a batch is divided among.
    """

    grid: Grid
    objective: Objective
    batch_size: int
    states_per_pair: int
    seed: int
    draw_targets: bool = False
    ranks: Ranks = ALONE


class Batches:
    """An iterable over steps start..stop − 1 of a half-step.

    Without a cache, states come from the reference process (the first half-step); with one, from its trajectories.
    Batches are made where pairs and cache lie; which pairs and steps they hold does not depend on it, their noise is
    that of the device.
    """

    def __init__(
        self,
        draw: Draw,
        half_step: HalfStep,
        pairs: EncodedPairs,
        cache: Cache | None,
        steps: tuple[int, int],
        key: Stream = Stream.BATCH,
    ) -> None:
        self.draw, self.half_step, self.pairs, self.cache = draw, half_step, pairs, cache
        self.steps, self.key, self.device = range(*steps), key, torch.device("cpu")
        self.objective, self.shared = draw.objective, draw.states_per_pair
        self.reference = Reference(draw.grid)

    def move(self, device: torch.device) -> None:
        """Puts pairs and cache, which must be in memory, on a device."""
        self.pairs, self.device = self.pairs.to(device), device
        if self.cache is not None:
            self.cache = move_data_to_device(self.cache, device)

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps:
            key, device = (self.draw.seed, self.half_step.index, step, self.key), self.device
            generator = seeded(*key)
            of = self._numbers_and_pairs(generator)
            noise = generator if device.type == "cpu" else seeded(*key, device=device)
            batch = self._first(step, *of, noise) if self.cache is None else self._cached(step, *of, noise, self.cache)
            if self.draw.draw_targets:
                batch = batch._replace(target=batch.target.drawn(noise))
            yield batch.part(self.draw.ranks)

    def _numbers_and_pairs(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """k for each state, (B,): every step as often as any other, up to a remainder, in random order; on the CPU.

        And a random pair, or trajectory, for every ``states_per_pair`` states, where the data lie.
        """
        size, T = self.draw.batch_size, self.draw.grid.T
        available = len(self.pairs if self.cache is None else self.cache.owner)
        rows = torch.randint(available, (size // self.shared,), generator=generator)
        pool = torch.arange(size) + int(torch.randint(T, (1,), generator=generator))
        k = pool[torch.randperm(size, generator=generator)] % T + 1
        return k, rows.to(self.device)

    def _first(self, step: int, k: Tensor, chosen: Tensor, noise: torch.Generator) -> Batch:
        z, c = self.pairs.rows(chosen, noise)
        x_0 = repeated(z, self.shared)
        x_k = self.reference.marginal(k).draw(x_0, noise)
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


def resident(pairs: EncodedPairs, cache: Cache | None, device: DeviceSettings) -> bool:
    """Whether pairs and cache may lie on the GPU: in memory, they take at most ``gpu_share`` of the GPU's.

    Of all it has: what is free depends on what ran before, and where a batch is made on which random numbers it is of.
    """
    if not pairs.in_memory:
        return False
    kept = [*pairs.head(len(pairs)), *([] if cache is None else cache.tensors)]
    return sum(tensor.nbytes for tensor in kept) <= device.gpu_share * torch.cuda.mem_get_info()[1]


def on_device(batches: Batches, device: DeviceSettings) -> Iterable[Batch]:
    """The same batches as fast as a device can be given them; on the CPU, ``batches`` as they are."""
    if device.where.type != "cuda":
        return batches
    if resident(batches.pairs, batches.cache, device):
        batches.move(device.where)
        return batches
    return ahead(batches, torch.device("cuda", torch.cuda.current_device()))


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields batches on a device; the next one is made, and sent there, in a thread while the last one is used.

    What fails in the making is raised where the batch is asked for. Ending the iteration ends the thread.
    """
    source = iter(batches)

    def following() -> Batch | None:
        batch = next(source, None)
        if batch is None or device.type == "cpu":
            return batch
        torch.cuda.set_device(device)  # of this thread
        return apply_to_collection(batch, Tensor, lambda tensor: tensor.pin_memory().to(device, non_blocking=True))

    with ThreadPoolExecutor(1, "batches-ahead") as thread:
        coming = thread.submit(following)
        while (batch := coming.result()) is not None:
            coming = thread.submit(following)
            yield batch
