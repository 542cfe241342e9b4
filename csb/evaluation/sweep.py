"""The jobs of a sweep over L × T: accuracy, training time and network calls of each cell."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Combination = tuple[tuple[str, str], ...]  # the other swept settings and their values
UNSET = "not set"


class Score(NamedTuple):
    """A held-out score: its key in ``result.json``, what it is, and whether higher values are better."""

    key: str
    label: str
    higher: bool

    @property
    def direction(self) -> str:
        return f"{'higher' if self.higher else 'lower'} is better"


# The main score of a problem is the first of these that its results have: with an exact posterior the distance to it,
# for digits PSNR, for other pairs the energy score.
MAIN_SCORES = (
    Score("sliced_w", "sliced Wasserstein distance to the exact posterior", False),
    Score("psnr_mean_per_image", "PSNR of the posterior mean, dB", True),
    Score("energy_score", "energy score, in units of the prior's standard deviation", False),
)
SECONDS, CALLS = "seconds", "calls"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: of its folder.
        L, T: None where the job left neither settings nor a result behind.
        seed: likewise.
        settings: its overrides, but for L, T and seed.
        figures: its ``result.json``; empty where there is none.
        error: why it has no figures.
    """

    name: str
    L: int | None = None
    T: int | None = None
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class Stat(NamedTuple):
    """A mean over jobs, and their standard deviation (n − 1) where there are several."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Cell:
    """The jobs of one L, T and combination of other settings: statistics over those (seeds) that finished."""

    combination: Combination
    L: int
    T: int
    stats: dict[str, Stat]
    finished: int
    failed: int


def main_score(jobs: Iterable[Job]) -> Score | None:
    """The first of :data:`MAIN_SCORES` that a job has; None where no job has one."""
    found = {key for job in jobs for key in job.figures}
    return next((score for score in MAIN_SCORES if score.key in found), None)


def varied(jobs: Sequence[Job]) -> list[str]:
    """The settings besides L, T and seed that are not the same in all jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key, UNSET) for job in jobs}) > 1]


def _stat(jobs: Sequence[Job], key: str) -> Stat | None:
    values = [float(job.figures[key]) for job in jobs if job.figures.get(key) is not None]
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _order(value: str) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def cells(jobs: Sequence[Job]) -> list[Cell]:
    """One cell for each combination, L and T, in this order; jobs that differ in the seed alone share one.

    Jobs of unknown L or T belong to no cell.
    """
    keys, score = varied(jobs), main_score(jobs)
    wanted = [*([score.key] if score else []), SECONDS, CALLS]
    groups: dict[tuple[Combination, int, int], list[Job]] = {}
    for job in jobs:
        if job.L is not None and job.T is not None:
            combination = tuple((key, job.settings.get(key, UNSET)) for key in keys)
            groups.setdefault((combination, job.L, job.T), []).append(job)

    def place(item: tuple[tuple[Combination, int, int], list[Job]]) -> tuple[Any, ...]:
        combination, L, T = item[0]
        return [_order(value) for _, value in combination], L, T

    found = []
    for (combination, L, T), group in sorted(groups.items(), key=place):
        done = [job for job in group if job.error is None]
        stats = {key: stat for key in wanted if (stat := _stat(done, key)) is not None}
        found.append(Cell(combination, L, T, stats, len(done), len(group) - len(done)))
    return found


def is_swept(found: Sequence[Cell]) -> bool:
    """Whether L or T takes several values."""
    return len({cell.L for cell in found}) > 1 or len({cell.T for cell in found}) > 1


def cell_rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The table over L × T: other settings, L, T, main score, training seconds and network calls a sample.

    Standard deviations stand in columns of their own, and the numbers of jobs that finished and failed in two more,
    where a cell has several jobs or a failed one.
    """
    repeated = {key for cell in found for key, stat in cell.stats.items() if stat.sd is not None} - {CALLS}
    several = bool(repeated) or any(cell.failed for cell in found)
    keys = list(dict.fromkeys(key for cell in found for key in cell.stats))
    rows = []
    for cell in found:
        row: dict[str, Any] = {**dict(cell.combination), "L": cell.L, "T": cell.T}
        for key in keys:
            stat = cell.stats.get(key)
            mean = None if stat is None else stat.mean
            row[key] = int(mean) if mean is not None and key == CALLS and mean.is_integer() else mean
            if key in repeated:
                row[f"{key}_sd"] = None if stat is None else stat.sd
        rows.append(row | ({"finished": cell.finished, "failed": cell.failed} if several else {}))
    return rows


def job_rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One row a job, by settings, L, T and seed: its figures, or its error."""
    keys = varied(jobs)

    def place(job: Job) -> tuple[Any, ...]:
        return [_order(job.settings.get(key, UNSET)) for key in keys], job.L or 0, job.T or 0, job.seed or 0, job.name

    seeds = len({job.seed for job in jobs}) > 1
    rows = []
    for job in sorted(jobs, key=place):
        row: dict[str, Any] = {"job": job.name, **{key: job.settings.get(key, UNSET) for key in keys}}
        row |= {"L": job.L, "T": job.T} | ({"seed": job.seed} if seeds else {})
        row |= {key: value for key, value in job.figures.items() if key not in row}
        rows.append(row | ({} if job.error is None else {"error": job.error}))
    return rows
