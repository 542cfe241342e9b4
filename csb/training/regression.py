r"""Training of one network by squared error, without a bridge: the prior's denoiser, a conditional score, a flow.

A *path* joins a datum z_0 to noise ε and says what the network is to predict at a point of it. All are linear
interpolations whose regression target has the conditional mean that a sampler needs:

- diffusion: τ uniform in [0, 1] on a schedule; z = √ᾱ z_0 + √(1−ᾱ) ε, target v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho
  2022), which weighs an error of x̂_0 by 1/(1−ᾱ);
- flow: t uniform in [0, 1]; z = (1−t) ε + t z_0, target z_0 − ε (Lipman et al. 2023, eq. 23 with σ_min = 0).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, rand, randint, randn

from csb.bridge.checkpoint import save
from csb.files import SUFFIX
from csb.networks.diffusion import FlowNetwork, NetworkDenoiser, ScoreNetwork
from csb.process import Schedule, Stream, expand, seeded
from csb.training.divergence import LAST
from csb.training.module import FitModule, NetworkModule
from csb.training.pairs import EncodedPairs
from csb.training.settings import FitSettings, RegressionSettings
from csb.training.stage import Bar, Setup, Stage

# Of data z_0 (B, *z_shape): states z (B, *z_shape), levels (B,) (ᾱ, or t of a flow), what is to be predicted there
Interpolation = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]


def diffusion_path(schedule: Schedule) -> Interpolation:
    """Points of a diffusion on a schedule; see the module's docstring."""

    def draw(z_0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
        alpha_bar = schedule.alpha_bar(rand(len(z_0), dtype=z_0.dtype, generator=generator).double()).float()
        signal, rest = expand(alpha_bar.sqrt(), z_0), expand((1 - alpha_bar).sqrt(), z_0)
        return signal * z_0 + rest * noise, alpha_bar, signal * noise - rest * z_0

    return draw


def flow_path(z_0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the straight paths from noise to data; see the module's docstring."""
    noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
    t = rand(len(z_0), dtype=z_0.dtype, generator=generator)
    share = expand(t, z_0)
    return (1 - share) * noise + share * z_0, t, z_0 - noise


class Examples(NamedTuple):
    """One optimiser step: points of a path, with the encoded observations c (B, *c_shape), (B, 0) without any."""

    z: Tensor
    level: Tensor
    target: Tensor
    c: Tensor
    step: int


def example_batches(
    pairs: EncodedPairs, path: Interpolation, size: int, seed: int, steps: tuple[int, int]
) -> Iterator[Examples]:
    """The batches of steps start..stop − 1; batch s, of ``size`` examples, is a function of (seed, s) alone."""
    for step in range(*steps):
        generator = seeded(seed, step, Stream.EXAMPLES)
        z, c = pairs.rows(randint(len(pairs), (size,), generator=generator), generator)
        yield Examples(*path(z, generator), c, step)


def train_network(
    model: nn.Module,
    name: str,
    loss: Callable[[Any], Tensor],
    batches: Callable[[int, Bar], Iterable[Any]],
    settings: FitSettings,
    setup: Setup,
    resume: bool,
    title: str | None = None,
) -> None:
    """Fits a model, which ends with the moving average of its weights, and writes ``<name>.safetensors``.

    ``<name>_state.safetensors`` holds the way there: a training that is killed goes on from it bit for bit.

    Args:
        model: with initial weights; changed in place.
        name: of the files, and of the loss in the logs.
        loss: of a batch, ().
        batches: makes those from a step on, to the end or the next filling of a cache, and may describe it on the bar.
        settings, setup, resume: of the training; its cost is added to ``setup.about`` in the file.
        title: of the training in messages; by default its name.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """
    stage = Stage(f"{name}_state", model, setup, [settings.steps], resume)

    def attempt() -> FitModule:
        module = NetworkModule(loss, model, f"the {title or name}", settings.steps, settings.lr, setup.optimizer)
        fit = stage.fit(module)
        while (start := stage.progress.step) < settings.steps:
            stage.run(fit, batches(start, stage.bar), name, settings.checkpoint_every)
        stage.watch.check(LAST, module.where(settings.steps))
        return module

    stage.until_done(attempt).adopt_average()
    save(model.to(setup.device.where), setup.folder / f"{name}{SUFFIX}", {**setup.about, **stage.cost()})
    stage.remove()


def train_by_regression(
    model: NetworkDenoiser | ScoreNetwork | FlowNetwork,
    pairs: EncodedPairs,
    schedule: Schedule | None,
    settings: RegressionSettings,
    setup: Setup,
    resume: bool = False,
) -> None:
    """Fits a model by squared error to the targets of its path.

    A denoiser of the prior p(x), which the guided samplers need and the bridge does not, looks at no observations. A
    conditional score and a flow are the amortized baselines of a bridge.

    Args:
        model: with initial weights; changed in place.
        pairs: encoded training pairs.
        schedule: of a diffusion, with a horizon long enough to start from N(0, I); None for a flow.
        settings, setup, resume: of the training, as for :func:`train_network`.
    """
    name = "denoiser" if isinstance(model, NetworkDenoiser) else model.kind
    path = flow_path if schedule is None else diffusion_path(schedule)

    def loss(batch: Examples) -> Tensor:
        context = () if isinstance(model, NetworkDenoiser) else (model.encode(batch.c),)
        return (model.velocity(batch.z, batch.level, *context) - batch.target).square().mean()

    def batches(start: int, bar: Bar) -> Iterator[Examples]:
        bar.describe(name)
        return example_batches(pairs, path, settings.batch_size, setup.seed, (start, settings.steps))

    train_network(model, name, loss, batches, settings, setup, resume)
