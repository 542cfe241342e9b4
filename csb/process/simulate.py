"""Drawing from the reference process."""

import torch
from torch import Tensor

from csb.process.random import noise_like
from csb.process.reference import Linear, Pinned, expand, mix


def draw(mean: Tensor, var: Tensor, generator: torch.Generator | None) -> Tensor:
    """mean (B, …) + √var·noise, var of shape (), (B,) or mean's."""
    return mean + expand(var, mean).sqrt() * noise_like(mean, generator)


def draw_linear(law: Linear, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """A draw of N(scale·x, var I) for x (B, …)."""
    return draw(expand(law.scale, x) * x, law.var, generator)


def draw_pinned(law: Pinned, near: Tensor, far: Tensor, generator: torch.Generator | None) -> Tensor:
    """A draw of a pinned law at the two given states, each (B, …)."""
    return draw(mix(law, near, far), law.var, generator)
