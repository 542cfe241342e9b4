"""Where a row of a comparison is made: samples are drawn and scored on frozen observations; finished rows are kept."""

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from csb.bridge import Bridge
from csb.bridge.samples import reset_peak
from csb.errors import CSBError
from csb.evaluation.rows import Curves, LevelCurve, RankHistogram, Row, StdError
from csb.evaluation.scores import (
    MetricsSettings,
    SamplerSettings,
    exact_scores,
    held_out,
    nearness,
    pairs_at_once,
)
from csb.files import digest, json_text, read_json, write_json
from csb.metrics.calibration import (
    LEVELS,
    MAX_RANKED,
    central_coverage,
    deviation_floor,
    rank_uniformity,
    sbc_ranks,
    tarp,
)
from csb.metrics.digits import digit_features, digit_probabilities
from csb.metrics.distances import c2st, frechet, mmd, mode_weight_tv, moment_errors, sliced_wasserstein
from csb.metrics.ensemble import EnsembleScores, std_error_correlation
from csb.metrics.fidelity import ssim_scores
from csb.metrics.inputs import ensemble_weights, systematic
from csb.problems import ClassProblem, MixturePosterior, Pairs, Problem, Transform
from csb.process import Stream, seeded
from csb.renamed import scores_of_today
from csb.samplers import BridgeSampler, Sampler

_UNIFORM = 100  # observations that a test of ranks needs
_MMD = 2000  # samples of each law: the kernel takes all pairs
FORMAT = "csb-compare-1"
Scores = tuple[dict[str, float], dict[str, float]]  # averages over observations, and their standard errors


class Results:
    """Finished rows in one JSON file, each under the digest of all that it depends on, kept there as it is finished.

    Args:
        path: of the file, which may not exist yet.

    Raises:
        CSBError: a file that is damaged or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = scores_of_today(read_json(path)) if path.exists() else {"format": FORMAT, "entries": []}
            assert content["format"] == FORMAT
            entries = [{"key": one["key"], "found": one["found"]} for one in content["entries"]]
            self._entries = {digest(one["key"]): one for one in entries}
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise CSBError(f"{path} is damaged or of another kind; remove it, or choose another out=") from error

    def load(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """What was found under a key of plain data, or None."""
        entry = self._entries.get(digest(_as_json(key)))
        return None if entry is None else entry["found"]

    def save(self, key: dict[str, Any], found: dict[str, Any]) -> None:
        """Keep what was found, plain data, on disk at once. CSBError where the file cannot be written."""
        key = _as_json(key)
        self._entries[digest(key)] = {"key": key, "found": _as_json(found)}
        self.write({})

    def write(self, more: dict[str, Any]) -> None:
        """Write the file with all entries, and ``more`` before them."""
        write_json(self.path, {"format": FORMAT, **more, "entries": list(self._entries.values())})


def _as_json(value: Any) -> Any:
    return json.loads(json_text(value))


@dataclass(frozen=True)
class Drawn:
    """Samples (B, n, *x_shape) of all observations on the CPU, log-weights (B, n) or None, and a row of their cost."""

    x: Tensor
    log_weights: Tensor | None
    row: Row


def draw(sampler: Sampler, row: Row, y: Tensor, n: int, seed: int, chunk: int) -> Drawn:
    """n samples for each of y (B, *y_shape), ``chunk`` observations a call; one stream of numbers an observation.

    ``row`` names the method; a copy says what the samples cost. Each call's peak memory is measured by itself, for
    which the process's or device's highest mark is set back.
    """
    xs, logs, infos = [], [], []
    for start in range(0, len(y), chunk):
        part = y[start : start + chunk]
        generators = [seeded(seed, Stream.COMPARISON_DRAW, start + i, device=sampler.device) for i in range(len(part))]
        reset_peak(sampler.device)
        one = sampler.sample(part, n, generators)
        xs.append(one.x.cpu())
        logs += [] if one.log_weights is None else [one.log_weights.cpu()]
        infos.append(one.info)
    found = [[v for info in infos if (v := getattr(info, key)) is not None] for key in ("ess", "unique_ancestors")]
    ess, ancestors = (torch.cat(values).double() if values else None for values in found)
    row = replace(
        row,
        forward_evaluations=infos[-1].forward_evaluations,
        backward_evaluations=infos[-1].backward_evaluations,
        seconds=sum(info.seconds for info in infos),
        peak_memory=max(info.peak_memory or 0 for info in infos) or None,
        ess=None if ess is None else (float(ess.mean()), float(ess.min())),
        unique_ancestors=None if ancestors is None else float(ancestors.mean()),
    )
    return Drawn(torch.cat(xs), torch.cat(logs) if logs else None, row)


def calibration(drawn: Drawn, truth: Tensor, seed: int, mask: Tensor | None = None) -> tuple[dict[str, float], Curves]:
    """SBC, coverage of central intervals and TARP over the observations (at least 2)."""
    ranks = sbc_ranks(drawn.x, truth, seeded(seed, Stream.COMPARISON_RANKS), mask, drawn.log_weights)
    central = central_coverage(ranks)
    joint = tarp(drawn.x, truth, seeded(seed, Stream.COMPARISON_TARP), mask=mask, log_weights=drawn.log_weights)
    figures = {"coverage_deviation": central.deviation, "tarp_deviation": joint.deviation}
    histogram = None
    if (bins := min(20, len(ranks) // 5)) >= 2:  # fewer than ten observations tell nothing of uniformity
        uniformity = rank_uniformity(ranks, bins)
        if len(ranks) >= _UNIFORM and ranks.shape[1] <= MAX_RANKED:
            figures["sbc_p"] = uniformity.p_value
        histogram = RankHistogram(tuple(uniformity.counts.double().sum(1).tolist()), len(ranks))
    of_intervals, of_regions = (
        LevelCurve(tuple(one.levels.tolist()), tuple(one.coverage.mean(1).tolist()), one.observations)
        for one in (central, joint)
    )
    return figures, Curves(of_intervals, of_regions, histogram)


def digits(drawn: Drawn, labels: Tensor, classifier: nn.Module) -> Scores:
    """digit_accuracy: weighted share of samples read as the true digit; digit_entropy: of the digits read, in nats."""
    B, n = drawn.x.shape[:2]
    w = ensemble_weights(drawn.log_weights, drawn.x).cpu()
    read = digit_probabilities(classifier, drawn.x.flatten(0, 1)).argmax(1).view(B, n)
    right = (w * (read == labels[:, None])).sum(1)
    shares = torch.zeros((B, 10), dtype=w.dtype).scatter_add_(1, read, w)
    each = {"digit_accuracy": right, "digit_entropy": torch.special.entr(shares).sum(1)}
    means = {key: float(values.mean()) for key, values in each.items()}
    return means, {key: float(values.std() / B**0.5) for key, values in each.items() if B > 1}


def proper_scores(
    drawn: Drawn, truth: Tensor, keys: tuple[str, ...], scale: Tensor | float = 1.0, mask: Tensor | None = None
) -> Scores:
    """Some of the scores of :class:`csb.metrics.EnsembleScores`, in units of ``scale``, of what a mask selects."""
    scores = EnsembleScores(scale)
    scores.update(drawn.x, truth, drawn.log_weights, mask)
    found, errors = scores.compute(), scores.standard_errors()
    return {key: found[key] for key in keys}, {key: value for key, value in errors.items() if key in keys}


def image_row(
    drawn: Drawn,
    test: Pairs,
    classifier: nn.Module | None,
    mask: Tensor | None,
    seed: int,
    more: tuple[str, ...] = (),
) -> Row:
    """The row with the scores of images: accuracy, calibration, digits."""
    keys = (
        "psnr_mean", "psnr_mean_per_image", "psnr_sample", "crps", "energy_score", "spread_skill",
        "spread_skill_fair", "std_error_pearson", *more,
    )  # fmt: skip
    metrics, errors = proper_scores(drawn, test.x, keys, mask=mask)
    metrics |= ssim_scores(drawn.x, test.x, drawn.log_weights)
    if classifier is not None and test.labels is not None:
        read, of_read = digits(drawn, test.labels, classifier)
        metrics, errors = metrics | read, errors | of_read
    figures, curves = calibration(drawn, test.x, seed, mask)
    bins = std_error_correlation(drawn.x, test.x, mask, log_weights=drawn.log_weights)
    curves = replace(curves, std_error=StdError(tuple(bins.predicted_std.tolist()), tuple(bins.rmse.tolist())))
    return replace(drawn.row, metrics=metrics | figures, standard_errors=errors, curves=curves)


def point_row(drawn: Drawn, test: Pairs, seed: int, scale: Tensor, more: tuple[str, ...] = ()) -> Row:
    """The row with the scores of vectors, in units of ``scale``, that need no exact posterior."""
    keys = ("crps", "energy_score", "spread_skill_fair", *more)
    metrics, errors = proper_scores(drawn, test.x, keys, scale=scale)
    figures, curves = calibration(drawn, test.x, seed)
    return replace(drawn.row, metrics=metrics | figures, standard_errors=errors, curves=curves)


class Reference(NamedTuple):
    """Real images to compare with, and others of the same classes that say what real images would score."""

    images: Pairs
    others: Pairs

    @classmethod
    def of(cls, problem: Problem) -> Self:
        return cls(problem.pairs("test"), problem.pairs("val"))


def _variance(x: Tensor, w: Tensor) -> Tensor:
    """The variance of weighted images (n, …), w of sum 1, summed over pixels."""
    x = x.flatten(1).double()
    return (w @ (x - w @ x).square()).sum()


def class_figures(drawn: Drawn, labels: Tensor, classifier: nn.Module, real: Reference) -> dict[str, float]:
    """Averages over the classes that occur, all samples of a class together, weights respected.

    frechet: of the classifier's features, against the real images of the class; frechet_floor: that of as many others
    of the class (or what there are); variance_ratio: the samples' variance over that of the real images.
    """
    assert real.images.labels is not None
    assert real.others.labels is not None
    weights = ensemble_weights(drawn.log_weights, drawn.x).cpu()
    rows = []
    for c in labels.unique():
        mine = labels == c
        x, w = drawn.x[mine].flatten(0, 1), (weights[mine] / mine.sum()).flatten()
        there, others = real.images.x[real.images.labels == c], real.others.x[real.others.labels == c][: len(x)]
        seen = digit_features(classifier, there)
        even = torch.full((len(there),), 1 / len(there), dtype=torch.float64)
        near = frechet(digit_features(classifier, x), seen, w)
        floor = frechet(digit_features(classifier, others), seen)
        rows.append((near, floor, float(_variance(x, w) / _variance(there, even))))
    near, floor, spread = (sum(column) / len(rows) for column in zip(*rows))
    return {"frechet": near, "frechet_floor": floor, "variance_ratio": spread}


def class_row(drawn: Drawn, test: Pairs, classifier: nn.Module, real: Reference) -> Row:
    """The row with the scores of a class: digits read, Fréchet distance, diversity, proper scores.

    No PSNR and the like: a sample is to be near some image of its class, not near the one it is held against.
    ``classifier`` must not be the one that guided the samples.
    """
    assert test.labels is not None
    read, of_read = digits(drawn, test.labels, classifier)
    proper, errors = proper_scores(drawn, test.x, ("crps", "energy_score"))
    metrics = read | class_figures(drawn, test.labels, classifier, real) | proper
    return replace(drawn.row, metrics=metrics, standard_errors=errors | of_read)


def scored(
    problem: Problem, transform: Transform, drawn: Drawn, test: Pairs, seed: int, settings: MetricsSettings
) -> Row:
    """The row of a method at equal cost: against the exact posterior where it is known, else by proper scores.

    ``transform``: of the problem; its unit and its unknown pixels count.
    """
    if problem.has_exact_posterior:
        metrics, errors = against_exact(problem, drawn, test.y, seed, settings)
        return replace(drawn.row, metrics=metrics, standard_errors=errors)
    return held_out_row(problem, transform, drawn, test, seed)


def held_out_row(
    problem: Problem,
    transform: Transform,
    drawn: Drawn,
    test: Pairs,
    seed: int,
    classifier: nn.Module | None = None,
    more: tuple[str, ...] = (),
) -> Row:
    """The row by proper scores and calibration on held-out pairs; of digits also by what a classifier reads.

    ``more``: further scores of :class:`csb.metrics.EnsembleScores`, by their keys. Of classes without a classifier
    proper scores alone.
    """
    if isinstance(problem, ClassProblem) and problem.is_digit:
        if classifier is not None:
            return class_row(drawn, test, classifier, Reference.of(problem))
        metrics, errors = proper_scores(drawn, test.x, ("crps", "energy_score", *more))
        return replace(drawn.row, metrics=metrics, standard_errors=errors)
    if problem.is_pixels:
        return image_row(drawn, test, classifier, transform.unknown(test.y), seed, more)
    row = point_row(drawn, test, seed, transform.x_scale(), more)
    if not problem.is_image:
        return row
    return replace(row, metrics=nearness(problem, drawn.x, test.x, drawn.log_weights) | row.metrics)


def bridge_row(
    problem: Problem,
    bridge: Bridge,
    sampler: SamplerSettings,
    settings: MetricsSettings,
    seed: int,
    classifier: nn.Module | None = None,
) -> Row:
    """The row of ``settings.samples`` samples of a bridge for at most ``settings.observations`` test pairs.

    Beside :func:`held_out_row`: spread and skill; deviation_floor, the deviation of coverage that is expected of an
    exact posterior with as many observations; known_error, the largest change of a pixel that the observation tells.
    """
    test, n = held_out(problem, settings.observations), settings.samples
    made = BridgeSampler(bridge, **vars(sampler))
    drawn = draw(made, Row("bridge", "bridge"), test.y, n, seed, pairs_at_once(n))
    more = ("spread", "skill", "spread_skill")
    row = held_out_row(problem, bridge.transform, drawn, test, seed, classifier, more)
    found = {} if row.curves.tarp is None else {"deviation_floor": deviation_floor(LEVELS, len(test.y))}
    if problem.is_pixels and (mask := bridge.transform.unknown(test.y)) is not None:
        found["known_error"] = float(((drawn.x - test.x[:, None]) * ~mask[:, None]).abs().max())
    return replace(row, metrics=row.metrics | found)


def final_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, Any]:
    """Scores against the exact posterior where it is known, else of held-out pairs."""
    if problem.has_exact_posterior:
        return exact_scores(problem, bridge, sampler, metrics, seed)
    return bridge_row(problem, bridge, sampler, metrics, seed).metrics


def scoring_transform(problem: Problem) -> Transform:
    """A problem's transform for :func:`scored`, fitted to the training pairs where scores have its unit."""
    if problem.is_image or problem.has_exact_posterior:
        return problem.new_transform()
    return problem.make_transform(problem.rows("train"))


def evenly(drawn: Drawn, i: int) -> Tensor:
    """The samples (n, *x_shape) of observation i, resampled to equal weight where they have weights."""
    x = drawn.x[i]
    return x if drawn.log_weights is None else x[systematic(drawn.log_weights[i].exp(), len(x), 0.5)]


def against_exact(problem: Problem, drawn: Drawn, y: Tensor, seed: int, settings: MetricsSettings) -> Scores:
    """Distances between samples and as many exact ones.

    sliced_w: sliced W_1, and its floor, exact against exact; c2st over the first ``c2st_observations`` only (it trains
    five networks for each), left out for no ``c2st_samples``; mmd, mean_error, cov_error, and mode_tv for mixtures.
    """
    rows: list[dict[str, float]] = []
    for i, one in enumerate(y):
        law = problem.posterior(one)
        x, w = drawn.x[i].flatten(1), None if drawn.log_weights is None else drawn.log_weights[i]
        first, second = (law.sample(len(x), seeded(seed, Stream.COMPARISON_EXACT, i, j)).flatten(1) for j in (1, 2))
        row = {
            "sliced_w": sliced_wasserstein(x, first, seeded(seed, Stream.COMPARISON_SLICES), p=1, log_weights_a=w),
            "sliced_w_floor": sliced_wasserstein(second, first, seeded(seed, Stream.COMPARISON_SLICES), p=1),
            "mmd": mmd(evenly(drawn, i).flatten(1)[:_MMD], first[:_MMD]),
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
    x = evenly(drawn, i).flatten(1)
    n = min(n, len(x))
    return c2st(exact[:n], x[torch.randperm(len(x), generator=seeded(seed, Stream.COMPARISON_EXACT, i, 4))[:n]])
