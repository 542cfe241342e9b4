r"""Trainings of one network without a bridge: a denoiser, a conditional score, a flow, and a classifier of digits.

The first three are fitted by squared error. A *path* joins a datum z_0 to noise ε and says what the network is to
predict at a point of it: a target with the conditional mean that a sampler needs. All are linear interpolations:

- diffusion: τ uniform in [0, 1] on a schedule; z = √ᾱ z_0 + √(1−ᾱ) ε, target v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho
  2022), which weighs an error of x̂_0 by 1/(1−ᾱ);
- flow: t uniform in [0, 1]; z = (1−t) ε + t z_0, target z_0 − ε (Lipman et al. 2023, eq. 23 with σ_min = 0).

Mean flow and consistency training take the points and targets v of the flow's path, and look at two times t ≤ s of it:

- mean flow (Geng et al. 2025, eq. 6–11): differentiating (s−t) u(z_t, t, s) = ∫_t^s v dτ in t along the path gives

      u = v + (s−t) (v·∂_z u + ∂_t u),

  the sign being that of a time that runs from noise to data. The right-hand side, with the network's own derivatives
  and without gradient, is linear in v, so that its mean over pairs is that of the marginal velocity. For t = s, which a
  quarter of a batch has, it is v: the flow.
- consistency (Song et al. 2023; Song & Dhariwal 2023): f(z_t, t) is to be f(z_s, s) of the next, less noisy level s of
  a grid, z_s = z_t + (s−t) v on the straight path of the pair, without gradient and by the same weights.

The classifier that guides samplers to a digit is fitted by cross-entropy to what it will see: x̂_0(z_k) of digits noised
to levels ᾱ_k, angles arccos √ᾱ uniform up to the denoiser's horizon, and clean digits for half of each batch. The best
classifier of x̂_0 and ᾱ is p(y | x̂_0, ᾱ) = E[p(y | z_k) | x̂_0], which far from the data is nearly the prior's share
of y, where a classifier of clean digits would be sure. What is left of overconfidence is taken away by one temperature,
the best on validation digits. A sampler is judged by another network than guided it (:mod:`csb.metrics.digits`).
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, rand, randint, randn
from torch.nn import functional as nnf
from torch.nn.attention import SDPBackend, sdpa_kernel

from csb.bridge.checkpoint import save
from csb.files import SUFFIX
from csb.networks.diffusion import (
    ConsistencyNetwork,
    Denoiser,
    DigitGuide,
    MeanFlowNetwork,
    NetworkDenoiser,
    NetworkModel,
)
from csb.process import Schedule, Stream, expand, initialised, seeded
from csb.training.fit import FitModule, NetworkModule
from csb.training.pairs import EncodedPairs
from csb.training.settings import FitSettings, RegressionSettings
from csb.training.stage import Bar, Setup, Stage

# Of data z_0 (B, *z_shape): states z (B, *z_shape), levels (B,) (ᾱ, or t of a flow; of a mean flow (t, s), (B, 2)), and
# what is to be predicted there
Interpolation = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]
WEIGHT_FLOOR, WEIGHT_POWER = 1e-3, 0.5  # c and p of a mean flow (Geng et al. 2025)
FEWEST, DOUBLINGS, LARGEST, WARP = 10, 7, 160.0, 7.0  # of the grids of consistency training
HUBER = 1.08e-3  # its c over √d: twice that of Song & Dhariwal (2023), whose data have scale ½
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
    return _between(noise, z_0, t), t, z_0 - noise


def _between(noise: Tensor, z_0: Tensor, t: Tensor) -> Tensor:
    share = expand(t, z_0)
    return (1 - share) * noise + share * z_0


def _times(z_0: Tensor, generator: torch.Generator, *more: int) -> Tensor:
    """Times (B, *more) with logit t ~ N(0.4, 2²), so that both ends are seen.

    log σ, σ = (1−t)/t, is then normal as in Song & Dhariwal (2023), for data of unit scale in place of ½.
    """
    return (0.4 + 2 * randn((len(z_0), *more), dtype=z_0.dtype, generator=generator)).sigmoid()


def mean_flow_path(z_0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Make the points of a flow with two times: of every fourth one t = s, of the others t < s."""
    noise = randn(z_0.shape, dtype=z_0.dtype, generator=generator)
    t, s = _times(z_0, generator, 2).sort(dim=1).values.unbind(1)
    s = torch.where(torch.arange(len(t)) % 4 == 3, t, s)
    return _between(noise, z_0, t), torch.stack([t, s], dim=1), z_0 - noise


def consistency_path(z_0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Make the points of a flow at log-normal σ."""
    noise, t = randn(z_0.shape, dtype=z_0.dtype, generator=generator), _times(z_0, generator)
    return _between(noise, z_0, t), t, z_0 - noise


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


def squared_error(model: NetworkDenoiser | NetworkModel, batch: Examples) -> Tensor:
    """Return the mean squared error of the network's output at the points of a path, ()."""
    context = () if isinstance(model, NetworkDenoiser) else (model.encode(batch.c),)
    return (model.velocity(batch.z, batch.level, *context) - batch.target).square().mean()


@torch.no_grad()
def mean_velocity_target(
    model: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, level: Tensor, v: Tensor, context: Tensor
) -> Tensor:
    """Return v + (s−t) (v·∂_z u + ∂_t u), (B, *z_shape), of a mean velocity u(z, (t, s), context) at levels (B, 2)."""
    moved = level[:, 1] > level[:, 0]
    (t, s), along = level[moved].unbind(1), v[moved]
    own = context[moved].to(z.dtype)

    def mean_velocity(z: Tensor, t: Tensor) -> Tensor:
        return model(z, torch.stack([t, s], dim=1), own)

    _load_derivatives()
    # neither autocast's copies of weights nor fused attention have a forward derivative
    with torch.autocast(z.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        slope = torch.func.jvp(mean_velocity, (z[moved], t), (along, torch.ones_like(t)))[1]
    return v.index_put((moved,), along + expand(s - t, along) * slope)


@functools.cache
def _load_derivatives() -> None:
    """Make torch load its forward derivatives, at which it warns of a deprecated function of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        at = torch.ones(1, 2, dtype=torch.float32)
        torch.func.jvp(lambda x: nnf.layer_norm(x, (2,)), (at,), (at,))


def mean_flow_loss(model: NetworkModel, batch: Examples) -> Tensor:
    """Return the mean squared error of the mean velocity, weighted by 1/(error + c)^p (Geng et al. 2025), ().

    For p = 0 the best prediction is the mean of the targets. For p > 0 it is so where they lie symmetrically about it;
    elsewhere it follows outliers less. p = ½ is much like a pseudo-Huber loss.
    """
    context = model.encode(batch.c)
    target = mean_velocity_target(model, batch.z, batch.level, batch.target, context)
    error = (model(batch.z, batch.level, context) - target).flatten(1).square().sum(1)
    return (error / (error.detach() + WEIGHT_FLOOR) ** WEIGHT_POWER).mean()


def next_level(t: Tensor, step: int, steps: int) -> Tensor:
    """Return the less noisy level after t (B,) on the grid of a step, in [t, 1].

    The grid is even in σ^(1/7), σ = (1−t)/t (Karras et al. 2022), and its number of intervals up to σ = 160 doubles
    from 10 to 1,280 in equal parts of the training (Song & Dhariwal 2023, for data of unit scale). Its offset is that
    of t: levels are continuous.
    """
    count = FEWEST * 2 ** (step * (DOUBLINGS + 1) // steps)
    width = LARGEST ** (1 / WARP) / count
    sigma = (((1 - t) / t) ** (1 / WARP) - width).clamp_min(0) ** WARP
    return 1 / (1 + sigma)


def consistency_loss(model: NetworkModel, batch: Examples, steps: int) -> Tensor:
    """Return the pseudo-Huber distance of the ends from neighbouring levels, weighted by 1/(σ_t − σ_s), ()."""
    z, t, v, c, step = batch
    context, s = model.encode(c), next_level(t, step, steps)
    with torch.no_grad():
        target = model(z + expand(s - t, z) * v, s, context)
    error = (model(z, t, context) - target).flatten(1).square().sum(1)
    near = HUBER * target[0].numel() ** 0.5
    return (((error + near**2).sqrt() - near) / (1 / t - 1 / s)).mean()


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
    model: NetworkDenoiser | NetworkModel,
    pairs: EncodedPairs,
    schedule: Schedule | None,
    settings: RegressionSettings,
    setup: Setup,
    resume: bool = False,
) -> None:
    """Fit a model to the targets of its path.

    A denoiser of the prior p(x) looks at no observations; conditional models are amortized baselines.

    Args:
        model: with initial weights; changed in place.
        pairs: encoded training pairs.
        schedule: of a diffusion, with a horizon long enough to start from N(0, I); None for what follows a flow.
        settings, setup, resume: as for :func:`train_network`.
    """
    name = "denoiser" if isinstance(model, NetworkDenoiser) else model.file
    path, loss = (flow_path if schedule is None else diffusion_path(schedule)), functools.partial(squared_error, model)
    if isinstance(model, ConsistencyNetwork):
        path, loss = consistency_path, functools.partial(consistency_loss, model, steps=settings.steps)
    elif isinstance(model, MeanFlowNetwork):
        path, loss = mean_flow_path, functools.partial(mean_flow_loss, model)

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
