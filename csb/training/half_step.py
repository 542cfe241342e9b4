"""A half-step: its batches, the loss of its kernels on them, and that on validation pairs."""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from csb.bridge import Bridge, Kernel
from csb.bridge.objectives import Objective, Target, bridged
from csb.process import Grid, Reference, Stream, repeated, seeded
from csb.training.fit import FitModule
from csb.training.pairs import Cache, EncodedPairs
from csb.training.ranks import ALONE, Ranks
from csb.training.settings import DeviceSettings, HalfStep, OptimizerSettings
from csb.training.state import REMEDY, Diverged, Progress, take_weights, to_cpu

_STATES = 16_384  # of validation


class Batch(NamedTuple):
    """One optimiser step: states x (B, …) for the kernels of steps k (B,), and the targets of their laws there.

    The observations c (B/states_per_pair, …) are of the batch's pairs; states that follow each other share one.
    """

    x: Tensor
    k: Tensor
    c: Tensor
    target: Target
    step: int

    def part(self, ranks: Ranks) -> "Batch":
        """Return a process's part of the batch, in whole pairs."""
        if ranks.size == 1:
            return self
        pairs, shared = ranks.part(len(self.c)), len(self.x) // len(self.c)
        rows = slice(pairs.start * shared, pairs.stop * shared)
        var = self.target.var
        target = Target(self.target.mean[rows], var[rows] if isinstance(var, Tensor) else var)
        return Batch(self.x[rows], self.k[rows], self.c[pairs], target, self.step)


@dataclass(frozen=True)
class Draw:
    """How the batches of a half-step are drawn."""

    grid: Grid
    objective: Objective
    batch_size: int  # states a step, of all processes together
    states_per_pair: int  # how many of them share one pair, or trajectory
    seed: int
    draw_targets: bool = False  # targets are single draws, for laws that cannot integrate a target's variance out
    ranks: Ranks = ALONE  # the processes that a batch is divided among


class Batches:
    """An iterable over steps start..stop − 1 of a half-step; batch s is a function of (seed, half-step, s) alone.

    Without a cache, states come from the reference process (the first half-step); with one, from its trajectories.
    Batches are made where pairs and cache lie: their pairs and steps do not depend on it, their noise is the device's.
    """

    def __init__(
        self,
        draw: Draw,
        half_step: HalfStep,
        pairs: EncodedPairs,
        cache: Cache | None,
        steps: tuple[int, int],
        stream: Stream = Stream.BATCH,
    ) -> None:
        self.draw, self.half_step, self.pairs, self.cache = draw, half_step, pairs, cache
        self.steps, self.stream, self.device = range(*steps), stream, torch.device("cpu")
        self.reference = Reference(draw.grid)

    def move(self, device: torch.device) -> None:
        """Put pairs and cache, which must be in memory, on a device."""
        self.pairs, self.device = self.pairs.to(device), device
        if self.cache is not None:
            self.cache = move_data_to_device(self.cache, device)

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps:
            key = (self.draw.seed, self.half_step.index, step, self.stream)
            generator = seeded(*key)
            k, rows = self._steps_and_rows(generator)
            noise = generator if self.device.type == "cpu" else seeded(*key, device=self.device)
            if self.cache is None:
                batch = self._from_reference(step, k, rows, noise)
            else:
                batch = self._from_cache(step, k, rows, noise, self.cache)
            if self.draw.draw_targets:
                batch = batch._replace(target=batch.target.drawn(noise))
            yield batch.part(self.draw.ranks)

    def _steps_and_rows(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """k for each state, (B,), all equally often up to a remainder; a random pair, or trajectory, for each c."""
        size, T = self.draw.batch_size, self.draw.grid.T
        available = len(self.pairs if self.cache is None else self.cache.owner)
        rows = torch.randint(available, (size // self.draw.states_per_pair,), generator=generator)
        pool = torch.arange(size) + int(torch.randint(T, (1,), generator=generator))  # which k get the remainder
        k = pool[torch.randperm(size, generator=generator)] % T + 1
        return k, rows.to(self.device)  # k stays on the CPU, where the reference is

    def _from_reference(self, step: int, k: Tensor, rows: Tensor, noise: torch.Generator) -> Batch:
        z, c = self.pairs.to_train_on(rows, noise)
        x_0 = repeated(z, self.draw.states_per_pair)
        x_k = self.reference.marginal(k).draw(x_0, noise)
        return Batch(x_k, k, c, self.draw.objective.first_target(self.reference, k, x_k, x_0), step)

    def _from_cache(self, step: int, k: Tensor, paths: Tensor, noise: torch.Generator, cache: Cache) -> Batch:
        rows = repeated(paths, self.draw.states_per_pair)
        c = cache.conditions(self.pairs, paths)
        if self.draw.objective.caches == "ends":
            ends = cache.states[0, rows].float(), cache.states[1, rows].float()
            x, target = bridged(self.reference, self.half_step.direction, k, *ends, noise)
            return Batch(x, k, c, target, step)
        level = k.to(rows.device)
        here, there = (level, level - 1) if self.half_step.direction == "backward" else (level - 1, level)
        mean = cache.states[there, rows] if cache.targets is None else cache.targets[level - 1, rows]
        return Batch(cache.states[here, rows].float(), k, c, Target(mean.float()), step)


def on_device(batches: Batches, device: DeviceSettings) -> Iterable[Batch]:
    """Return the same batches as fast as a device can be given them; on the CPU, ``batches`` as they are.

    A GPU makes its own, by a few gathers and random numbers, if pairs and cache take at most ``gpu_share`` of all its
    memory: what is free depends on what ran before, and where a batch is made decides its random numbers.
    """
    if device.where.type != "cuda":
        return batches
    if (pairs := batches.pairs).in_memory:
        kept = [*pairs.head(len(pairs)), *([] if batches.cache is None else batches.cache.tensors)]
        if sum(tensor.nbytes for tensor in kept) <= device.gpu_share * torch.cuda.mem_get_info()[1]:
            batches.move(device.where)
            return batches
    return ahead(batches, torch.device("cuda", torch.cuda.current_device()))


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on a device; the next one is made, and sent there, in a thread while the last one is used.

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


def balance(kernel: Kernel, exponent: float) -> Tensor:
    """Return the weights of the steps, (T + 1,), mean 1 over k = 1..T: ∝ (β_k/gain_k²)^exponent.

    The likelihood of step k weighs an error of the network's output by gain_k²/β_k, which falls a thousandfold from the
    data to the noise end of an image's grid; unbalanced, the network spends itself on the last step's pixels. A weight
    that depends on k alone leaves each step's optimum where it was (cf. Hang et al. 2023, min-SNR weighting).
    """
    _, _, gain, log_beta, _ = kernel.table[:, 1:]
    weight = (log_beta.exp() / gain**2) ** exponent
    return torch.cat([weight.new_zeros(1), weight / weight.mean()])


class HalfStepModule(FitModule):
    """The kernels of one direction under training; those of the other are frozen."""

    beta: Tensor
    step_weight: Tensor

    def __init__(self, bridge: Bridge, half_step: HalfStep, objective: Objective, settings: OptimizerSettings) -> None:
        peak = settings.lr if half_step.iteration == 1 else settings.later_lr
        kernel = bridge.kernel(half_step.direction)
        kernel.inflation.fill_(1.0)  # the likelihood is fitted without
        super().__init__(kernel, f"half-step {half_step.name}", half_step.steps, peak, settings)
        self.bridge, self.half_step, self.objective, self.kernel = bridge, half_step, objective, kernel
        self.register_buffer("beta", bridge.grid.beta.float(), persistent=False)
        self.register_buffer("step_weight", balance(kernel, settings.balance), persistent=False)
        self.bridge.requires_grad_(False)
        self.kernel.requires_grad_(True)  # last: the bridge holds it too

    def training_step(self, batch: Batch) -> Tensor:
        loss, self.last_loss = self.losses(self.kernel, batch)
        return loss

    def losses(self, kernel: Kernel, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch with the steps' weights, (), and detached without them, ()."""
        context = repeated(kernel.encode(batch.c), len(batch.x) // len(batch.c))
        law = kernel(batch.x, batch.k, context)
        losses = self.objective.loss(law, batch.target, self.beta[batch.k])
        return (losses.flatten(1).mean(1) * self.step_weight[batch.k]).mean(), losses.detach().mean()


class Validation:
    """The loss of a half-step's averaged weights on validation pairs, by which it ends with those of the lowest.

    It is always taken on the same states, each with a pair of its own: a function of (seed, half-step).
    """

    def __init__(self, module: HalfStepModule, draw: Draw, pairs: EncodedPairs, cache: Cache | None) -> None:
        self.module, self.ranks = module, draw.ranks
        self.average: Any = module.average.module
        self.count = -(-_STATES // draw.batch_size)
        draw = replace(draw, states_per_pair=1, ranks=ALONE)  # processes share the work in whole batches
        batches = Batches(draw, module.half_step, pairs, cache, (0, self.count), Stream.VALIDATION)
        self.batches = list(batches)[self.ranks.part(self.count)]

    def record(self, progress: Progress, step: int) -> tuple[float, int]:
        """Return the mean loss after a step, and the step of the lowest, whose averaged weights the progress keeps.

        Steps are weighted as in training. Diverged where the loss is not finite.
        """
        losses = self.losses()
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            raise Diverged(f"the loss on validation pairs became {loss} in {self.module.name}; {REMEDY}")
        progress.validated.append([step, loss])
        if progress.best is None or loss < progress.best["loss"]:
            progress.best = {"loss": loss, "step": step, "weights": to_cpu(self.average.state_dict())}
        return loss, progress.best["step"]

    @torch.no_grad()
    def losses(self) -> list[float]:
        """Return the loss of each batch, of all processes."""
        average, found = self.average, torch.zeros(self.count, dtype=torch.float64)
        training = average.training
        average.eval()
        try:
            batches = (move_data_to_device(batch, self.module.beta.device) for batch in self.batches)
            own = [float(self.module.losses(average, batch)[0]) for batch in batches]
        finally:
            average.train(training)
        found[self.ranks.part(self.count)] = torch.tensor(own, dtype=torch.float64)
        self.ranks.all_reduce(found)
        return found.tolist()

    def restore(self, progress: Progress) -> int:
        """Give the moving average the weights of the lowest loss, unless its own are as good. Return their step.

        The end of a schedule has the smallest noise of the weights, and a loss measured every few hundred steps is
        lowest somewhere earlier by chance alone; so the end stands where its loss is not higher by more than the
        standard error of the difference, over batches.
        """
        assert progress.best is not None
        if progress.best["step"] == progress.step:
            return progress.step
        end, weights = self.losses(), to_cpu(self.average.state_dict())
        take_weights(self.average, progress.best["weights"])
        gaps = torch.tensor(end, dtype=torch.float64) - torch.tensor(self.losses(), dtype=torch.float64)
        error = float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        if float(gaps.mean()) > error:
            return int(progress.best["step"])
        take_weights(self.average, weights)
        return progress.step
