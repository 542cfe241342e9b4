"""Distillation: a student is fitted to end points of the frozen bridge's paths (see :mod:`csb.bridge.student`).

The paths start at N(0, I), with the observations of training pairs; there is no end of them, and the cache is filled
again every ``refresh`` steps. A state of the batch lies on a level of one of the numbers of calls, which are equally
frequent, as are the levels of each: the first level is part of all of them.
"""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from csb.bridge import Bridge
from csb.bridge.objectives import BridgeMatching
from csb.bridge.student import LAWS, Generator, Student, TransitionStudent
from csb.process import Reference, Stream, expand, repeated, seeded
from csb.schema import Count, Distinct, OneOf, Place
from csb.training.cache import Cache, bytes_per_trajectory, capacity, fill
from csb.training.pairs import EncodedPairs
from csb.training.regression import FitSettings, train_network
from csb.training.scoring import generator_score
from csb.training.stage import Bar, Setup

MOST = 4096  # of what one state has: Gaussians, directions, channels of noise, draws
NAME = "consistency"  # of the files


class DistilSettings(FitSettings):
    """How a student is made and fitted."""

    group = "distil"

    calls: Annotated[list[Count], Distinct, Field(min_length=1)] = [1, 2, 4]
    """The numbers of network calls that it is for."""
    law: Annotated[str, OneOf(("auto", *LAWS))] = "auto"
    """The law of a jump; "auto": by the shape of a state."""
    components: int = Field(default=32, ge=1, le=MOST, description="Gaussians of a mixture")
    rank: int = Field(default=8, ge=1, le=MOST, description='of the covariance "low_rank"')
    noise: Annotated[int, Field(ge=1, le=MOST)] = 4
    """Channels of noise beside the state's (numbers, for vectors) of a generator."""
    draws: int = Field(default=4, ge=2, le=MOST, description="draws a state of a generator's energy score")
    patches: list[Count] = []
    """Sides of the patches whose energy scores are added to that of the whole image."""
    refresh: Count = Field(default=2500, description="optimiser steps between refills of the cache of end points")
    trajectories: Count = Field(default=50_000, description="wanted in it; fewer where cache_bytes is smaller")
    cache_bytes: Count = Field(default=256 * 2**20, description="byte budget of the cache")
    out: Place | None = Field(default=None, description="the folder that the student goes into; null: the bridge's")


class Jumps(NamedTuple):
    """One optimiser step: states z (B, *z_shape) at k (B,), the ends x_0 of their paths, and their observations.

    ``width``: √(1−ᾱ_k), (B,). ``noise``: (B·m, noise_size), of a generator's m draws a state; None for other students.
    """

    z: Tensor
    k: Tensor
    x_0: Tensor
    c: Tensor
    width: Tensor
    noise: Tensor | None
    step: int


def jump_batches(
    student: Student, pairs: EncodedPairs, cache: Cache, settings: DistilSettings, seed: int, steps: tuple[int, int]
) -> Iterator[Jumps]:
    """The batches of steps start..stop − 1; batch s is a function of (cache, seed, s) alone."""
    grid, size, share = student.grid, settings.batch_size, level_shares(student)
    reference, width = Reference(grid), (1 - grid.alpha_bar).sqrt().float()
    noise_size, noise = student.noise_size if isinstance(student, Generator) else 0, None
    for step in range(*steps):
        generator = seeded(seed, step, Stream.DISTIL_BATCH)
        paths = torch.randint(len(cache.owner), (size,), generator=generator)
        k = torch.multinomial(share, size, replacement=True, generator=generator)
        x_0, x_T = cache.states[0, paths], cache.states[1, paths]
        z = reference.pinned_both(k).draw(x_0, x_T, generator)
        if noise_size:
            noise = torch.randn((size * settings.draws, noise_size), dtype=torch.float32, generator=generator)
        yield Jumps(z, k, x_0, pairs.conditions(cache.owner[paths]), width[k], noise, step)


def level_shares(student: Student) -> Tensor:
    """How frequent each k in 0..T is in training, (T + 1,), of sum 1."""
    share = torch.zeros(student.grid.T + 1, dtype=torch.float32)
    for calls in student.spec.calls:
        levels = student.levels(calls)
        share[levels] += 1 / (len(levels) * len(student.spec.calls))
    return share


def student_loss(student: Student, batch: Jumps, patches: list[int]) -> Tensor:
    """The mean proper score of the student's laws at the ends of the paths, ().

    Of a density the negative logarithm a coordinate, relative to that of the width √(1−ᾱ_k); of a generator the energy
    score in units of that width, so that levels count alike.
    """
    context, width = student.encode(batch.c), batch.width
    if isinstance(student, TransitionStudent):
        nll = student.kernel(batch.z, batch.k, context).nll(batch.x_0).flatten(1).mean(1)
        return (nll - width.log()).mean()
    assert batch.noise is not None
    m = len(batch.noise) // len(batch.z)
    z, k, context = (repeated(one, m) for one in (batch.z, batch.k, context))
    draws, scale = student.draw(z, k, context, batch.noise).unflatten(0, (-1, m)), expand(1 / width, batch.z)
    return generator_score(draws * scale[:, None], batch.x_0 * scale, patches)


def train_student(
    student: Student,
    bridge: Bridge,
    pairs: EncodedPairs,
    settings: DistilSettings,
    setup: Setup,
    resume: bool = False,
) -> None:
    """Fits a distilled sampler to a bridge and writes ``consistency.safetensors``.

    ``consistency_state.pt`` holds the way there.

    Args:
        student: with initial weights; changed in place.
        bridge: the teacher, frozen.
        pairs: the encoded training pairs, of which observations are taken.
        settings, setup, resume: of the training; its cost is added to ``setup.about`` in the file.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """
    bridge = bridge.requires_grad_(False)
    size = cache_size(bridge, settings)

    def batches(start: int, bar: Bar) -> Iterator[Jumps]:
        number = start // settings.refresh
        bar.describe("drawing end points")
        key = (setup.seed, 0, number, 0, Stream.DISTIL_CACHE)
        cache = fill(bridge.to(setup.device.where).eval(), "backward", BridgeMatching(), pairs, size, key)
        bar.describe("distilling")
        steps = (start, min(settings.steps, (number + 1) * settings.refresh))
        return jump_batches(student, pairs, cache, settings, setup.seed, steps)

    def loss(batch: Jumps) -> Tensor:
        return student_loss(student, batch, settings.patches)

    train_network(student, NAME, loss, batches, settings, setup, resume, "distillation")


def cache_size(bridge: Bridge, settings: DistilSettings) -> int:
    """How many paths the cache holds. CSBError where its budget holds none."""
    each = bytes_per_trajectory(bridge.transform.z_shape, bridge.grid.T, BridgeMatching())
    return capacity(each, settings.trajectories, settings.cache_bytes, "distil")
