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

from csb.bridge import Bridge, save
from csb.bridge.objectives import BridgeMatching
from csb.bridge.student import LAWS, Generator, Student, TransitionStudent
from csb.process import Reference, Stream, expand, repeated, seeded
from csb.schema import Count, Distinct, OneOf, Place, Schema
from csb.training.cache import Cache, bytes_per_trajectory, capacity, fill
from csb.training.divergence import check_divergence
from csb.training.module import FitModule
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.regression import state_file
from csb.training.scoring import generator_score
from csb.training.settings import OptimizerSettings
from csb.training.stage import Setup, Stage

MOST = 4096  # of what one state has: Gaussians, directions, channels of noise, draws
NAME = "consistency"  # of the files


class DistilSettings(Schema):
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
    steps: Count = Field(default=10_000, description="optimiser steps")
    batch_size: Count = Field(description="states a step")
    refresh: Count = Field(default=2500, description="optimiser steps between refills of the cache of end points")
    trajectories: Count = Field(default=50_000, description="wanted in it; fewer where cache_bytes is smaller")
    cache_bytes: Count = Field(default=256 * 2**20, description="byte budget of the cache")
    lr: Annotated[float, Field(gt=0, lt=10)] = 1e-3
    """The peak learning rate; the optimiser's other settings are the bridge's."""
    checkpoint_every: Count = Field(default=500, description="optimiser steps between checkpoints")
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


class JumpBatches:
    """An iterable over steps start..stop − 1; batch s is a function of (cache, seed, s) alone."""

    def __init__(
        self, student: Student, pairs: EncodedPairs, cache: Cache, settings: DistilSettings, seed: int,
        steps: tuple[int, int],
    ) -> None:  # fmt: skip
        self.pairs, self.cache, self.settings, self.seed, self.steps = pairs, cache, settings, seed, range(*steps)
        grid = student.grid
        self.reference, self.width = Reference(grid), (1 - grid.alpha_bar).sqrt().float()
        self.share = level_shares(student)
        self.noise_size = student.noise_size if isinstance(student, Generator) else 0

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Jumps]:
        size = self.settings.batch_size
        for step in self.steps:
            generator = seeded(self.seed, step, Stream.DISTIL_BATCH)
            paths = torch.randint(len(self.cache.owner), (size,), generator=generator)
            k = torch.multinomial(self.share, size, replacement=True, generator=generator)
            x_0, x_T = self.cache.states[0, paths], self.cache.states[1, paths]
            z = self.reference.pinned_both(k).draw(x_0, x_T, generator)
            shape, noise = (size * self.settings.draws, self.noise_size), None
            if self.noise_size:
                noise = torch.randn(shape, dtype=torch.float32, generator=generator)
            c, width = self.pairs.conditions(self.cache.owner[paths]), self.width[k]
            yield Jumps(z, k, x_0, c, width, noise, step)


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


class DistilModule(FitModule):
    """Fits a student."""

    def __init__(self, student: Student, settings: DistilSettings, optimizer: OptimizerSettings) -> None:
        super().__init__(student, settings.steps, settings.lr, optimizer)
        self.student, self.patches = student, settings.patches

    def training_step(self, batch: Jumps) -> Tensor:
        loss = student_loss(self.student, batch, self.patches)
        self.last_loss = loss.detach()
        return loss

    def where(self, step: int) -> str:
        return f"the distillation at step {step}"


def train_student(
    student: Student,
    bridge: Bridge,
    pairs: EncodedPairs | tuple[Tensor, Tensor],
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
    bridge, pairs = bridge.requires_grad_(False), as_pairs(pairs)
    size = cache_size(bridge, settings)
    stage = Stage(state_file(setup.folder, NAME), student, setup, [settings.steps], resume)

    def attempt() -> FitModule:
        module = DistilModule(student, settings, setup.optimizer)
        fit, report = stage.fit(module), stage.report(module, NAME)
        while (start := stage.progress.step) < settings.steps:
            number = start // settings.refresh
            stop = min(settings.steps, (number + 1) * settings.refresh)
            stage.bar.describe("drawing end points")
            key = (setup.seed, 0, number, 0, Stream.DISTIL_CACHE)
            cache = fill(bridge.to(setup.device.where).eval(), "backward", BridgeMatching(), pairs, size, key)
            stage.bar.describe("distilling")
            batches = JumpBatches(student, pairs, cache, settings, setup.seed, (start, stop))
            stage.run(fit, batches, report, settings.checkpoint_every)
        check_divergence(stage.progress.losses, module.where(settings.steps))
        return module

    stage.until_done(attempt).adopt_average()
    student.to(setup.device.where)
    save(student, setup.folder / f"{NAME}.safetensors", {**setup.about, **stage.cost()})
    stage.path.unlink(missing_ok=True)


def cache_size(bridge: Bridge, settings: DistilSettings) -> int:
    """How many paths the cache holds. CSBError where its budget holds none."""
    each = bytes_per_trajectory(bridge.transform.z_shape, bridge.grid.T, BridgeMatching())
    return capacity(each, settings.trajectories, settings.cache_bytes, "distil")
