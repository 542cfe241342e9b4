"""The jobs of a sweep over L × T: accuracy, training time and network calls of each cell, as tables and heat maps."""

import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from csb.evaluation.catalogue import METRICS, Metric
from csb.evaluation.plots import INK, MUTED, RULE, SERIES, SMALL, TEXT, Tile, drawing, tiled, write_png

Combination = tuple[tuple[str, str], ...]  # the other swept settings and their values
UNSET = "not set"
SECONDS, CALLS = "seconds", "calls"
_CELL_WIDTH, _CELL_HEIGHT = 92, 44  # units
_NARROW, _AROUND = 210, 60  # units: the least width of a panel, which its title needs, and what surrounds its cells
_MOST = 40  # combinations in one picture
_COLORS = LinearSegmentedColormap.from_list("csb", ["#f2f6fa", SERIES[0]])
_DARK = 0.55  # of the scale; above it text is white
logger = logging.getLogger(__name__)


# The main score of a problem is the first of these that its results have: with an exact posterior the distance to it,
# for digits PSNR, for other pairs the energy score.
MAIN_SCORES = ("sliced_w", "psnr_mean_per_image", "energy_score")


@dataclass(frozen=True)
class Job:
    """One job of a sweep; without L, T and seed where it left neither settings nor a result behind."""

    name: str  # of its folder
    L: int | None = None
    T: int | None = None
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)  # its overrides, but for L, T and seed
    figures: dict[str, Any] = field(default_factory=dict)  # its ``result.json``; empty where there is none
    error: str | None = None  # why it has no figures


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


def main_score(jobs: Iterable[Job]) -> Metric | None:
    """The first of :data:`MAIN_SCORES` that a job has; None where no job has one."""
    found = {key for job in jobs for key in job.figures}
    return next((METRICS[key] for key in MAIN_SCORES if key in found), None)


def _combinations(jobs: Sequence[Job]) -> list[Combination]:
    """Of each job its settings besides L, T and seed that are not the same in all jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    varied = [key for key in keys if len({job.settings.get(key, UNSET) for job in jobs}) > 1]
    return [tuple((key, job.settings.get(key, UNSET)) for key in varied) for job in jobs]


def _order(value: str) -> tuple[int, float, str]:
    """To sort by: numbers by size, before words."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _stat(jobs: Sequence[Job], key: str) -> Stat | None:
    values = [float(job.figures[key]) for job in jobs if job.figures.get(key) is not None]
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def cells(jobs: Sequence[Job]) -> list[Cell]:
    """One cell for each combination, L and T, in this order; jobs that differ in the seed alone share one.

    Jobs of unknown L or T belong to no cell.
    """
    score = main_score(jobs)
    groups: dict[tuple[Combination, int, int], list[Job]] = {}
    for job, combination in zip(jobs, _combinations(jobs)):
        if job.L is not None and job.T is not None:
            groups.setdefault((combination, job.L, job.T), []).append(job)
    found = []
    for combination, L, T in sorted(groups, key=lambda key: ([_order(value) for _, value in key[0]], key[1:])):
        group = groups[combination, L, T]
        done = [job for job in group if job.error is None]
        wanted = [*([score.key] if score else []), SECONDS, CALLS]
        stats = {key: stat for key in wanted if (stat := _stat(done, key)) is not None}
        found.append(Cell(combination, L, T, stats, len(done), len(group) - len(done)))
    return found


def is_swept(found: Sequence[Cell]) -> bool:
    """Whether L or T takes several values."""
    return len({cell.L for cell in found}) > 1 or len({cell.T for cell in found}) > 1


def cell_rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """The table over L × T: other settings, L, T, main score, training seconds and network calls a sample.

    Where a cell has several jobs or a failed one: also standard deviations, and how many jobs finished and failed.
    """
    repeated = {key for cell in found for key, stat in cell.stats.items() if stat.sd is not None} - {CALLS}
    several = bool(repeated) or any(cell.failed for cell in found)
    rows = []
    for cell in found:
        row: dict[str, Any] = {**dict(cell.combination), "L": cell.L, "T": cell.T}
        for key in dict.fromkeys(key for one in found for key in one.stats):
            mean, sd = cell.stats.get(key, (None, None))
            row[key] = int(mean) if mean is not None and key == CALLS and mean.is_integer() else mean
            if key in repeated:
                row[f"{key}_sd"] = sd
        rows.append(row | ({"finished": cell.finished, "failed": cell.failed} if several else {}))
    return rows


def job_rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One row a job, by settings, L, T and seed: its figures, or its error."""

    def place(of: tuple[Job, Combination]) -> tuple[Any, ...]:
        job, combination = of
        return [_order(value) for _, value in combination], job.L or 0, job.T or 0, job.seed or 0, job.name

    seeds = len({job.seed for job in jobs}) > 1
    rows = []
    for job, combination in sorted(zip(jobs, _combinations(jobs)), key=place):
        row: dict[str, Any] = {"job": job.name, **dict(combination), "L": job.L, "T": job.T}
        row |= {"seed": job.seed} if seeds else {}
        row |= {key: value for key, value in job.figures.items() if key not in row}
        rows.append(row | ({} if job.error is None else {"error": job.error}))
    return rows


def quantities(score: Metric | None) -> list[Metric]:
    """What heat maps show: accuracy, training time and network calls."""
    accuracy = Metric("", "accuracy", direction="higher")  # where every job failed
    if score is not None:
        accuracy = replace(score, label=f"{score.label} ({score.sense})")
    time = Metric(SECONDS, "training time, s", direction="lower")
    return [accuracy, time, Metric(CALLS, "network calls a sample", direction="lower")]


def cell_text(stat: Stat, of: Metric) -> str:
    """The mean to three digits, whole numbers whole, and ± its standard deviation to two below it."""
    mean = float(stat.mean)
    text = f"{mean:.0f}" if (of.key == CALLS and mean.is_integer()) or abs(mean) >= 1000 else f"{mean:#.3g}"
    text = text.rstrip(".")
    return text if stat.sd is None or (of.key == CALLS and stat.sd == 0) else f"{text}\n± {stat.sd:.2g}"


def _means(found: Sequence[Cell], of: Metric) -> list[float]:
    """From the worst to the best."""
    return sorted((cell.stats[of.key].mean for cell in found if of.key in cell.stats), reverse=of.direction == "lower")


def _draw_map(axes: Axes, own: Sequence[Cell], found: Sequence[Cell], of: Metric) -> None:
    """Coloured squares with the values of one combination, T to the right, L upwards, darker for the better of all.

    Hatched, with the word, where all jobs failed.
    """
    Ls, Ts = sorted({cell.L for cell in found}), sorted({cell.T for cell in found})
    axes.set(xlim=(-0.5, len(Ts) - 0.5), ylim=(-0.5, len(Ls) - 0.5))
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(Ts)), [f"T={T}" for T in Ts])
    axes.set_yticks(range(len(Ls)), [f"L={L}" for L in Ls])
    axes.tick_params(length=0)
    every, best = _means(found, of), _means(own, of)[-1:]
    for cell in own:
        x, y = Ts.index(cell.T), Ls.index(cell.L)
        draw = partial(Rectangle, (x - 0.5, y - 0.5), 1, 1)
        write = partial(axes.text, x, y, ha="center", va="center")
        if (stat := cell.stats.get(of.key)) is None:
            hatch, word = ("////", "failed") if cell.failed else (None, "–")
            axes.add_patch(draw(facecolor="white", edgecolor=RULE, hatch=hatch, linewidth=0))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
            write(word, fontsize=TEXT - 1, color=MUTED, bbox=box)
            continue
        shade = (stat.mean - every[0]) / (every[-1] - every[0]) if every[0] != every[-1] else 0.5
        axes.add_patch(draw(facecolor=_COLORS(shade), edgecolor="white", linewidth=1))
        text = cell_text(stat, of) + (f"\n{cell.failed} failed" if cell.failed else "")
        size, color = TEXT - (3 if text.count("\n") > 1 else 1), "white" if shade > _DARK else INK
        weight = "bold" if [stat.mean] == best and of.key not in (SECONDS, CALLS) else "normal"
        write(text, color=color, linespacing=1.05, fontsize=size, weight=weight)


@drawing()
def sweep_figure(found: Sequence[Cell], score: Metric | None) -> Figure | None:
    """One row of three heat maps over L × T for each combination of other settings; None where L, T are not swept.

    Colours are alike in all rows, darker being better; the best score of a row is bold. Cells with several seeds show
    mean ± standard deviation; cells whose jobs all failed are hatched; cells without a job stay empty.
    """
    if not is_swept(found):
        return None
    combinations = list(dict.fromkeys(cell.combination for cell in found))
    if len(combinations) > _MOST:
        logger.warning("the heat map shows the first %d of %d combinations of settings", _MOST, len(combinations))
    drawn = []
    for combination in combinations[:_MOST]:
        own = [cell for cell in found if cell.combination == combination]
        name = ", ".join(f"{key}={value}" for key, value in combination)
        for i, of in enumerate(quantities(score)):
            label = f"{name}\n{of.label}" if name and not i else of.label
            drawn.append(Tile(label, partial(_draw_map, own=own, found=found, of=of)))
    wide, tall = len({cell.T for cell in found}), len({cell.L for cell in found})
    figure = tiled(drawn, (max(_NARROW, _CELL_WIDTH * wide) + _AROUND, _CELL_HEIGHT * tall + _AROUND), across=3)
    note = "Darker is better; bold: the best."
    if any(stat.sd is not None for cell in found for stat in cell.stats.values()):
        note += " ±: standard deviation over seeds."
    figure.supxlabel(note, x=0.01, ha="left", fontsize=SMALL, color=MUTED)
    return figure


def draw_sweep(path: Path, found: Sequence[Cell], score: Metric | None) -> bool:
    """Write the figure as PNG, atomically; False, and no file, where L and T are not swept."""
    return write_png(path, sweep_figure(found, score))
