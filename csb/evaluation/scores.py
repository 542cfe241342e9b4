"""The figures of a bridge on frozen held-out observations: at the end of a training, and after every iteration."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from csb.bridge import Bridge, SampleInfo
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.metrics.calibration import MAX_RANKED, central_coverage, rank_uniformity, sbc_ranks, tarp
from csb.metrics.distances import moment_errors, sliced_wasserstein
from csb.metrics.ensemble import EnsembleScores
from csb.metrics.fidelity import SMALLEST, decibel, psnr, ssim_scores
from csb.metrics.inputs import ensemble_weights, posterior_mean
from csb.problems import ClassProblem, Pairs, Problem, Simulated
from csb.process import Stream, seeded

_SLICED = 10_000  # samples that the sliced distance is computed on; moments use all of them
_UNIFORM = 100  # observations that a test of ranks needs


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
    if problem.has_exact_posterior:
        return exact_scores(problem, bridge, sampler, metrics, seed)
    of_ensemble = ensemble_scores if problem.is_digit else held_out_scores
    return of_ensemble(problem, bridge, sampler, metrics, seed)


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
        directions = [seeded(seed, Stream.SCORES, i, 3) for _ in range(2)]
        row = {
            "sliced_w": sliced_wasserstein(samples[:_SLICED], exact[0][:_SLICED], directions[0]),
            "sliced_w_floor": sliced_wasserstein(exact[1][:_SLICED], exact[0][:_SLICED], directions[1]),
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
    """PSNR of the posterior mean, spread/skill, CRPS and the like over test observations, in bounded memory.

    No PSNR where y is a class: samples are to be near some digit of it, and not near one.
    """
    scores, test = EnsembleScores(), problem.pairs("test", metrics.observations)
    size, generator = pairs_at_once(metrics.samples), seeded(seed, Stream.SCORES, device=bridge.device)
    for chunk in draw_chunks(bridge, test, metrics.samples, sampler, generator, size):
        scores.update(chunk.samples, chunk.pairs.x, mask=bridge.transform.unknown(chunk.pairs.y))
    found = scores.compute()
    nearness = () if isinstance(problem, ClassProblem) else ("psnr_mean_per_image", "psnr_mean", "psnr_sample")
    keys = (*nearness, "spread", "skill", "spread_skill", "crps", "energy_score", "std_error_pearson")
    return {key: found[key] for key in keys}


def held_out_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """Proper scores and calibration of ``metrics.samples`` samples for at most ``metrics.observations`` test pairs.

    crps, energy_score, spread, skill, spread_skill and spread_skill_fair as in
    :class:`csb.metrics.ensemble.EnsembleScores`, in units of the spread of x in training; coverage_deviation and
    tarp_deviation, mean |coverage − level| of central intervals and of joint regions
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
        "psnr_sample": float(decibel(of_samples.mean(), 1.0)),
    }
    return found | (ssim_scores(x, y, log_weights)._asdict() if min(y.shape[2:]) >= SMALLEST else {})
