"""What guides the samplers of a run: a likelihood, of noise, exact classes or a trained classifier, and its sweeps."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csb.dtypes import float32_layers
from csb.errors import CSBError
from csb.evaluation.results import draw, proper_scores
from csb.evaluation.rows import Row, Sweep
from csb.files import SUFFIX, load_state, model_file, save_state, tensors_digest
from csb.networks.diffusion import Denoiser, DigitGuide
from csb.problems import AdditiveNoise, ClassProblem, MixtureClass, MnistClass, Pairs, Problem, Simulated, Transform
from csb.process import Grid, Schedule
from csb.runs.recipe import BaselineSettings
from csb.samplers import (
    GUIDED,
    ClassLikelihood,
    DiffusionSampler,
    GaussianLikelihood,
    GuidanceLikelihood,
    ParticleSampler,
    horizon,
    horizon_bias,
)
from csb.samplers.likelihood import z_variance_of
from csb.training import regression as training

_BIAS = 0.05  # a signal of this many noise deviations left at the horizon is worth a warning
_MORE = 1 + 1e-6  # horizons nearer to each other than this factor are one
_SWEEP = ("energy_score", "crps", "spread_skill")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guide:
    """What the guided samplers of one problem share."""

    problem: Problem
    denoiser: Denoiser
    likelihood: GuidanceLikelihood
    grid: Grid
    settings: BaselineSettings
    precision: str = "32-true"

    def make(self, name: str, **options: Any) -> DiffusionSampler:
        """A sampler by name. CSBError where the problem does not admit it."""
        s = self.settings
        shared: dict[str, Any] = {"batch_size": s.batch_size, "precision": self.precision}
        if issubclass(GUIDED[name], ParticleSampler):
            shared |= {"resampling": s.resampling, "ess_threshold": s.ess_threshold}
        given = shared | s.options.get(name, {}) | options
        return GUIDED[name](self.denoiser, self.likelihood, self.grid, **given)


def guide_of(
    problem: Problem,
    denoiser: Denoiser,
    schedule: Schedule,
    settings: BaselineSettings,
    precision: str,
    folder: Path,
    seed: int,
) -> Guide:
    """What the guided samplers share, on ``settings.T`` steps of the schedule with a horizon given or fit for the data.

    ``folder`` is where a classifier that guides is kept. CSBError where the problem has no likelihood to guide with.
    """
    likelihood = guidance_likelihood_of(problem, denoiser, folder, settings.min_std, seed)
    end = settings.alpha_bar_end
    if end is None:
        end = horizon(likelihood.z_variance**0.5, denoiser.alpha_bar_end)
    grid = Grid.from_schedule(schedule.replace(alpha_bar_end=end), settings.T)
    return Guide(problem, denoiser, likelihood, grid, settings, precision)


def horizon_warnings(guide: Guide) -> list[str]:
    """Warnings where the horizon is too short for samplers that start from N(0, I), or too long for the denoiser."""
    end, trained = float(guide.grid.alpha_bar[-1]), guide.denoiser.alpha_bar_end
    bias, texts = horizon_bias(guide.grid, guide.likelihood.z_variance**0.5), []
    if bias >= _BIAS:
        lower = "baselines.alpha_bar_end" if end > _MORE * trained else "denoiser.alpha_bar_end and train it again"
        texts.append(
            f"At ᾱ_T = {end:.2g} a signal of {bias:.2g} standard deviations of the noise is left, and the guided "
            f"samplers start from N(0, I): their samples are biased. Lower {lower}."
        )
    if _MORE * end < trained:
        texts.append(
            f"The guided samplers start at ᾱ_T = {end:.2g}, and the denoiser was trained down to {trained:.2g} only: "
            f"their first steps rely on what it has not learnt. Raise baselines.alpha_bar_end."
        )
    for text in texts:
        logger.warning("%s", text)
    return texts


def particle_counts(settings: BaselineSettings, problem: Problem, guided: bool) -> list[int | None]:
    """K of each particle filter that is compared: all of them guided, the last alone not; None: one run of all."""
    counts = settings.particles or ([1, 4, 16] if problem.is_image else [None])
    return list(counts if guided else counts[-1:])


@dataclass(frozen=True)
class Chosen:
    """What a sweep chose.

    Attributes:
        options: the argument and its value.
        text: the same for a label, e.g. "ζ = 0.3".
        sweep: every value with its scores.
    """

    options: dict[str, float]
    text: str
    sweep: Sweep


def sweep(guide: Guide, name: str, transform: Transform, seed: int, **options: Any) -> Chosen:
    """The value of a method's swept argument with the best energy score on validation observations.

    Where a noise-free observation leaves some pixels open, as ``transform`` tells, these are scored; the units are the
    spread of x in training. ``options``
    are further arguments of the method. CSBError where every value diverges.
    """
    settings, label, swept = guide.settings, GUIDED[name].label, GUIDED[name].swept
    assert swept is not None
    argument, symbol = swept
    guide.make(name, **options)  # the problem may not admit it, whatever the value
    val, values = guide.problem.pairs("val", settings.sweep_observations), settings.sweeps[name]
    rows: list[dict[str, Any]] = []
    for value in values:
        try:
            sampler = guide.make(name, **options, **{argument: value})
            drawn = draw(sampler, Row(name, label), val.y, settings.sweep_samples, seed, len(val.y))
        except CSBError as error:  # too large a step diverges, too long a jump does not fit
            rows.append({symbol: value, **dict.fromkeys(_SWEEP), "note": str(error)})
            continue
        found, _ = proper_scores(drawn, val.x, _SWEEP, scale=transform.x_scale(), mask=transform.unknown(val.y))
        rows.append({symbol: value, **found, "note": ""})
        logger.info(
            "%s, %s = %g: energy score %.4g, CRPS %.4g", label, symbol, value, found["energy_score"], found["crps"]
        )
    usable = [i for i, row in enumerate(rows) if row["energy_score"] is not None]
    if not usable:
        raise CSBError(f"every {symbol} of {values} diverges; give smaller ones")
    chosen = min(usable, key=lambda i: rows[i]["energy_score"])
    title = f"{argument} {symbol} of {label} on {settings.sweep_observations} validation observations × "
    table = Sweep(f"{title}{settings.sweep_samples}", tuple(rows), chosen, "Chosen: the best energy score.")
    return Chosen({argument: values[chosen]}, f"{symbol} = {values[chosen]:g}", table)


NAME = "guide"  # of the file
_TRAIN = 5_000  # training pairs behind the guidance likelihood's scales
_HELD_OUT = 2_000  # digits that the temperature, and the figures, are computed on
logger = logging.getLogger(__name__)


def can_be_guided(problem: Problem) -> bool:
    """Whether there is a likelihood p(y | x) to guide a denoiser with."""
    return isinstance(problem, AdditiveNoise | ClassProblem)


def guidance_likelihood_of(
    problem: Problem, denoiser: Denoiser, folder: Path, min_std: float, seed: int
) -> GuidanceLikelihood:
    """The guidance likelihood of a problem: for MNIST's classes, of the classifier in ``folder``, trained where need
    be.

    CSBError for a problem that has no likelihood.
    """
    count = _TRAIN if isinstance(problem, Simulated) else min(_TRAIN, problem.sizes["train"])
    train = problem.pairs("train", count)
    if not isinstance(problem, ClassProblem):
        return GaussianLikelihood.of(problem, denoiser, train, min_std)
    z_variance = z_variance_of(denoiser, train.x)
    if isinstance(problem, MixtureClass):
        return ClassLikelihood.of(problem, lambda x, _: problem.log_probabilities(x), z_variance)
    if not isinstance(problem, MnistClass):
        raise CSBError(f"{problem.name} has no classifier to guide with; choose baselines=none")
    model = digit_guide(problem, denoiser, folder, seed)

    def log_probabilities(x: Tensor, alpha_bar: float) -> Tensor:
        return model(x.float(), torch.full((len(x),), alpha_bar, dtype=torch.float32, device=x.device))

    return ClassLikelihood.of(problem, log_probabilities, z_variance)


def digit_guide(problem: MnistClass, denoiser: Denoiser, folder: Path, seed: int) -> DigitGuide:
    """The classifier for a denoiser: that of ``folder/guide.safetensors``, or one trained now and written there.

    The file holds tensors and what the classifier reaches on test digits; one that was made for another denoiser, or is
    damaged, is replaced.
    """
    path, made_for = model_file(folder, NAME), tensors_digest(denoiser.state_dict())
    if path.exists() and (found := _stored(path, made_for)) is not None:
        return found.to(denoiser.shift.device)
    logger.info("the classifier that guides to a digit is trained now, once: about ten minutes on a CPU core")
    train = problem.pairs("train")
    model = training.train_guide(train.x, _labels(train), denoiser, seed=seed)
    val, test = (problem.first(split, _HELD_OUT) for split in ("val", "test"))
    temperature = training.calibrate(model, val.x, _labels(val), denoiser, seed)
    figures = training.guide_figures(model, test.x, _labels(test), denoiser, seed)
    text = "; ".join(f"{row['accuracy']:.2%} at ᾱ = {row['alpha_bar']:g}" for row in figures)
    logger.info("the guiding classifier reads test digits, denoised: %s; temperature %.2f", text, temperature)
    save_state(folder / f"{NAME}{SUFFIX}", {"denoiser": made_for, "figures": figures, "state": model.state_dict()})
    return model


def _labels(pairs: Pairs) -> Tensor:
    assert pairs.labels is not None
    return pairs.labels


def _stored(path: Path, made_for: str) -> DigitGuide | None:
    """The classifier of a file, or None, with a warning, where it cannot be used."""
    with float32_layers():
        model = DigitGuide()
    try:
        content = load_state(path)
        if content["denoiser"] != made_for:
            logger.warning("%s was made for another denoiser; training it again", path)
            return None
        model.load_state_dict(content["state"])
    except Exception as error:  # whatever a damaged file raises: it is only a cache
        logger.warning("%s is no guiding classifier (%s); training it again", path, type(error).__name__)
        return None
    return model.eval().requires_grad_(False)
