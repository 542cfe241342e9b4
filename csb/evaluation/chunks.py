"""Samples of a bridge for many pairs, a few pairs at a time, so that memory stays bounded."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from csb.bridge import Bridge, SampleInfo
from csb.evaluation.settings import SamplerSettings
from csb.problems import Pairs


class Chunk(NamedTuple):
    """Some test pairs, their samples (B, n, *x_shape) on the CPU, and what these cost."""

    pairs: Pairs
    samples: Tensor
    info: SampleInfo


def draw_chunks(
    bridge: Bridge, test: Pairs, n: int, sampler: SamplerSettings, generator: torch.Generator, size: int
) -> Iterator[Chunk]:
    """n samples for each test pair, ``size`` pairs at a time, so that memory stays bounded.

    All random numbers come from one generator: another size gives other samples.
    """
    for start in range(0, len(test.x), size):
        part = slice(start, start + size)
        pairs = Pairs(test.x[part], test.y[part], None if test.labels is None else test.labels[part])
        drawn = bridge.sample(pairs.y, n, generator=generator, **vars(sampler))
        yield Chunk(pairs, drawn.x.cpu(), drawn.info)


def pairs_at_once(n: int) -> int:
    """How many pairs of n samples each make up to 4,096 states; at least 1."""
    return max(1, 4096 // n)
