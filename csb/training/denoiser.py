r"""Training of a denoiser of the prior p(x), which the guided samplers need and the bridge does not.

τ is uniform in [0, 1] on the run's schedule, with a horizon long enough to start from N(0, I); the network is fitted to
v = √ᾱ ε − √(1−ᾱ) z_0 by squared error (Salimans & Ho 2022), which weighs an error of x̂_0 by 1/(1−ᾱ).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, rand, randint, randn

from csb.bridge.checkpoint import save_denoiser
from csb.errors import CSBError, require_int
from csb.networks.denoiser import NetworkDenoiser
from csb.process import Schedule, expand, seeded
from csb.training.callbacks import Bar, Every, Metrics, Reporter, fit
from csb.training.module import FitModule
from csb.training.settings import DeviceSettings, OptimizerSettings
from csb.training.state import Progress, load_progress, save_progress, to_cpu

_BATCH = 3  # the key of the batches' random stream


@dataclass(frozen=True)
class DenoiserSettings:
    """How a denoiser is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: states a step.
        alpha_bar_end: the horizon of the schedule it is trained on, in (0, 1): small.
        lr: the peak learning rate; the optimiser's other settings are the bridge's.
        checkpoint_every: optimiser steps between checkpoints.
    """

    steps: int
    batch_size: int
    alpha_bar_end: float
    lr: float
    checkpoint_every: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            require_int(f"denoiser.{name}", getattr(self, name), 1)
        for name, high in (("alpha_bar_end", 1.0), ("lr", 10.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < high:
                raise CSBError(f"denoiser.{name}={value!r} is not possible; give a number between 0 and {high:g}")


class DenoiserBatch(NamedTuple):
    """z_k (B, *x_shape) at noise levels ᾱ (B,), and v (B, *x_shape)."""

    z: Tensor
    alpha_bar: Tensor
    v: Tensor
    step: int


class DenoiserBatches:
    """An iterable over steps start..stop − 1; batch s is a function of (seed, s) alone."""

    def __init__(self, z_0: Tensor, schedule: Schedule, batch_size: int, seed: int, steps: tuple[int, int]) -> None:
        self.z_0, self.schedule, self.batch_size, self.seed, self.steps = z_0, schedule, batch_size, seed, range(*steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[DenoiserBatch]:
        for step in self.steps:
            generator = seeded(self.seed, step, _BATCH)
            z_0 = self.z_0[randint(len(self.z_0), (self.batch_size,), generator=generator)]
            noise = randn(z_0.shape, generator=generator)
            alpha_bar = self.schedule.alpha_bar(rand(self.batch_size, generator=generator).double()).float()
            signal, rest = expand(alpha_bar.sqrt(), z_0), expand((1 - alpha_bar).sqrt(), z_0)
            yield DenoiserBatch(signal * z_0 + rest * noise, alpha_bar, signal * noise - rest * z_0, step)


class DenoiserModule(FitModule):
    """Fits the denoiser's v."""

    def training_step(self, batch: DenoiserBatch, batch_idx: int) -> Tensor:
        assert isinstance(self.model, NetworkDenoiser)
        loss = (self.model.velocity(batch.z, batch.alpha_bar) - batch.v).square().mean()
        self.last_loss = loss.detach()
        return self.require_finite(loss, f"the denoiser at step {batch.step}")


def train_denoiser(
    denoiser: NetworkDenoiser,
    z_0: Tensor,
    schedule: Schedule,
    folder: Path,
    settings: DenoiserSettings,
    optimizer: OptimizerSettings,
    device: DeviceSettings,
    seed: int,
    fingerprint: dict[str, Any],
    about: dict[str, Any],
    resume: bool = False,
    log: Callable[[Metrics, int], None] = lambda metrics, step: None,
    bar: bool = True,
) -> NetworkDenoiser:
    """Fits the denoiser to z_0 (N, *x_shape) and writes ``denoiser.pt``; ``denoiser_state.pt`` holds the way there.

    Args:
        denoiser: with initial weights, and the horizon that it is trained on; changed in place.
        z_0: encoded training data, on the CPU.
        schedule: of the bridge; its horizon is replaced by the denoiser's.
        fingerprint: plain data; a resumed training must have the same.
        about: plain data that goes with the file.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """
    state = folder / "denoiser_state.pt"
    progress = load_progress(state, fingerprint) if resume and state.exists() else Progress()
    module = DenoiserModule(denoiser, settings.steps, settings.lr, optimizer)
    if progress.average is not None:
        denoiser.load_state_dict(progress.weights)
        module.average.load_state_dict(progress.average)
        module.optimizer_state = progress.optimizer
    started = time.perf_counter() - progress.seconds

    def checkpoint(step: int) -> None:
        progress.step, progress.seconds = step, time.perf_counter() - started
        progress.weights, progress.average = to_cpu(denoiser.state_dict()), to_cpu(module.average.state_dict())
        progress.optimizer = to_cpu(module.optimizer_on_trainer().state_dict())
        save_progress(state, progress, fingerprint)

    steps = (progress.step, settings.steps)
    batches = DenoiserBatches(z_0, schedule.with_horizon(denoiser.alpha_bar_end), settings.batch_size, seed, steps)
    shown = Bar(settings.steps, progress.step, bar)
    shown.describe("denoiser")
    with shown.progress:
        if progress.step < settings.steps:
            reporter = Reporter(shown, log, 0, progress.losses, "denoiser")
            fit(module, batches, device, optimizer.clip, [reporter, Every(settings.checkpoint_every, checkpoint)])
            checkpoint(settings.steps)
    module.adopt_average()
    denoiser.to(device.where)
    save_denoiser(folder / "denoiser.pt", denoiser, about)
    state.unlink(missing_ok=True)
    return denoiser
