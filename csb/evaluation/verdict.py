"""Whether a run's own figures say that its training failed: plain sentences, none for a healthy run.

Every threshold is what sampling alone gives an exact sampler with as many observations, and a margin beside it in which
a short training is no failure:

- spread/skill, a ratio of standard deviations, is 1 for a calibrated sampler. The root mean squared error of B
  observations has the relative standard deviation √(1/(2B)) where all coordinates of an observation err together, and
  less where they do not. The ratio's logarithm may be 3 of these and log √2 away from 0. Fewer than 20 observations are
  not judged.
- the mean deviation of coverage from its level is on average that of an exact posterior (its floor); it may be 3 floors
  and .1 above. Samples of half the standard deviation that they should have are .2 off.
- the distances at both ends have as floor that of two sets of the right law, in units of the state (about 1 wide); they
  may be 2 floors and .2.
- the error of the mean against the exact posterior, in its standard deviations, may be 3/√n and .5.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.metrics.calibration import LEVELS
from csb.problems import Problem

LONGER = "more steps (training.first_steps, training.steps), more pairs"
WIDTH = f"another objective.covariance (diagonal), {LONGER} or a larger network"
_ENDS = {  # figure, its floor, what it is, and what to try
    "x0_distance": ("x0_floor", "samples are far from the data", f"{WIDTH}, another problem.transform"),
    "xT_distance": ("xT_floor", "the data's end is far from N(0, I)", f"{LONGER} or a lower schedule.alpha_bar_end"),
}
_FLOORS = tuple(floor for floor, _, _ in _ENDS.values())
_FEWEST = 20  # observations, of which the logarithm's law is near a normal one
_DEVIATIONS = {"coverage_deviation": "single coordinates", "tarp_deviation": "joint regions"}
logger = logging.getLogger(__name__)


def failures(figures: Mapping[str, Any], observations: int, samples: int) -> list[str]:
    """What is far outside what a calibrated sampler gives, one sentence a figure; empty for a healthy run.

    Args:
        figures: any of those of :mod:`csb.evaluation.scores` and :func:`csb.evaluation.diagnostics.end_distances`;
            what is missing, None or not finite is not judged.
        observations, samples: that the scores are of: B ≥ 1 observations, n ≥ 2 samples of each.
    """
    known = {key: float(v) for key, v in figures.items() if isinstance(v, int | float) and math.isfinite(v)}
    return [
        *_spread(known, observations, samples),
        *_coverage(known, observations),
        *_ends(known),
        *_mean(known, samples),
    ]


def _spread(known: Mapping[str, float], observations: int, samples: int) -> list[str]:
    ratio = known.get("spread_skill_fair", known.get("spread_skill", math.nan) * math.sqrt(1 + 1 / samples))
    most = math.sqrt(2) * math.exp(3 / math.sqrt(2 * observations))
    if observations < _FEWEST or math.isnan(ratio) or 1 / most <= ratio <= most:
        return []
    what, remedy = (
        ("sure", WIDTH) if ratio < 1 else ("wide", f"{LONGER}, a smaller optimizer.lr or another problem.transform")
    )
    return [
        f"spread/skill is {ratio:.2g}, 1 where calibrated ({1 / most:.2g} to {most:.2g} are passed): samples are too "
        f"{what}; try {remedy}"
    ]


def _coverage(known: Mapping[str, float], observations: int) -> list[str]:
    floor = sum(math.sqrt(2 * c * (1 - c) / (math.pi * observations)) for c in LEVELS) / len(LEVELS)
    return [
        f"{key} is {known[key]:.2g} and that of an exact posterior {floor:.2g}: credible regions of {of} do not hold "
        f"the truth as often as they say; try {WIDTH}"
        for key, of in _DEVIATIONS.items()
        if known.get(key, 0.0) > 3 * floor + 0.1
    ]


def _ends(known: Mapping[str, float]) -> list[str]:
    return [
        f"{key} is {known[key]:.2g} and its floor {known[floor]:.2g}: {what}; try {remedy}"
        for key, (floor, what, remedy) in _ENDS.items()
        if known.get(key, 0.0) > 2 * known.get(floor, math.inf) + 0.2
    ]


def _mean(known: Mapping[str, float], samples: int) -> list[str]:
    error, floor = known.get("mean_error", 0.0), 1 / math.sqrt(samples)
    if error <= 3 * floor + 0.5:
        return []
    return [
        f"mean_error is {error:.2g} posterior standard deviations and that of exact samples {floor:.2g}; try {LONGER}, "
        f"a larger network or a smaller optimizer.lr"
    ]


def warn_of_failure(
    folder: Path, figures: Mapping[str, Any], problem: Problem, sampler: SamplerSettings, metrics: MetricsSettings
) -> None:
    """One warning in the log for a run whose figures :func:`failures` judges, with all that it finds."""
    exact = problem.has_exact_posterior
    observations = metrics.exact_observations if exact else min(metrics.observations, problem.sizes["test"])
    samples = metrics.exact_samples if exact else metrics.samples
    if sampler.mean_only:  # samples without noise are narrow by choice
        figures = {key: value for key, value in figures.items() if key in (*_ENDS, *_FLOORS)}
    if found := failures(figures, observations, samples):
        logger.warning("%s: by its own figures this bridge failed to learn: %s", folder, "; ".join(found))
