"""How time and memory grow: with T, L, the image, the batch and the cache."""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

from csb.bridge.samples import memory, reset_peak
from csb.training.pairs import fill
from suites.speed.recipes import Recipe
from suites.speed.settings import Extent
from suites.speed.steps import batches_of, module_of, objective_step
from suites.timing import interleaved

Point = tuple[int, float | None]  # None: not measured on this system


@dataclass(frozen=True)
class Curve:
    """One quantity over another.

    Attributes:
        panel: what it is drawn with.
        name: of the quantity, with what it belongs to.
        over, unit: of the two axes.
        points: (x, y), ascending in x.
    """

    panel: str
    name: str
    over: str
    unit: str
    points: tuple[Point, ...]

    @property
    def exponent(self) -> float | None:
        """The slope p of y ∝ x^p, by least squares in logarithms; None for fewer than two points above 0."""
        return power_of(self.points)

    def row(self) -> dict[str, Any]:
        """The first and last point, and the exponent."""
        (x_0, y_0), (x_1, y_1) = self.points[0], self.points[-1]
        ends = {"from": x_0, "to": x_1, "at_from": y_0, "at_to": y_1}
        return {"quantity": self.name, "unit": self.unit, "over": self.over, **ends, "exponent": self.exponent}


def power_of(points: Sequence[Point]) -> float | None:
    """See :attr:`Curve.exponent`."""
    seen = [(x, y) for x, y in points if y is not None and y > 0 and math.isfinite(y)]
    if len(seen) < 2:
        return None
    x, y = np.log(np.array(seen, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def peak_bytes(action: Callable[[], object], device: torch.device, repeats: int = 3) -> int | None:
    """The most bytes that an action holds beyond what was held before it, the median of a few; None where unknown.

    On the CPU resident memory of the process, so whole pages, and what the libraries keep to themselves.
    """
    action()  # what stays for good is there afterwards
    gc.collect()
    found = []
    for _ in range(repeats):
        reset_peak(device)
        before = memory(device)
        action()
        after = memory(device)
        if before is None or after is None:
            return None
        found.append(max(0, after.peak - before.now))
    return int(median(found))


def _ms(seconds: dict[str, float], xs: Sequence[int]) -> tuple[Point, ...]:
    return tuple((x, 1e3 * seconds[str(x)]) for x in xs)


def _step(recipe: Recipe, size: int, T: int | None = None) -> Callable[[], object]:
    """A step of network and objective on a batch of a size."""
    module = module_of(recipe, T)
    batch = next(iter(batches_of(recipe, module, size, None, 1)))
    return objective_step(module, move_data_to_device(batch, recipe.device))


def _sample(recipe: Recipe, states: int, T: int | None = None) -> Callable[[], object]:
    bridge, y = recipe.bridge(T), recipe.observations(1)
    return lambda: bridge.sample(y, states, batch_size=states)


def over_T(recipe: Recipe, extent: Extent, repeats: int) -> list[Curve]:
    """Sampling, filling and a training step of the vectors' recipe."""
    states, Ts = extent.states[0], extent.T
    pairs = recipe.pairs(states)
    fills = {
        str(T): partial(fill, recipe.bridge(T).eval(), "forward", recipe.run.objective, pairs, states, (0,)) for T in Ts
    }
    jobs = {
        f"sampling {states} states": {str(T): _sample(recipe, states, T) for T in Ts},
        f"filling {states} trajectories": fills,
        "a training step": {str(T): _step(recipe, recipe.run.training.batch_size, T) for T in Ts},
    }
    return [
        Curve("T", name, "T", "ms", _ms(interleaved(actions, repeats, recipe.device), Ts))
        for name, actions in jobs.items()
    ]


def over_cache(recipe: Recipe, extent: Extent, repeats: int) -> list[Curve]:
    """Filling a cache of N trajectories, and drawing a batch from it."""
    bridge, objective = recipe.bridge().eval(), recipe.run.objective
    module, size, seed = module_of(recipe, later=True), recipe.run.training.batch_size, (0,)
    fills = {str(N): partial(fill, bridge, "forward", objective, recipe.pairs(N), N, seed) for N in extent.caches}
    drawn = {}
    for N in extent.caches:
        batches = batches_of(recipe, module, size, fills[str(N)](), 1)
        drawn[str(N)] = lambda batches=batches: next(iter(batches))
    jobs = {"filling the cache": fills, f"drawing a batch of {size}": drawn}
    return [
        Curve("cache", name, "trajectories", "ms", _ms(interleaved(actions, repeats, recipe.device), extent.caches))
        for name, actions in jobs.items()
    ]


def over_size(recipe: Recipe, extent: Extent, repeats: int) -> list[Curve]:
    """A training step and a sampling of the images' recipe over the side of the image."""
    n, sizes = extent.batch, extent.sizes
    steps = {str(side): _step(recipe.of_size(side), n) for side in sizes}
    samples = {str(side): _sample(recipe.of_size(side), n) for side in sizes}
    jobs = {f"a training step on {n} images": steps, f"sampling {n} images": samples}
    return [
        Curve("size", name, "pixels a side", "ms", _ms(interleaved(actions, repeats, recipe.device), sizes))
        for name, actions in jobs.items()
    ]


def over_memory(vectors: Recipe, images: Recipe, extent: Extent) -> list[Curve]:
    """Peak memory of a training step over the batch, the coordinates and the image, and of sampling over the states."""

    def curve(name: str, over: str, xs: Sequence[int], make: Callable[[int], Callable[[], object]]) -> Curve:
        peaks = ((x, peak_bytes(make(x), vectors.device)) for x in xs)
        points = tuple((x, None if peak is None else peak / 2**20) for x, peak in peaks)
        return Curve(f"memory, {over}", name, over, "MiB", points)

    n = extent.batch
    big = extent.batches[-1]
    return [
        curve("a training step, vectors", "batch", extent.batches, lambda size: _step(vectors, size)),
        curve("sampling, vectors", "batch", extent.batches, lambda size: _sample(vectors, size)),
        curve(f"a training step on {big} vectors", "coordinates", extent.dims,
              lambda d: _step(vectors.of_dimension(d), big)),
        curve(f"a training step on {n} images", "pixels a side", extent.sizes,
              lambda side: _step(images.of_size(side), n)),
    ]  # fmt: skip


def over_L(recipe: Recipe, rows: Sequence[dict[str, Any]]) -> Curve:
    """Seconds of a training of L iterations, from the rows of its half-steps."""
    ends = {row["iteration"]: row["seconds"] for row in rows}  # the last half-step of an iteration stays
    return Curve("L", f"training, {recipe.name}", "L", "s", tuple(sorted(ends.items())))
