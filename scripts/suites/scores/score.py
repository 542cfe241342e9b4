"""Scores of one sampler against the exact posterior on the frozen test observations of one problem.

Every observation is scored by itself and kept in a store, so that a scoring that was stopped goes on where it was, and
one that asks for more observations scores the new ones only.
"""

import statistics
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from csb.errors import LARGEST, CSBError
from csb.evaluation.results import Results
from csb.metrics.distances import c2st, moment_errors, sample_moments, sliced_wasserstein
from csb.metrics.inputs import systematic
from csb.problems import Posterior, Problem
from csb.process import Stream, seeded
from csb.samplers import Sampler
from csb.schema import Count, Schema, Whole
from suites.scores.published import REFERENCE_Y

PER = 10_000  # samples that sampling times are given for
MEANS = ("c2st", "sliced_w", "mean_error", "cov_error", "skew_error", "kurtosis_error")


class ScoreSettings(Schema):
    """How much a score takes."""

    group = "suite.score"

    observations: Count = Field(default=10, description="test observations")
    samples: int = Field(default=10_000, ge=100, le=LARGEST, description="samples of each, with as many exact ones")
    c2st_observations: Whole = 10
    """The first of the observations, that C2ST is computed on; 0 leaves it out."""
    c2st_samples: int = Field(default=10_000, ge=10, le=LARGEST, description="samples of each law for C2ST")
    projections: Count = Field(default=128, description="of the sliced Wasserstein distance")
    moment_samples: Annotated[int, Field(ge=100, le=LARGEST)] = 100_000
    """At the observation whose moments are published, where the problem has one."""
    seed: Whole = Field(default=0, description="of everything that is drawn")

    @model_validator(mode="after")
    def _parts(self) -> Self:
        for part, whole in (("c2st_observations", "observations"), ("c2st_samples", "samples")):
            if getattr(self, part) > getattr(self, whole):
                found = f"suite.score.{part}={getattr(self, part)} exceeds {whole}={getattr(self, whole)}"
                raise CSBError(f"{found}; lower it, or raise suite.score.{whole}")
        return self

    def of_observation(self, i: int) -> dict[str, Any]:
        """What the scores of observation i depend on."""
        count = self.c2st_samples if i < self.c2st_observations else 0
        numbers = {"samples": self.samples, "projections": self.projections, "seed": self.seed}
        return {"observation": i, **numbers, "c2st_samples": count}


class Scores(NamedTuple):
    """The scores of one sampler, kept under what its samples depend on, e.g. the checksum of a bridge's file."""

    store: Results
    sampler: dict[str, Any]

    def load(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The scores under these settings (plain data), or None."""
        return self.store.load({"sampler": self.sampler, "settings": settings})

    def save(self, settings: dict[str, Any], scores: dict[str, Any]) -> None:
        """Keeps scores on disk."""
        self.store.save({"sampler": self.sampler, "settings": settings}, scores)


def scores_of(sampler: Sampler, problem: Problem, settings: ScoreSettings, store: Scores) -> dict[str, Any]:
    """All scores of a sampler as plain data.

    For each of c2st, sliced_w (sliced W_1), mean_error, cov_error, skew_error and kurtosis_error (see
    :func:`csb.metrics.distances.moment_errors`): the mean over observations, ``…_each`` with the value of each, and
    ``…_se``, its standard error, for two or more. calls, backward_calls: network passes a sample; seconds: for 10,000
    samples, the median over observations; moments: found and exact ones at the published observation, if any.

    Args:
        sampler: of the problem, which must have an exact posterior.
        store: where scores are kept and looked for.
    """
    units = []
    for i, y in enumerate(problem.pairs("test", settings.observations).y):
        if (unit := store.load(key := settings.of_observation(i))) is None:
            store.save(key, unit := _compare(sampler, problem.posterior(y), y, i, settings))
        units.append(unit)
    return _summary(units) | _reference(sampler, problem, settings, store)


def _compare(sampler: Sampler, law: Posterior, y: Tensor, i: int, settings: ScoreSettings) -> dict[str, Any]:
    """The scores of observation i."""
    n, seed = settings.samples, settings.seed
    found = sampler.sample(y, n, seeded(seed, Stream.SUITE_DRAW, i, device=sampler.device))
    x, w = found.x.cpu().flatten(1), None if found.log_weights is None else found.log_weights.cpu()
    exact = law.sample(n, seeded(seed, Stream.SUITE_EXACT, i)).flatten(1)
    known = law.mean is not None and law.cov is not None
    errors = moment_errors(x, law.moments if known else sample_moments(exact), w)
    unit = {
        "sliced_w": sliced_wasserstein(
            x, exact, seeded(seed, Stream.SUITE_SLICES, i), settings.projections, p=1, log_weights_a=w
        ),
        "mean_error": errors.mean_scaled,
        "cov_error": errors.cov_relative,
        "skew_error": errors.skew,
        "kurtosis_error": errors.kurtosis,
        "calls": found.info.forward_evaluations,
        "backward_calls": found.info.backward_evaluations,
        "seconds": found.info.seconds * PER / n,
    }  # fmt: skip
    if m := settings.of_observation(i)["c2st_samples"]:
        unit["c2st"] = c2st(exact[:m], (x if w is None else _evenly(x, w, seed, i))[:m])
    return unit


def _evenly(x: Tensor, log_weights: Tensor, seed: int, i: int) -> Tensor:
    """As many points of equal weight, in random order, so that any first few stand for the law."""
    order = torch.randperm(len(x), generator=seeded(seed, Stream.SUITE_DRAW, i, 1))
    return x[systematic(log_weights.double().exp(), len(x), 0.5)][order]


def _summary(units: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over observations; see :func:`scores_of`."""
    row: dict[str, Any] = {key: units[0][key] for key in ("calls", "backward_calls")}
    row["seconds"] = statistics.median(unit["seconds"] for unit in units)
    for key in MEANS:
        values = [unit[key] for unit in units if unit.get(key) is not None]
        if values:
            row |= {key: statistics.mean(values), f"{key}_each": values}
        if len(values) > 1:
            row[f"{key}_se"] = statistics.stdev(values) / len(values) ** 0.5
    return row


def _reference(sampler: Sampler, problem: Problem, settings: ScoreSettings, store: Scores) -> dict[str, Any]:
    """{"moments": …} at the observation of REFERENCE_Y: mean, var, skew and kurtosis of each coordinate; or {}."""
    if problem.name not in REFERENCE_Y:
        return {}
    y = torch.tensor(REFERENCE_Y[problem.name], dtype=torch.float32)
    key = {"y": list(REFERENCE_Y[problem.name]), "samples": settings.moment_samples, "seed": settings.seed}
    moments = store.load(key)
    if moments is None:
        drawn = sampler.sample(
            y, settings.moment_samples, seeded(settings.seed, Stream.SUITE_REFERENCE, device=sampler.device)
        )
        weights = None if drawn.log_weights is None else drawn.log_weights.cpu()
        found = sample_moments(drawn.x.cpu().flatten(1), weights)
        moments = {"found": _by_coordinate(found), "exact": _by_coordinate(problem.posterior(y).moments)}
        store.save(key, moments)
    return {"moments": moments}


def _by_coordinate(moments: dict[str, Tensor]) -> dict[str, list[float]]:
    values = {"mean": moments["mean"], "var": moments["cov"].diagonal()}
    return {key: v.tolist() for key, v in (values | {k: moments[k] for k in ("skew", "kurtosis")}).items()}
