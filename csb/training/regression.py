r"""Training of one network by squared error, without a bridge: the prior's denoiser, a conditional score, a flow.

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

from csb.bridge.checkpoint import save
from csb.networks.diffusion import FlowNetwork, NetworkDenoiser, ScoreNetwork
from csb.process import Schedule, Stream, expand, seeded
from csb.schema import Count, Schema
from csb.training.divergence import check_divergence
from csb.training.module import FitModule
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.settings import OptimizerSettings
from csb.training.stage import Setup, Stage


class RegressionSettings(Schema):
    """How a network is trained."""

    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="states a step")
    alpha_bar_end: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """The horizon of the schedule that a diffusion is trained on: small."""
    lr: Annotated[float, Field(gt=0, lt=10)]
    """The peak learning rate; the optimiser's other settings are the bridge's."""
    checkpoint_every: Count = Field(description="optimiser steps between checkpoints")


class DenoiserSettings(RegressionSettings):
    """How a denoiser is trained."""

    group = "denoiser"


class ConditionalSettings(RegressionSettings):
    """How a score or a flow is trained; ``alpha_bar_end`` is the score's."""

    group = "amortized"


class PathPoint(NamedTuple):
    """States z (B, *z_shape) at levels (B,) (ᾱ, or t of a flow), and what the network is to predict, (B, *z_shape)."""

    z: Tensor
    level: Tensor
    target: Tensor


Interpolation = Callable[[Tensor, torch.Generator], PathPoint]


def diffusion_path(schedule: Schedule) -> Interpolation:
    """Points of a diffusion on a schedule from data z_0 (B, *z_shape); see the module's docstring."""

    def draw(z_0: Tensor, generator: torch.Generator) -> PathPoint:
        noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
        alpha_bar = schedule.alpha_bar(rand(len(z_0), dtype=z_0.dtype, generator=generator).double()).float()
        signal, rest = expand(alpha_bar.sqrt(), z_0), expand((1 - alpha_bar).sqrt(), z_0)
        return PathPoint(signal * z_0 + rest * noise, alpha_bar, signal * noise - rest * z_0)

    return draw


def flow_path(z_0: Tensor, generator: torch.Generator) -> PathPoint:
    """Points of the straight paths from noise to data z_0 (B, *z_shape); see the module's docstring."""
    noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
    t = rand(len(z_0), dtype=z_0.dtype, generator=generator)
    share = expand(t, z_0)
    return PathPoint((1 - share) * noise + share * z_0, t, z_0 - noise)


class Examples(NamedTuple):
    """One optimiser step: a :class:`PathPoint`, with the encoded observations c (B, *c_shape), (B, 0) without any."""

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
        name: of the stage: ``<name>.safetensors`` is the result, ``<name>_state.pt`` holds the way to it.
        model: with initial weights; changed in place.
        predict: the model's output for a batch.
        data: encoded training pairs; (N, 0) for c where there are no observations.
        path: where the states come from.
    """

    name: str
    model: nn.Module
    predict: Callable[[Examples], Tensor]
    data: EncodedPairs
    path: Interpolation


class RegressionModule(FitModule):
    """Fits a network by squared error."""

    def __init__(self, task: Regression, settings: RegressionSettings, optimizer: OptimizerSettings) -> None:
        super().__init__(task.model, settings.steps, settings.lr, optimizer)
        self.task = task

    def training_step(self, batch: Examples) -> Tensor:
        loss = (self.task.predict(batch) - batch.target).square().mean()
        self.last_loss = loss.detach()
        return loss

    def where(self, step: int) -> str:
        return f"the {self.task.name} at step {step}"


def train_regression(task: Regression, settings: RegressionSettings, setup: Setup, resume: bool) -> dict[str, Any]:
    """Fits the model, which ends with the moving average of its weights. Returns the cost (:meth:`Stage.cost`).

    A training that is killed goes on bit for bit from its state file, which the caller removes at the end.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """
    stage = Stage(state_file(setup.folder, task.name), task.model, setup, [settings.steps], resume)
    stage.bar.describe(task.name)

    def attempt() -> FitModule:
        module = RegressionModule(task, settings, setup.optimizer)
        fit, steps = stage.fit(module), (stage.progress.step, settings.steps)
        batches = ExampleBatches(task.data, task.path, settings.batch_size, setup.seed, steps)
        stage.run(fit, batches, stage.report(module, task.name), settings.checkpoint_every)
        check_divergence(stage.progress.losses, module.where(settings.steps))
        return module

    stage.until_done(attempt).adopt_average()
    task.model.to(setup.device.where)
    return stage.cost()


def train_denoiser(
    denoiser: NetworkDenoiser,
    z_0: EncodedPairs | Tensor,
    schedule: Schedule,
    settings: DenoiserSettings,
    setup: Setup,
    resume: bool = False,
) -> None:
    """Fits a denoiser of the prior p(x), which the guided samplers need and the bridge does not.

    Writes ``denoiser.safetensors``. It is a diffusion with a horizon long enough to start from N(0, I).

    Args:
        denoiser: with initial weights, and the horizon that it is trained on; changed in place.
        z_0: encoded training data, on the CPU: states alone, or pairs whose observations are not looked at.
        schedule: of the bridge; its horizon is replaced by the denoiser's.
        settings, setup, resume: of the training.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """
    path = diffusion_path(schedule.replace(alpha_bar_end=denoiser.alpha_bar_end))
    task = Regression("denoiser", denoiser, lambda at: denoiser.velocity(at.z, at.level), as_pairs(z_0), path)
    train_regression(task, settings, setup, resume)
    save(denoiser, setup.folder / "denoiser.safetensors", setup.about)
    state_file(setup.folder, task.name).unlink(missing_ok=True)


def train_conditional(
    model: ScoreNetwork | FlowNetwork,
    pairs: EncodedPairs | tuple[Tensor, Tensor],
    settings: ConditionalSettings,
    setup: Setup,
    resume: bool = False,
) -> None:
    """Fits an amortized baseline of a bridge, a conditional score or a flow, and writes ``<kind>.safetensors``.

    Args:
        model: with initial weights; changed in place. A score brings the schedule that it is trained on.
        pairs: encoded; or z (N, *z_shape) and c (N, *c_shape), on the CPU.
        settings, setup, resume: of the training; its cost is added to ``setup.about`` in the file.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """

    def predict(batch: Examples) -> Tensor:
        return model.velocity(batch.z, batch.level, model.encode(batch.c))

    path = diffusion_path(model.schedule) if isinstance(model, ScoreNetwork) else flow_path
    cost = train_regression(Regression(model.kind, model, predict, as_pairs(pairs), path), settings, setup, resume)
    save(model, setup.folder / f"{model.kind}.safetensors", {**setup.about, **cost})
    state_file(setup.folder, model.kind).unlink(missing_ok=True)


def state_file(folder: Path, name: str) -> Path:
    """Where the progress of a stage is kept while it runs."""
    return folder / f"{name}_state.pt"
