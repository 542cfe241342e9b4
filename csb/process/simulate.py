"""Drawing from the reference process, and seeds for everything that draws."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from csb.dtypes import float32_layers
from csb.errors import CSBError
from csb.process.reference import Linear, Pinned, Reference, Step, expand, mix


def seeded(seed: int, *keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a pure function of (seed, keys): e.g. (seed, half_step, round, step).

    Streams of different keys are independent (numpy's SeedSequence hashing), so a resumed run needs no saved RNG state.
    """
    if any(not isinstance(number, int | np.integer) or number < 0 for number in (seed, *keys)):
        raise CSBError(f"seed={seed!r} with keys {keys} is not possible; seeds and keys are integers of at least 0")
    state = np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)


@contextmanager
def initialised(seed: int) -> Iterator[None]:
    """Inside, layers made on the CPU get float32 weights that are a function of the seed.

    torch's global generators are left as they were, those of GPUs untouched: ``torch.manual_seed`` seeds them too.
    """
    with torch.random.fork_rng(devices=[]), float32_layers():
        torch.default_generator.manual_seed(seed)
        yield


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of x's shape, dtype and device, from the generator (which must live on that device)."""
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


def draw(mean: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
    """mean (B, …) + √var·noise, var of shape (), (B,) or mean's."""
    return mean + expand(var, mean).sqrt() * noise_like(mean, generator)


def draw_linear(law: Linear, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """A draw of N(scale·x, var I) for x (B, …)."""
    return draw(expand(law.scale, x) * x, law.var, generator)


def draw_pinned(law: Pinned, near: Tensor, far: Tensor, generator: torch.Generator | None) -> Tensor:
    """A draw of a pinned law at the two given states, each (B, …)."""
    return draw(mix(law, near, far), law.var, generator)


def simulate(reference: Reference, x_0: Tensor, generator: torch.Generator | None) -> Tensor:
    """Trajectories of the reference process from x_0 (B, …): (T + 1, B, …)."""
    path = [x_0]
    for k in range(1, reference.grid.T + 1):
        path.append(draw_linear(reference.step(k), path[-1], generator))
    return torch.stack(path)


__all__ = ["Step", "draw", "draw_linear", "draw_pinned", "noise_like", "seeded", "simulate"]
