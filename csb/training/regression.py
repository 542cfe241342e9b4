r"""Trainings of one network without a bridge: a denoiser, a conditional score, a flow, and a classifier of digits.

The first three are fitted by squared error. A *path* joins a datum z_0 to noise ε and says what the network is to
predict at a point of it: a target with the conditional mean that a sampler needs. All are linear interpolations:

- diffusion: τ uniform in [0, 1] on a schedule; z = √ᾱ z_0 + √(1−ᾱ) ε, target v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho
  2022), which weighs an error of x̂_0 by 1/(1−ᾱ);
- flow: t uniform in [0, 1]; z = (1−t) ε + t z_0, target z_0 − ε (Lipman et al. 2023, eq. 23 with σ_min = 0).

The classifier that guides samplers to a digit is fitted by cross-entropy to what it will see: x̂_0(z_k) of digits noised
to levels ᾱ_k, angles arccos √ᾱ uniform up to the denoiser's horizon, and clean digits for half of each batch. The best
classifier of x̂_0 and ᾱ is p(y | x̂_0, ᾱ) = E[p(y | z_k) | x̂_0], which far from the data is nearly the prior's share
of y, where a classifier of clean digits would be sure. What is left of overconfidence is taken away by one temperature,
the best on validation digits. A sampler is judged by another network than guided it (:mod:`csb.metrics.digits`).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, rand, randint, randn
from torch.nn import functional as nnf

from csb.bridge.checkpoint import save
from csb.files import SUFFIX
from csb.networks.diffusion import Denoiser, DigitGuide, FlowNetwork, NetworkDenoiser, ScoreNetwork
from csb.process import Schedule, Stream, expand, initialised, seeded
from csb.training.fit import FitModule, NetworkModule
from csb.training.pairs import EncodedPairs
from csb.training.settings import FitSettings, RegressionSettings
from csb.training.stage import Bar, Setup, Stage

# Of data z_0 (B, *z_shape): states z (B, *z_shape), levels (B,) (ᾱ, or t of a flow), what is to be predicted there
Interpolation = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]
GUIDE_BATCH, GUIDE_RATE = 128, 2e-3
LEVELS = (1.0, 0.9, 0.5, 0.1, 0.01)  # ᾱ at which accuracy and log-loss of the classifier are reported
TEMPERATURES = torch.logspace(-1, 1, 41, base=2, dtype=torch.float32)  # ½ to 2
_CHUNK = 500  # digits that are classified at a time


def diffusion_path(schedule: Schedule) -> Interpolation:
    """Make the points of a diffusion on a schedule."""

    def draw(z_0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
        alpha_bar = schedule.alpha_bar(rand(len(z_0), dtype=z_0.dtype, generator=generator).double()).float()
        signal, rest = expand(alpha_bar.sqrt(), z_0), expand((1 - alpha_bar).sqrt(), z_0)
        return signal * z_0 + rest * noise, alpha_bar, signal * noise - rest * z_0

    return draw


def flow_path(z_0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Make the points of the straight paths from noise to data."""
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
    """Yield the batches of steps start..stop − 1; batch s, of ``size`` examples, is a function of (seed, s) alone."""
    for step in range(*steps):
        generator = seeded(seed, step, Stream.EXAMPLES)
        z, c = pairs.to_train_on(randint(len(pairs), (size,), generator=generator), generator)
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
    """Fit a model, which ends with the moving average of its weights, and write ``<name>.safetensors``.

    A training that is killed goes on bit for bit from ``<name>_state.safetensors``. CSBError for a state of other
    settings, a full disk, a diverging loss.

    Args:
        model: with initial weights; changed in place.
        name: of the files, and of the loss in the logs.
        loss: of a batch, ().
        batches: makes those from a step on, to the end or the next filling of a cache, and may describe it on the bar.
        settings, setup, resume: of the training; its cost is added to ``setup.about`` in the file.
        title: of the training in messages; by default its name.
    """
    stage = Stage(f"{name}_state", model, setup, [settings.steps], resume)

    def attempt() -> FitModule:
        module = NetworkModule(loss, model, f"the {title or name}", settings.steps, settings.lr, setup.optimizer)
        fit = stage.fit(module)
        while (start := stage.progress.step) < settings.steps:
            stage.run(fit, batches(start, stage.bar), name, settings.checkpoint_every)
        stage.watch.check(module.where(settings.steps))
        return module

    stage.until_done(attempt).adopt_average()
    cost = {"seconds": stage.progress.seconds, "steps": stage.progress.step}
    if retries := len(stage.progress.retries):
        cost["retries"] = retries
    save(model.to(setup.device.where), setup.folder / f"{name}{SUFFIX}", {**setup.about, **cost})
    stage.remove()


def train_by_regression(
    model: NetworkDenoiser | ScoreNetwork | FlowNetwork,
    pairs: EncodedPairs,
    schedule: Schedule | None,
    settings: RegressionSettings,
    setup: Setup,
    resume: bool = False,
) -> None:
    """Fit a model by squared error to the targets of its path.

    A denoiser of the prior p(x) looks at no observations; a conditional score and a flow are amortized baselines.

    Args:
        model: with initial weights; changed in place.
        pairs: encoded training pairs.
        schedule: of a diffusion, with a horizon long enough to start from N(0, I); None for a flow.
        settings, setup, resume: as for :func:`train_network`.
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


@torch.no_grad()
def denoised(denoiser: Denoiser, x: Tensor, alpha_bar: Tensor, generator: torch.Generator) -> Tensor:
    """Return x̂_0(z_k) in data units of digits x (B, 1, 28, 28) noised to ᾱ (B,); x itself where ᾱ = 1."""
    out, noisy = x.clone(), alpha_bar < 1
    noise = randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)
    if bool(noisy.any()):
        a = alpha_bar[noisy][:, None, None, None]
        z = a.sqrt() * denoiser.encode(x[noisy]) + (1 - a).sqrt() * noise[noisy]
        out[noisy] = denoiser.decode(denoiser(z.float(), alpha_bar[noisy])).to(out)
    return out


def train_guide(images: Tensor, labels: Tensor, denoiser: Denoiser, *, seed: int, steps: int = 1500) -> DigitGuide:
    """Train a classifier of x̂_0 at temperature 1, on the denoiser's device: AdamW, one-cycle rate.

    Args:
        images, labels: (N, 1, 28, 28), floats in [0, 1], and (N,), integers 0–9.
        denoiser: of the digits; its horizon bounds the noise.
        seed: sets weights, batches and noise.
        steps: of 128 digits.
    """
    device = denoiser.shift.device
    with initialised(seeded(seed, Stream.GUIDE, 0).initial_seed()):
        model = DigitGuide().to(device)
    generator = seeded(seed, Stream.GUIDE, 1)
    furthest = math.acos(math.sqrt(denoiser.alpha_bar_end))
    optimizer = torch.optim.AdamW(model.parameters(), lr=GUIDE_RATE, weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, GUIDE_RATE, total_steps=steps + 1, pct_start=0.2)
    for _ in range(steps):
        chosen = randint(len(images), (GUIDE_BATCH,), generator=generator)
        angle = furthest * rand(GUIDE_BATCH, dtype=torch.float32, generator=generator)
        angle[: GUIDE_BATCH // 2] = 0
        level = angle.cos().square().to(device)
        seen = denoised(denoiser, images[chosen].to(device), level, generator)
        loss = nnf.nll_loss(model(seen, level), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _log_probabilities(model: DigitGuide, images: Tensor, denoiser: Denoiser, seed: int) -> dict[float, Tensor]:
    """Of denoised images (N, 1, 28, 28) at each of :data:`LEVELS` that the denoiser was trained at, (N, 10), CPU."""
    device, found = denoiser.shift.device, {}
    for alpha_bar in (level for level in LEVELS if level >= denoiser.alpha_bar_end):
        generator, parts = seeded(seed, Stream.GUIDE, 2), []
        for part in images.split(_CHUNK):
            level = torch.full((len(part),), alpha_bar, dtype=torch.float32, device=device)
            parts.append(model(denoised(denoiser, part.to(device), level, generator), level).cpu())
        found[alpha_bar] = torch.cat(parts)
    return found


def calibrate(model: DigitGuide, images: Tensor, labels: Tensor, denoiser: Denoiser, seed: int) -> float:
    """Set the temperature, 1 so far, to that with the least log-loss over all :data:`LEVELS`, and return it.

    ``images`` and ``labels`` are held out from training, (N, 1, 28, 28) and (N,).
    """
    logits = list(_log_probabilities(model, images, denoiser, seed).values())
    target = labels.repeat(len(logits))
    losses = torch.stack([nnf.cross_entropy(torch.cat(logits) / t, target) for t in TEMPERATURES])
    best = TEMPERATURES[losses.argmin()]
    model.temperature.fill_(float(best))
    return float(best)


def guide_figures(
    model: DigitGuide, images: Tensor, labels: Tensor, denoiser: Denoiser, seed: int
) -> list[dict[str, float]]:
    """Return at each of :data:`LEVELS` alpha_bar, accuracy in [0, 1], log_loss in nats (2.30 for no knowledge)."""
    rows = []
    for level, found in _log_probabilities(model, images, denoiser, seed).items():
        right = float((found.argmax(1) == labels).double().mean())
        rows.append({"alpha_bar": level, "accuracy": right, "log_loss": float(nnf.nll_loss(found, labels))})
    return rows
