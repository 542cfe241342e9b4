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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from csb.bridge import Bridge, SampleInfo
from csb.errors import MOST_DRAWS
from csb.metrics.calibration import LEVELS, MAX_RANKED, central_coverage, rank_uniformity, sbc_ranks, tarp
from csb.metrics.digits import digit_probabilities, load_or_train
from csb.metrics.distances import moment_errors, sliced_wasserstein
from csb.metrics.ensemble import EnsembleScores, std_error_correlation
from csb.metrics.fidelity import SMALLEST, decibel, psnr, ssim_scores
from csb.metrics.inputs import ensemble_weights, posterior_mean
from csb.problems import ClassProblem, Pairs, Problem, Simulated
from csb.problems.mnist import load_mnist
from csb.process import Stream, seeded
from csb.schema import Count, Schema, Whole

Draws = Annotated[int, Field(ge=1, le=MOST_DRAWS)]
Several = Annotated[int, Field(ge=2, le=MOST_DRAWS)]
_SLICED = 10_000  # samples that the sliced distance is computed on; moments use all of them
_UNIFORM = 100  # observations that a test of ranks needs
_DIGITS = 64  # observations of digits drawn at once
_RELIABILITY = 100  # observations whose pixels are binned by their standard deviation
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


class Chunk(NamedTuple):
    """Some test pairs, their samples (B, n, *x_shape) on the CPU, and what these cost."""

    pairs: Pairs
    samples: Tensor
    info: SampleInfo


def draw_chunks(
    bridge: Bridge, test: Pairs, n: int, sampler: SamplerSettings, generator: torch.Generator, size: int
) -> Iterator[Chunk]:
    """n samples for each test pair, ``size`` pairs at a time, so that memory stays bounded.

    All random numbers come from one generator: another size gives other samples.
    """
    for start in range(0, len(test.x), size):
        part = slice(start, start + size)
        pairs = Pairs(test.x[part], test.y[part], None if test.labels is None else test.labels[part])
        drawn = bridge.sample(pairs.y, n, generator=generator, **vars(sampler))
        yield Chunk(pairs, drawn.x.cpu(), drawn.info)


def pairs_at_once(n: int) -> int:
    """How many pairs of n samples each make up to 4,096 states; at least 1."""
    return max(1, 4096 // n)


def held_out(problem: Problem, n: int) -> Pairs:
    """The first n test pairs; all of them where the data end before."""
    return problem.pairs("test", n if isinstance(problem, Simulated) else min(n, problem.sizes["test"]))


def final_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """Scores against the exact posterior where it is known, of digits those of pictures, else of held-out pairs."""
    of = exact_scores if problem.has_exact_posterior else ensemble_scores if problem.is_digit else held_out_scores
    return of(problem, bridge, sampler, metrics, seed)


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


def ensemble_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """PSNR of the posterior mean (not of classes), spread/skill, CRPS and the like over test observations."""
    scores, test = EnsembleScores(), problem.pairs("test", metrics.observations)
    size, generator = pairs_at_once(metrics.samples), seeded(seed, Stream.SCORES, device=bridge.device)
    for chunk in draw_chunks(bridge, test, metrics.samples, sampler, generator, size):
        scores.update(chunk.samples, chunk.pairs.x, mask=bridge.transform.unknown(chunk.pairs.y))
    found = scores.compute()
    # Samples of a class are to be near some digit of it, and not near one.
    near = () if isinstance(problem, ClassProblem) else ("psnr_mean_per_image", "psnr_mean", "psnr_sample")
    keys = (*near, "spread", "skill", "spread_skill", "crps", "energy_score", "std_error_pearson")
    return {key: found[key] for key in keys}


def held_out_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """Proper scores and calibration of ``metrics.samples`` samples for at most ``metrics.observations`` test pairs.

    Scores of :class:`csb.metrics.ensemble.EnsembleScores`, in units of the spread of x in training; coverage_deviation
    and tarp_deviation, mean |coverage − level| of central intervals and of joint regions
    (:mod:`csb.metrics.calibration`), and deviation_floor, what is expected of an exact posterior with as many
    observations; sbc_p, the p-value of uniform ranks, for 100 observations or more of at most 16 coordinates.
    At least 2 pairs. All samples are held in memory. Images have :func:`nearness` too.
    """
    scores, test = EnsembleScores(scale=bridge.transform.x_scale()), held_out(problem, metrics.observations)
    size, generator = pairs_at_once(metrics.samples), seeded(seed, Stream.HELD_OUT_DRAW, device=bridge.device)
    parts = []
    for chunk in draw_chunks(bridge, test, metrics.samples, sampler, generator, size):
        parts.append(chunk.samples)
        scores.update(chunk.samples, chunk.pairs.x)
    samples, found = torch.cat(parts), scores.compute()
    ranks = sbc_ranks(samples, test.x, seeded(seed, Stream.HELD_OUT_RANKS))
    central, joint = central_coverage(ranks), tarp(samples, test.x, seeded(seed, Stream.HELD_OUT_TARP))
    keys = ("crps", "energy_score", "spread", "skill", "spread_skill", "spread_skill_fair")
    row = {key: found[key] for key in keys}
    row |= {"coverage_deviation": central.deviation, "tarp_deviation": joint.deviation, "deviation_floor": joint.floor}
    if len(ranks) >= _UNIFORM and ranks.shape[1] <= MAX_RANKED:
        row["sbc_p"] = rank_uniformity(ranks).p_value
    return row | (nearness(problem, samples, test.x) if problem.is_image else {})


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
    return found | (ssim_scores(x, y, log_weights)._asdict() if min(y.shape[2:]) >= SMALLEST else {})


def digit_classifier(root: str, seed: int = 0) -> tuple[nn.Module, float]:
    """The repo's digit classifier, trained once and kept beside the data: the model and its test accuracy."""
    data = load_mnist(root)
    train, test = ((data[split][0][:, None].float() / 255, data[split][1]) for split in ("train", "test"))
    return load_or_train(Path(root) / "classifier.safetensors", *train, *test, seed)


def score_digits(
    bridge: Bridge, test: Pairs, classifier: nn.Module, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Figures of ``metrics.samples`` samples of digits for each test pair, and a table of pixel std against error.

    Besides :class:`csb.metrics.ensemble.EnsembleScores` (inside the hole, where there is one): digit_accuracy, the
    share of samples that the classifier reads as the true digit; known_error, the largest change of a known pixel;
    calls, network calls a sample; seconds.
    """
    scores, generator = EnsembleScores(), seeded(seed, Stream.IMAGES, device=bridge.device)
    right, calls, seconds, known, kept, mask = 0, 0, 0.0, 0.0, [], None
    for pairs, samples, info in draw_chunks(bridge, test, metrics.samples, sampler, generator, _DIGITS):
        calls, seconds = info.forward_evaluations, seconds + info.seconds
        mask = bridge.transform.unknown(pairs.y)
        scores.update(samples, pairs.x, mask=mask)
        assert pairs.labels is not None
        read = digit_probabilities(classifier, samples.flatten(0, 1)).argmax(1).view(len(pairs.x), -1)
        right += int((read == pairs.labels[:, None]).sum())
        if mask is not None:
            known = max(known, float(((samples - pairs.x[:, None]) * ~mask[:, None]).abs().max()))
        if sum(len(part) for part in kept) < _RELIABILITY:
            kept.append(samples)
    row = {**scores.compute(), "digit_accuracy": right / (len(test.x) * metrics.samples)}
    row |= {"calls": calls, "seconds": seconds} | ({} if mask is None else {"known_error": known})
    x = torch.cat(kept)
    bins = std_error_correlation(x, test.x[: len(x)], bridge.transform.unknown(test.y[: len(x)]))
    reliability = [
        {"bin": i, "pixel_std": float(std), "rmse_of_mean": float(rmse)}
        for i, (std, rmse) in enumerate(zip(bins.predicted_std, bins.rmse), start=1)
    ]
    return row, reliability


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
    floor = sum(math.sqrt(2 * c * (1 - c) / (math.pi * observations)) for c in LEVELS) / len(LEVELS)
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
