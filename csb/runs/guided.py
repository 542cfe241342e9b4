"""The guided samplers of one problem: what they share, warnings about their horizon, and the sweep of an argument."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csb.errors import CSBError
from csb.evaluation.report import Row, Sweep
from csb.evaluation.results import draw, proper_scores
from csb.networks.diffusion import Denoiser
from csb.problems import Problem, Transform
from csb.process import Grid, Schedule
from csb.runs.guidance_likelihood import guidance_likelihood_of
from csb.samplers import horizon, horizon_bias
from csb.samplers.registry import GUIDED, BaselineSettings, Guide

_BIAS = 0.05  # a signal of this many noise deviations left at the horizon is worth a warning
_MORE = 1 + 1e-6  # horizons nearer to each other than this factor are one
_SWEEP = ("energy_score", "crps", "spread_skill")
logger = logging.getLogger(__name__)


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
