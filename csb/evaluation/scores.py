"""The figures of a bridge on frozen held-out observations, and whether they say that its training failed.

Every threshold of :func:`failures` is what sampling alone gives an exact sampler with as many observations, and a
margin in which a short training is no failure:

- spread/skill is 1 for a calibrated sampler. The root mean squared error of B observations has the relative standard
  deviation √(1/(2B)) where all coordinates of an observation err together, and less where they do not. The logarithm
  may be 3 of these and log √2 away from 0. Fewer than 20 observations are not judged.
- the mean deviation of coverage from its level may be 3 times that of an exact posterior (its floor) and .1. Samples of
  half the right standard deviation are .2 off.
- the distances at both ends, in units of the state (about 1 wide), may be twice their floor and .2.
- the error of the mean against the exact posterior, in its standard deviations, may be 3/√n and .5.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from csb.bridge import Bridge
from csb.errors import MOST_DRAWS
from csb.metrics.calibration import LEVELS, deviation_floor
from csb.metrics.digits import load_or_train
from csb.metrics.distances import moment_errors, sliced_wasserstein
from csb.metrics.fidelity import SMALLEST, decibel, psnr, ssim_scores
from csb.metrics.inputs import ensemble_weights, posterior_mean
from csb.problems import Pairs, Problem, Simulated
from csb.problems.mnist import load_mnist
from csb.process import Stream, seeded
from csb.schema import Count, Schema, Whole

Draws = Annotated[int, Field(ge=1, le=MOST_DRAWS)]
Several = Annotated[int, Field(ge=2, le=MOST_DRAWS)]
_SLICED = 10_000  # samples that the sliced distance is computed on; moments use all of them
_FEWEST = 20  # observations, of which the logarithm's law is near a normal one
_LONGER = "more steps (training.first_steps, training.steps), more pairs"
_WIDTH = f"another objective.covariance (diagonal), {_LONGER} or a larger network"
_ENDS = {  # figure, its floor, what it is, and what to try
    "x0_distance": ("x0_floor", "samples are far from the data", f"{_WIDTH}, another problem.transform"),
    "xT_distance": ("xT_floor", "the data's end is far from N(0, I)", f"{_LONGER} or a lower schedule.alpha_bar_end"),
}
logger = logging.getLogger(__name__)


class SamplerSettings(Schema):
    """How posterior samples are drawn: the options of :meth:`csb.bridge.Bridge.sample`."""

    group = "sampler"

    batch_size: Count = Field(default=1024, description="states a network call")
    mean_only: bool = Field(default=False, description="follow the means: no noise after the start")
    refine: Whole = Field(default=0, description="passes of the last forward and backward kernels after the first")
    sample_steps: Count | None = Field(default=None, description="steps of a pass, at most T; null: all T")


class MetricsSettings(Schema):
    """How much is drawn for figures."""

    group = "metrics"

    observations: Draws = 50
    """Test observations where no exact posterior is known; all held-out pairs of a file that holds fewer."""
    samples: Several = Field(default=64, description="samples of each of them")
    exact_samples: Annotated[int, Field(ge=100, le=MOST_DRAWS)] = 2000
    """Samples of each observation where the exact posterior is known."""
    exact_observations: Draws = Field(default=10, description="test observations where the exact posterior is known")
    picture_rows: int = Field(default=6, ge=1, le=12, description="observations in a sample picture")
    compare_observations: Several = Field(default=100, description="test observations in the comparison of samplers")
    compare_samples: Several = Field(default=16, description="samples of each of them")
    c2st_samples: Annotated[int, Field(ge=0, le=MOST_DRAWS)] = 0
    """Samples of each law for C2ST; 0 leaves it out."""
    c2st_observations: Draws = 1
    """How many of the exact_observations C2ST is averaged over, at most all of them."""


def pairs_at_once(n: int) -> int:
    """How many pairs of n samples each make up to 4,096 states; at least 1."""
    return max(1, 4096 // n)


def held_out(problem: Problem, n: int) -> Pairs:
    """The first n test pairs; all of them where the data end before."""
    return problem.pairs("test", n if isinstance(problem, Simulated) else min(n, problem.sizes["test"]))


def exact_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """Means over observations: sliced Wasserstein distance to exact samples with its floor (two sets of exact samples),
    and the relative errors of posterior mean (in units of the posterior's standard deviation) and covariance."""
    n, rows = metrics.exact_samples, []
    for i, y in enumerate(problem.pairs("test", metrics.exact_observations).y):
        law = problem.posterior(y)
        generator = seeded(seed, Stream.SCORES, i, device=bridge.device)
        samples = bridge.sample(y, n, generator=generator, **vars(sampler)).x.cpu().flatten(1)
        exact = [law.sample(n, seeded(seed, Stream.SCORES, i, j)).flatten(1) for j in (1, 2)]
        row = {
            key: sliced_wasserstein(x[:_SLICED], exact[0][:_SLICED], seeded(seed, Stream.SCORES, i, 3))
            for key, x in (("sliced_w", samples), ("sliced_w_floor", exact[1]))
        }
        mean, cov = (law.mean, law.cov) if law.cov is not None else (exact[1].mean(0), exact[1].T.cov())
        if mean is not None and cov is not None:
            errors = moment_errors(samples, {"mean": mean, "cov": cov})
            row |= {"mean_error": errors.mean_scaled, "cov_error": errors.cov_relative}
        rows.append(row)
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def nearness(problem: Problem, samples: Tensor, truth: Tensor, log_weights: Tensor | None = None) -> dict[str, float]:
    """How near samples (B, n, C, H, W) of images, and their mean, are to the truth (B, C, H, W): PSNR and SSIM.

    Pixels count from 0 at the lower bound to 1 at the upper one, without bounds at the least and the largest value of
    the truth. SSIM is left out of images below 6 pixels a side.
    """
    bounds = [v for side in getattr(problem, "support", None) or () for v in side]
    known = bounds and all(map(math.isfinite, bounds))
    low, high = (min(bounds), max(bounds)) if known else (float(truth.min()), float(truth.max()))
    x, y = ((v.double() - low) / ((high - low) or 1.0) for v in (samples, truth))
    weights = ensemble_weights(log_weights, x)
    of_samples = (weights * (x - y[:, None]).square().flatten(2).mean(2)).sum(1)
    found = {
        "psnr_mean": psnr(posterior_mean(x, log_weights), y),
        "psnr_sample": float(decibel(of_samples.mean())),
    }
    return found | (ssim_scores(x, y, log_weights) if min(y.shape[2:]) >= SMALLEST else {})


def digit_classifier(root: str, seed: int = 0) -> tuple[nn.Module, float]:
    """The repo's digit classifier, trained once and kept beside the data: the model and its test accuracy."""
    data = load_mnist(root)
    train, test = ((data[split][0][:, None].float() / 255, data[split][1]) for split in ("train", "test"))
    return load_or_train(Path(root) / "classifier.safetensors", *train, *test, seed)


def failures(figures: Mapping[str, Any], observations: int, samples: int) -> list[str]:
    """What is far outside what a calibrated sampler gives, one sentence a figure; empty for a healthy run.

    Args:
        figures: any scores of this module and distances of :func:`csb.evaluation.selection.end_distances`; what is
            missing, None or not finite is not judged.
        observations, samples: that the scores are of: B ≥ 1 observations, n ≥ 2 samples of each.
    """
    known = {key: float(v) for key, v in figures.items() if isinstance(v, int | float) and math.isfinite(v)}
    found = []
    ratio = known.get("spread_skill_fair", known.get("spread_skill", math.nan) * math.sqrt(1 + 1 / samples))
    most = math.sqrt(2) * math.exp(3 / math.sqrt(2 * observations))
    if observations >= _FEWEST and (ratio < 1 / most or ratio > most):
        wide = f"wide; try {_LONGER}, a smaller optimizer.lr or another problem.transform"
        found.append(
            f"spread/skill is {ratio:.2g}, 1 where calibrated ({1 / most:.2g} to {most:.2g} are passed): samples are "
            f"too {f'sure; try {_WIDTH}' if ratio < 1 else wide}"
        )
    floor = deviation_floor(LEVELS, observations)
    for key, of in (("coverage_deviation", "single coordinates"), ("tarp_deviation", "joint regions")):
        if known.get(key, 0.0) > 3 * floor + 0.1:
            found.append(
                f"{key} is {known[key]:.2g} and that of an exact posterior {floor:.2g}: credible regions of {of} do "
                f"not hold the truth as often as they say; try {_WIDTH}"
            )
    for key, (floor_key, what, remedy) in _ENDS.items():
        if known.get(key, 0.0) > 2 * known.get(floor_key, math.inf) + 0.2:
            found.append(f"{key} is {known[key]:.2g} and its floor {known[floor_key]:.2g}: {what}; try {remedy}")
    error, floor = known.get("mean_error", 0.0), 1 / math.sqrt(samples)
    if error > 3 * floor + 0.5:
        found.append(
            f"mean_error is {error:.2g} posterior standard deviations and that of exact samples {floor:.2g}; try "
            f"{_LONGER}, a larger network or a smaller optimizer.lr"
        )
    return found


def warn_of_failure(
    folder: Path, figures: Mapping[str, Any], problem: Problem, sampler: SamplerSettings, metrics: MetricsSettings
) -> None:
    """One warning in the log for a run whose figures :func:`failures` judges, with all that it finds."""
    exact = problem.has_exact_posterior
    observations = metrics.exact_observations if exact else min(metrics.observations, problem.sizes["test"])
    if sampler.mean_only:  # samples without noise are narrow by choice
        ends = {key for end, (floor, *_) in _ENDS.items() for key in (end, floor)}
        figures = {key: value for key, value in figures.items() if key in ends}
    if found := failures(figures, observations, metrics.exact_samples if exact else metrics.samples):
        logger.warning("%s: by its own figures this bridge failed to learn: %s", folder, "; ".join(found))
