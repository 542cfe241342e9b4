r"""Training of one network by squared error, without a bridge: the prior's denoiser, and the amortized baselines.

A *path* joins a datum z_0 to noise ε and says what the network is to predict at a point of it. All are linear
interpolations whose regression target has the conditional mean that a sampler needs:

- diffusion: τ uniform in [0, 1] on a schedule; z = √ᾱ z_0 + √(1−ᾱ) ε, target v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho
  2022), which weighs an error of x̂_0 by 1/(1−ᾱ);
- flow: t uniform in [0, 1]; z = (1−t) ε + t z_0, target z_0 − ε (Lipman et al. 2023, eq. 23 with σ_min = 0).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn, rand, randint, randn

from csb.process import Schedule, Stream, expand, seeded
from csb.schema import Count, Schema
from csb.training.bar import Bar, Metrics, Report
from csb.training.divergence import check_divergence
from csb.training.module import FitModule
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.retry import Stage
from csb.training.settings import DeviceSettings, OptimizerSettings


class RegressionSettings(Schema):
    """How a network is trained."""

    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="states a step")
    alpha_bar_end: Annotated[float, Field(gt=0, lt=1)]
    """The horizon of the schedule that a diffusion is trained on: small."""
    lr: Annotated[float, Field(gt=0, lt=10)]
    """The peak learning rate; the optimiser's other settings are the bridge's."""
    checkpoint_every: Count = Field(description="optimiser steps between checkpoints")


class Point(NamedTuple):
    """States z (B, *z_shape) at levels (B,) (ᾱ, or t of a flow), and what the network is to predict, (B, *z_shape)."""

    z: Tensor
    level: Tensor
    target: Tensor


Interpolation = Callable[[Tensor, torch.Generator], Point]


def diffusion_path(schedule: Schedule) -> Interpolation:
    """Points of a diffusion on a schedule from data z_0 (B, *z_shape); see the module's docstring."""

    def draw(z_0: Tensor, generator: torch.Generator) -> Point:
        noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
        alpha_bar = schedule.alpha_bar(rand(len(z_0), dtype=z_0.dtype, generator=generator).double()).float()
        signal, rest = expand(alpha_bar.sqrt(), z_0), expand((1 - alpha_bar).sqrt(), z_0)
        return Point(signal * z_0 + rest * noise, alpha_bar, signal * noise - rest * z_0)

    return draw


def flow_path(z_0: Tensor, generator: torch.Generator) -> Point:
    """Points of the straight paths from noise to data z_0 (B, *z_shape); see the module's docstring."""
    noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
    t = rand(len(z_0), dtype=z_0.dtype, generator=generator)
    share = expand(t, z_0)
    return Point((1 - share) * noise + share * z_0, t, z_0 - noise)


class Examples(NamedTuple):
    """One optimiser step: a :class:`Point`, with the encoded observations c (B, *c_shape), (B, 0) without any."""

    z: Tensor
    level: Tensor
    target: Tensor
    c: Tensor
    step: int


class ExampleBatches:
    """An iterable over steps start..stop − 1; batch s, of ``size`` examples, is a function of (seed, s) alone."""

    def __init__(
        self,
        data: EncodedPairs | tuple[Tensor, Tensor | None],
        path: Interpolation,
        size: int,
        seed: int,
        steps: tuple[int, int],
    ) -> None:
        self.data, self.path, self.size, self.seed, self.steps = as_pairs(data), path, size, seed, range(*steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Examples]:
        for step in self.steps:
            generator = seeded(self.seed, step, Stream.EXAMPLES)
            z, c = self.data.rows(randint(len(self.data), (self.size,), generator=generator), generator)
            yield Examples(*self.path(z, generator), c, step)


@dataclass(frozen=True)
class Regression:
    """What is fitted to what.

    Attributes:
        name: of the stage; ``<name>_state.pt`` holds the way to the result.
        model: with initial weights; changed in place.
        predict: the model's output for a batch.
        data: encoded training pairs; (N, 0) for c where there are no observations.
        path: where the states come from.
        save: writes the trained model's file, given the seconds and steps that it took.
    """

    name: str
    model: nn.Module
    predict: Callable[[Examples], Tensor]
    data: EncodedPairs
    path: Interpolation
    save: Callable[[dict[str, Any]], None]


class RegressionModule(FitModule):
    """Fits a network by squared error."""

    def __init__(self, task: Regression, steps: int, peak: float, settings: OptimizerSettings) -> None:
        super().__init__(task.model, steps, peak, settings)
        self.task = task

    def training_step(self, batch: Examples) -> Tensor:
        loss = (self.task.predict(batch) - batch.target).square().mean()
        self.last_loss = loss.detach()
        return loss

    def where(self, step: int) -> str:
        return f"the {self.task.name} at step {step}"


def train_regression(
    task: Regression,
    folder: Path,
    settings: RegressionSettings,
    optimizer: OptimizerSettings,
    device: DeviceSettings,
    seed: int,
    fingerprint: dict[str, Any],
    resume: bool = False,
    log: Callable[[Metrics, int], None] = lambda metrics, step: None,
    bar: bool = True,
) -> None:
    """Fits the model and saves it with the moving average of its weights.

    Args:
        task: what is fitted.
        folder: of the state file, from which a killed training goes on bit for bit.
        seed: of the batches.
        fingerprint: plain data; a resumed training must have the same.
        log: called as log(metrics, step).

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """
    stage = Stage(state_file(folder, task.name), fingerprint, task.model, optimizer.retries, resume)
    shown = Bar(settings.steps, stage.progress.step, bar)
    shown.describe(task.name)

    def attempt() -> FitModule:
        make = lambda: RegressionModule(task, settings.steps, settings.lr, optimizer)  # noqa: E731
        fit, begun, losses = stage.restore(make, device, optimizer.clip), stage.progress.step, stage.progress.losses
        batches = ExampleBatches(task.data, task.path, settings.batch_size, seed, (begun, settings.steps))
        report = Report(shown, log, 0, losses, task.name, fit.module.where)
        stage.run(fit, batches, report, settings.checkpoint_every)
        check_divergence(losses, fit.module.where(settings.steps))
        return fit.module

    with shown.progress:
        module = stage.until_done(attempt, shown, log)
    module.adopt_average()
    task.model.to(device.where)
    task.save(stage.reported())
    stage.path.unlink(missing_ok=True)


def state_file(folder: Path, name: str) -> Path:
    """Where the progress of a stage is kept while it runs."""
    return folder / f"{name}_state.pt"
