r"""Distillation: a student is fitted to end points of the frozen bridge's paths (see :mod:`csb.bridge.student`).

The paths start at N(0, I), with the observations of training pairs; the cache of them is filled again every ``refresh``
steps. A state of the batch lies on a level of one of the numbers of calls, which are equally frequent, as are the
levels of each: the first level is part of all of them.

A generator is fitted by a strictly proper score of draws. The energy score of a law q at an outcome x (Gneiting &
Raftery 2007, eq. 21, with β = 1)

    S(q, x) = E‖X − x‖ − ½ E‖X − X'‖,    X, X' ~ q independent,

is smallest in expectation over x ~ p for q = p and no other law with a finite mean. From m ≥ 2 draws the pairs of
*different* draws give it without bias:

    Ŝ = 1/m Σ_i ‖X_i − x‖ − 1/(2m(m−1)) Σ_{i≠j} ‖X_i − X_j‖.

(With 1/m² in place of 1/(m(m−1)) a generator would learn a law that is too wide.) Fitting conditional generators by it:
Shen & Meinshausen 2024 ("Engression"); along a diffusion: De Bortoli et al. 2025 ("Distributional diffusion models with
scoring rules").

One norm over a whole image is dull to its details. The energy score of a part of x is proper for the part's marginal
law, and the sum with that of the whole strictly proper for the law of the whole; here parts are square patches that
overlap by half. Those of one pixel give the CRPS of every pixel. Each score is divided by the root of the number of its
coordinates, so that all are of the size of a pixel's error.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from csb.bridge import Bridge
from csb.bridge.objectives import BridgeMatching
from csb.bridge.student import Generator, Student, TransitionStudent
from csb.errors import CSBError
from csb.process import Reference, Stream, expand, repeated, seeded
from csb.training.pairs import Cache, EncodedPairs, bytes_per_trajectory, capacity, fill
from csb.training.regression import train_network
from csb.training.settings import DistilSettings
from csb.training.stage import Bar, Setup

NAME = "consistency"  # of the files
_LEAST = 1e-12  # squared norms below have gradient 0, as a norm's subgradient at 0


class Jumps(NamedTuple):
    """One optimiser step: states z (B, *z_shape) at k (B,), the ends x_0 of their paths, and their observations."""

    z: Tensor
    k: Tensor
    x_0: Tensor
    c: Tensor
    width: Tensor  # √(1−ᾱ_k), (B,)
    noise: Tensor | None  # (B·m, noise_size), of a generator's m draws a state; None for other students
    step: int


def jump_batches(
    student: Student, pairs: EncodedPairs, cache: Cache, settings: DistilSettings, seed: int, steps: tuple[int, int]
) -> Iterator[Jumps]:
    """Yield the batches of steps start..stop − 1; batch s is a function of (cache, seed, s) alone."""
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
        yield Jumps(z, k, x_0, cache.conditions(pairs, paths), width[k], noise, step)


def level_shares(student: Student) -> Tensor:
    """Return how frequent each k in 0..T is in training, (T + 1,), of sum 1."""
    share = torch.zeros(student.grid.T + 1, dtype=torch.float32)
    for calls in student.spec.calls:
        levels = student.levels(calls)
        share[levels] += 1 / (len(levels) * len(student.spec.calls))
    return share


def norms(x: Tensor, side: int | None = None) -> Tensor:
    """Return root mean squares, (N, parts): of x (N, …) as a whole, or of square patches of images (N, C, H, W)."""
    square = x.square()
    if side is None:
        square = square.flatten(1).mean(1, keepdim=True)
    else:
        square = nnf.avg_pool2d(square.mean(1, keepdim=True), side, max(1, side // 2)).flatten(1)
    return square.clamp_min(_LEAST).sqrt()


def energy_score(draws: Tensor, x: Tensor, side: int | None = None) -> Tensor:
    """Return Ŝ of draws (B, m, …), m ≥ 2, at outcomes x (B, …), (B,); of patches of a side, their mean."""
    m = draws.shape[1]
    first, second = torch.triu_indices(m, m, 1, device=draws.device)
    far = norms((draws - x[:, None]).flatten(0, 1), side).unflatten(0, (-1, m)).mean((1, 2))
    apart = norms((draws[:, first] - draws[:, second]).flatten(0, 1), side).unflatten(0, (-1, len(first))).mean((1, 2))
    return far - 0.5 * apart


def check_patches(patches: list[int], z_shape: tuple[int, ...]) -> None:
    """CSBError for a side of patches that states of this shape do not have."""
    largest = min(z_shape[1:]) if len(z_shape) == 3 else 0
    if bad := [side for side in patches if not 1 <= side <= largest]:
        need = f"sides in 1..{largest}" if largest else "[] for vectors"
        raise CSBError(f"distil.patches has {bad[0]}, and states have the shape {z_shape}; give {need}")


def generator_score(draws: Tensor, x: Tensor, patches: list[int]) -> Tensor:
    """Return the mean of the energy score of the whole and those of the patches of each side, ()."""
    return torch.stack([energy_score(draws, x, side).mean() for side in (None, *patches)]).mean()


def student_loss(student: Student, batch: Jumps, patches: list[int]) -> Tensor:
    """Return the mean proper score of the student's laws at the ends of the paths, ().

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
    student: Student, bridge: Bridge, pairs: EncodedPairs, settings: DistilSettings, setup: Setup, resume: bool = False
) -> None:
    """Fit a distilled sampler to a bridge and write ``consistency.safetensors``.

    Args:
        student: with initial weights; changed in place.
        bridge: the teacher, frozen.
        pairs: the encoded training pairs, of which observations are taken.
        settings, setup, resume: as for :func:`csb.training.regression.train_network`.
    """
    size, seed = cache_size(bridge.requires_grad_(False), settings, pairs.missing), setup.seed

    def batches(start: int, bar: Bar) -> Iterator[Jumps]:
        number = start // settings.refresh
        bar.describe("drawing end points")
        key = (seed, 0, number, 0, Stream.DISTIL_CACHE)
        cache = fill(bridge.to(setup.device.where).eval(), "backward", BridgeMatching(), pairs, size, key)
        bar.describe("distilling")
        steps = (start, min(settings.steps, (number + 1) * settings.refresh))
        return jump_batches(student, pairs, cache, settings, seed, steps)

    loss = partial(student_loss, student, patches=settings.patches)
    train_network(student, NAME, loss, batches, settings, setup, resume, "distillation")


def cache_size(bridge: Bridge, settings: DistilSettings, missing: float) -> int:
    """Return how many paths the cache holds. CSBError where its budget holds none."""
    each = bytes_per_trajectory(bridge.transform, bridge.grid.T, BridgeMatching(), missing)
    return capacity(each, settings.trajectories, settings.cache_bytes, "distil")
