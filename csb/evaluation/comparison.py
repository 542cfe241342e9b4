"""Samplers side by side: the same frozen observations, the same scores, weights respected."""

import statistics
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from csb.bridge.samples import reset_peak
from csb.evaluation.calibration import MAX_RANKED, Coverage, central_coverage, rank_uniformity, sbc_ranks, tarp
from csb.evaluation.classifier import digit_probabilities
from csb.evaluation.inputs import ensemble_weights, systematic
from csb.evaluation.metrics import (
    EnsembleScores,
    c2st,
    mmd,
    mode_weight_tv,
    moment_errors,
    sliced_wasserstein,
    ssim_scores,
    std_error_correlation,
)
from csb.evaluation.report import Curves, LevelCurve, MethodResult, RankHistogram, StdError, Sweep
from csb.evaluation.settings import MetricsSettings
from csb.problems import MixturePosterior, Pairs, Problem
from csb.process import Stream, seeded
from csb.samplers import Sampler

_MMD = 2000  # samples of each law: the kernel takes all pairs


@dataclass(frozen=True)
class Method:
    """One sampler of a comparison; the fields but ``sampler`` as in :class:`csb.evaluation.report.MethodResult`."""

    name: str
    label: str
    sampler: Sampler
    schedule: str = ""
    family: str = ""
    reference: bool = False
    sweeps: tuple[Sweep, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """Samples (B, n, *x_shape) of all observations on the CPU, log-weights (B, n) or None, and what they cost."""

    x: Tensor
    log_weights: Tensor | None
    result: MethodResult


def draw(method: Method, y: Tensor, n: int, seed: int, chunk: int) -> Drawn:
    """n samples for each of y (B, *y_shape), ``chunk`` observations a call; one stream of numbers an observation.

    Each call's peak memory is measured by itself, for which the process's or device's highest mark is set back.
    """
    sampler, xs, ws, ess, ancestors = method.sampler, [], [], [], []
    seconds, peak, info = 0.0, 0, None
    for start in range(0, len(y), chunk):
        part = y[start : start + chunk]
        generators = [seeded(seed, Stream.COMPARISON_DRAW, start + i, device=sampler.device) for i in range(len(part))]
        reset_peak(sampler.device)
        found = sampler.sample(part, n, generators)
        info = found.info
        xs.append(found.x.cpu())
        ws.append(None if found.log_weights is None else found.log_weights.cpu())
        ess.append(info.ess)
        ancestors.append(info.unique_ancestors)
        seconds, peak = seconds + info.seconds, max(peak, info.peak_memory or 0)
    assert info is not None
    sizes = torch.cat([v for v in ess if v is not None]).double() if ess[0] is not None else None
    unique = torch.cat([v for v in ancestors if v is not None]).double() if ancestors[0] is not None else None
    result = MethodResult(
        name=method.name,
        label=method.label,
        schedule=method.schedule,
        forward_evaluations=info.forward_evaluations,
        backward_evaluations=info.backward_evaluations,
        seconds=seconds,
        peak_memory=peak or None,
        ess=None if sizes is None else (float(sizes.mean()), float(sizes.min())),
        unique_ancestors=None if unique is None else float(unique.mean()),
        sweeps=method.sweeps,
        reference=method.reference,
        family=method.family,
    )
    weights = [w for w in ws if w is not None]
    return Drawn(torch.cat(xs), torch.cat(weights) if weights else None, result)


def _level_curve(found: Coverage) -> LevelCurve:
    coverage = found.coverage.mean(1)
    return LevelCurve(tuple(found.levels.tolist()), tuple(coverage.tolist()), found.observations)


def calibration(drawn: Drawn, truth: Tensor, seed: int, mask: Tensor | None = None) -> tuple[dict[str, float], Curves]:
    """SBC, coverage of central intervals and TARP over the observations (at least 2)."""
    ranks = sbc_ranks(drawn.x, truth, seeded(seed, Stream.COMPARISON_RANKS), mask, drawn.log_weights)
    central = central_coverage(ranks)
    joint = tarp(drawn.x, truth, seeded(seed, Stream.COMPARISON_TARP), mask=mask, log_weights=drawn.log_weights)
    figures = {"coverage_deviation": central.deviation, "tarp_deviation": joint.deviation}
    histogram = None
    if (bins := min(20, len(ranks) // 5)) >= 2:  # fewer than ten observations tell nothing of uniformity
        uniformity = rank_uniformity(ranks, bins)
        if ranks.shape[1] <= MAX_RANKED:
            figures["sbc_p"] = uniformity.p_value
        histogram = RankHistogram(tuple(uniformity.counts.double().sum(1).tolist()), len(ranks))
    return figures, Curves(_level_curve(central), _level_curve(joint), histogram)


def digits(drawn: Drawn, labels: Tensor, classifier: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """digit_accuracy: weighted share of samples read as the true digit; digit_entropy: of the digits read, in nats.

    Averages over observations, and their standard errors (empty for one observation).
    """
    B, n = drawn.x.shape[:2]
    w = ensemble_weights(drawn.log_weights, drawn.x).cpu()
    read = digit_probabilities(classifier, drawn.x.flatten(0, 1)).argmax(1).view(B, n)
    right = (w * (read == labels[:, None])).sum(1)
    shares = torch.zeros((B, 10), dtype=w.dtype).scatter_add_(1, read, w)
    entropy = torch.special.entr(shares).sum(1)
    each = {"digit_accuracy": right, "digit_entropy": entropy}
    means = {key: float(values.mean()) for key, values in each.items()}
    return means, {key: float(values.std() / B**0.5) for key, values in each.items() if B > 1}


def image_result(
    drawn: Drawn, test: Pairs, classifier: nn.Module | None, mask: Tensor | None, seed: int
) -> MethodResult:
    """The result with the scores of images: accuracy, calibration, digits."""
    scores = EnsembleScores(mask)
    scores.update(drawn.x, test.x, drawn.log_weights)
    found = scores.compute()
    keep = (
        "psnr_mean", "psnr_mean_per_image", "psnr_sample", "crps", "energy_score", "spread_skill",
        "spread_skill_fair", "std_error_pearson",
    )  # fmt: skip
    metrics: dict[str, Any] = {key: found[key] for key in keep}
    similarity = ssim_scores(drawn.x, test.x, drawn.log_weights)
    metrics |= similarity._asdict()
    errors = scores.standard_errors()
    if classifier is not None and test.labels is not None:
        read, of_read = digits(drawn, test.labels, classifier)
        metrics, errors = metrics | read, errors | of_read
    figures, curves = calibration(drawn, test.x, seed, mask)
    bins = std_error_correlation(drawn.x, test.x, mask, log_weights=drawn.log_weights)
    std_error = StdError(tuple(bins.predicted_std.tolist()), tuple(bins.rmse.tolist()))
    return replace(
        drawn.result,
        metrics=metrics | figures,
        standard_errors=errors,
        curves=replace(curves, std_error=std_error),
    )


def point_result(drawn: Drawn, test: Pairs, seed: int, scale: Tensor) -> MethodResult:
    """The result with the scores of vectors that need no exact posterior: proper scores and calibration.

    ``scale``: the spread of x in training, in whose units the scores are; see :class:`EnsembleScores`.
    """
    scores = EnsembleScores(scale=scale)
    scores.update(drawn.x, test.x, drawn.log_weights)
    found = scores.compute()
    metrics: dict[str, Any] = {key: found[key] for key in ("crps", "energy_score", "spread_skill_fair")}
    errors = {key: value for key, value in scores.standard_errors().items() if key in metrics}
    figures, curves = calibration(drawn, test.x, seed)
    return replace(drawn.result, metrics=metrics | figures, standard_errors=errors, curves=curves)


def _evenly(x: Tensor, log_weights: Tensor | None) -> Tensor:
    """x (n, d) itself, or as many points of equal weight."""
    return x if log_weights is None else x[systematic(log_weights.exp(), len(x), 0.5)]


def against_exact(
    problem: Problem, drawn: Drawn, y: Tensor, seed: int, settings: MetricsSettings
) -> tuple[dict[str, float], dict[str, float]]:
    """Distances between samples and as many exact ones: averages over observations, and their standard errors.

    The standard errors are empty for one observation. sliced_w: sliced W_1, and its floor, exact against exact; c2st
    over the first ``c2st_observations`` only (it trains five networks for each), left out for no ``c2st_samples``; mmd,
    mean_error, cov_error, and mode_tv for mixtures.
    """
    rows: list[dict[str, float]] = []
    for i, one in enumerate(y):
        law = problem.posterior(one)
        x, w = drawn.x[i].flatten(1), None if drawn.log_weights is None else drawn.log_weights[i]
        even = _evenly(x, w)
        first, second = (law.sample(len(x), seeded(seed, Stream.COMPARISON_EXACT, i, j)).flatten(1) for j in (1, 2))
        row = {
            "sliced_w": sliced_wasserstein(x, first, seeded(seed, Stream.COMPARISON_SLICES), p=1, log_weights_a=w),
            "sliced_w_floor": sliced_wasserstein(second, first, seeded(seed, Stream.COMPARISON_SLICES), p=1),
            "mmd": mmd(even[:_MMD], first[:_MMD]),
        }
        if law.mean is not None and law.cov is not None:
            errors = moment_errors(x, law.moments, w)
            row |= {"mean_error": errors.mean_scaled, "cov_error": errors.cov_relative}
        if isinstance(law, MixturePosterior):
            m = law.mixture
            row["mode_tv"] = mode_weight_tv(x, m.weights, m.means, m.covs, log_weights=w)
        rows.append(row)
    each = {key: [row[key] for row in rows] for key in rows[0]}
    if settings.c2st_samples:
        count = min(settings.c2st_observations, len(y))
        each["c2st"] = [_c2st(problem, drawn, y, i, seed, settings.c2st_samples) for i in range(count)]
    errors = {key: statistics.stdev(values) / len(values) ** 0.5 for key, values in each.items() if len(values) > 1}
    return {key: sum(values) / len(values) for key, values in each.items()}, errors


def _c2st(problem: Problem, drawn: Drawn, y: Tensor, i: int, seed: int, n: int) -> float:
    """C2ST of at most n samples of observation i."""
    exact = problem.posterior(y[i]).sample(n, seeded(seed, Stream.COMPARISON_EXACT, i, 3)).flatten(1)
    x = _evenly(drawn.x[i].flatten(1), None if drawn.log_weights is None else drawn.log_weights[i])
    n = min(n, len(x))
    return c2st(exact[:n], x[torch.randperm(len(x), generator=seeded(seed, Stream.COMPARISON_EXACT, i, 4))[:n]])
