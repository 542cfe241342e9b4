"""Optimiser steps of a training against those of its bare network."""

import copy
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from csb.bridge import autocast
from csb.process import repeated
from csb.training.half_step import Batch, Batches, Draw, HalfStepModule, on_device
from csb.training.pairs import Cache, fill
from csb.training.settings import HalfStep
from csb.training.stage import Setup, Stage
from suites.speed.recipes import Recipe
from suites.timing import interleaved, now

_TRAJECTORIES = 512  # of the cache that later half-steps draw from
Step = Callable[[], object]


def _half_step(later: bool, steps: int) -> HalfStep:
    """The first half-step, whose states come from the reference process, or one that draws them from a cache."""
    return HalfStep(2, 2, "backward", steps) if later else HalfStep(0, 1, "backward", steps)


def module_of(recipe: Recipe, T: int | None = None, later: bool = False, steps: int = 1000) -> HalfStepModule:
    """The module of a half-step on an untrained bridge, on the device."""
    run = recipe.run
    module = HalfStepModule(recipe.bridge(T), _half_step(later, steps), run.objective, run.optimizer)
    return module.to(recipe.device)


def batches_of(recipe: Recipe, module: HalfStepModule, size: int, cache: Cache | None, steps: int) -> Batches:
    """The batches of the module's half-step, from random pairs."""
    pairs = recipe.pairs(4 * size if cache is None else len(cache.owner))
    run, own = recipe.run, not module.kernel.integrates_targets
    draw = Draw(module.bridge.grid, run.objective, size, run.training.states_per_pair, run.seed, draw_targets=own)
    return Batches(draw, module.half_step, pairs, cache, (0, steps))


def network_step(module: HalfStepModule, batch: Batch) -> Step:
    """Forward, backward and optimiser of the bare network on a batch, again and again the same one."""
    network, optimizer = module.kernel.network, module.configure_optimizers()
    time = batch.k.float() / module.kernel.T
    precision, device = module.bridge.precision, batch.x.device

    def step() -> None:
        with autocast(precision, device):
            context = repeated(network.encode(batch.c), len(batch.x) // len(batch.c))
            loss = (network(batch.x, time, context).float() - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def objective_step(module: HalfStepModule, batch: Batch) -> Step:
    """The same with the kernel's law and the objective's loss, which belong to the method."""
    optimizer = module.configure_optimizers()
    precision, device = module.bridge.precision, batch.x.device

    def step() -> None:
        with autocast(precision, device):
            loss, _ = module.losses(module.kernel, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Alternating:
    """The batches of a training in blocks. After each block, others do as many steps of their own: A B C A B C …

    Attributes:
        seconds: a step of each in every block but the first, which warms up; the training's is "step".
    """

    def __init__(self, batches: Iterable[Batch], block: int, others: dict[str, Step], device: torch.device) -> None:
        self.batches, self.block, self.others, self.device = batches, block, others, device
        self.seconds: dict[str, list[float]] = {name: [] for name in ("step", *others)}

    def __iter__(self) -> Iterator[Batch]:
        start = now(self.device)
        for i, batch in enumerate(self.batches):
            if i and i % self.block == 0:
                self.seconds["step"].append((now(self.device) - start) / self.block)
                for name, other in self.others.items():
                    start = now(self.device)
                    for _ in range(self.block):
                        other()
                    self.seconds[name].append((now(self.device) - start) / self.block)
                start = now(self.device)
            yield batch

    def medians(self) -> dict[str, float]:
        """Seconds a step."""
        return {name: statistics.median(of[1:]) for name, of in self.seconds.items()}


def _fit(recipe: Recipe, module: HalfStepModule, batches: Any) -> None:
    """A fit as the training does it: clipping, averaging, the bar and the losses."""
    run = recipe.run
    setup = Setup(Path(), run.optimizer, run.device, run.seed, bar=False)
    stage = Stage("no_state", module.model, setup, [module.steps], resume=False)
    stage.save = lambda fit, step: None  # nothing is kept
    stage.run(stage.fit(module), batches, "backward", module.steps)


def training_step(recipe: Recipe, later: bool, block: int, repeats: int) -> dict[str, Any]:
    """One row: a step of the training against one of the bare network, on batches of the same shape.

    ``over_network`` is the ratio; ``over_objective`` that to a step which also makes the kernel's law and the
    objective's loss. ``round_ms``: what starting a fit takes, once a cache round.
    """
    steps = block * (repeats + 1) + 1
    module, device = module_of(recipe, later=later, steps=steps), recipe.device
    cache = None
    if later:
        cache = fill(module.bridge.eval(), "forward", recipe.run.objective, recipe.pairs(_TRAJECTORIES),
                     _TRAJECTORIES, (0,))  # fmt: skip
    batches = batches_of(recipe, module, recipe.run.training.batch_size, cache, steps)
    batch = move_data_to_device(next(iter(batches)), device)
    others = {"network": network_step(_twin(module), batch), "objective": objective_step(_twin(module), batch)}
    alternating = Alternating(on_device(batches, recipe.run.device), block, others, device)
    _fit(recipe, module, alternating)
    found = alternating.medians()
    one = batches_of(recipe, module, recipe.run.training.batch_size, cache, 1)
    start = interleaved({"round": lambda: _fit(recipe, module, on_device(one, recipe.run.device))}, repeats, device)[
        "round"
    ]
    return {
        "recipe": recipe.name,
        "half_step": "later, from the cache" if later else "first",
        "batch": recipe.run.training.batch_size,
        "steps_per_s": 1 / found["step"],
        "step_ms": 1e3 * found["step"],
        "network_ms": 1e3 * found["network"],
        "objective_ms": 1e3 * found["objective"],
        "over_network": found["step"] / found["network"],
        "over_objective": found["step"] / found["objective"],
        "round_ms": 1e3 * max(0.0, start - found["step"]),
    }


def _twin(module: HalfStepModule) -> HalfStepModule:
    """The module with weights of its own."""
    return copy.deepcopy(module)
