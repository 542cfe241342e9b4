"""Accuracy against cost, and calibration curves: each drawn on axes, and described in words for who cannot see it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.stats import binom

from csb.evaluation.report.catalogue import Metric, accuracy_metrics, show
from csb.evaluation.report.model import LevelCurve, Report, Row
from csb.evaluation.report.style import (
    BAND,
    EXACT,
    INK,
    WIDTH,
    Entry,
    Tile,
    add_legend,
    caption_axes,
    entries,
    legend_height,
    new_figure,
    place,
    styles,
    tiles,
)

COSTS = {"evaluations": "network evaluations a sample", "seconds": "seconds a call"}
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 28, 40  # margins around axes, in units
RANKS = 84  # units: height of a rank histogram
_SHARES = [0, 0.2, 0.4, 0.6, 0.8, 1]  # ticks


class Chart(NamedTuple):
    """One figure: a key for ids and file names, a title, a caption, words in place of it, and what draws it."""

    key: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    panel: Callable[[Axes], None] | None = None  # the same on given axes, where it is one panel
    legend: tuple[Entry, ...] = ()
    tiles: tuple[Tile, ...] = ()  # a page shows these in place of the whole, as many side by side as fit


def _tick(value: float, _position: int = 0) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,g}"


def _cost(method: Row, cost: str) -> float | None:
    return method.evaluations if cost == "evaluations" else method.seconds


def _points(report: Report, key: str, cost: str) -> list[tuple[Row, float, float]]:
    found = [(m, _cost(m, cost), m.value(key)) for m in report.methods if not m.reference]
    return [(m, c, v) for m, c, v in found if c is not None and v is not None]


def _single(draw: Callable[[Axes], None], legend: Sequence[Entry], height: float) -> Figure:
    """One panel with its legend below."""
    low = _BOTTOM + legend_height(legend)
    figure = new_figure(_TOP + height + low)
    draw(place(figure, _LEFT, low, WIDTH - _LEFT - _RIGHT, height))
    add_legend(figure, legend)
    return figure


def draw_accuracy(axes: Axes, report: Report, of: Metric, cost: str) -> None:
    """A point a method over a logarithmic cost; methods without network calls stand left of a rule, at 0."""
    look, points = styles(report), _points(report, of.key, cost)
    costs = [c for _, c, _ in points if c > 0]
    low, high = (min(costs), max(costs)) if costs else (1.0, 1.0)
    zero = low / max(3.0, (high / low) ** 0.2)
    axes.set_xscale("log")
    for family in dict.fromkeys(m.family for m, _, _ in points if m.family):
        line = sorted((max(c, zero), v) for m, c, v in points if m.family == family)
        color = next(look[m.name].color for m, _, _ in points if m.family == family)
        axes.plot(*zip(*line), color=color, linewidth=1, alpha=0.55)
    for m, c, v in points:
        error = m.standard_errors.get(of.key)
        style = look[m.name]
        axes.errorbar(max(c, zero), v, error or None, color=style.color, marker=style.marker, markersize=8,
                      capsize=3, elinewidth=1.2, linestyle="none", zorder=3)  # fmt: skip
    left = zero if any(c == 0 for _, c, _ in points) else low
    axes.set_xlim(left / 1.6, high * 1.6)
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if left == zero:
        ticks = [t for t in axes.get_xticks() if low / 1.01 <= t <= high * 1.6]
        axes.set_xticks([zero, *ticks], ["0", *map(_tick, ticks)])
        axes.minorticks_off()
        axes.axvline((zero * low) ** 0.5, color=BAND, linewidth=0.8, linestyle=(0, (1, 2)))
    elif high / low < 20:
        ticks = sorted({c for _, c, _ in points})
        axes.set_xticks(ticks, [_tick(float(f"{t:.3g}")) for t in ticks])
        axes.minorticks_off()
    axes.margins(y=0.15)
    for value, line in _reference_lines(report, of):
        axes.axhline(value, color=line.color, linewidth=1.2, linestyle=line.dash, zorder=1)  # pyright: ignore
    unit = f", {of.unit}" if of.unit else ""
    caption_axes(axes, COSTS[cost], f"{of.label}{unit} ({of.sense})")


def _reference_lines(report: Report, of: Metric) -> list[tuple[float, Entry]]:
    """The reference methods' values; without one, the mean floor where the metric has it, or the best value."""
    look = styles(report)
    found = [(v, Entry(m.label, EXACT, dash=look[m.name].dash)) for m in report.methods
             if m.reference and (v := m.value(of.key)) is not None]  # fmt: skip
    floors = [v for m in report.methods if (v := m.value(f"{of.key}_floor")) is not None]
    if floors and not found:
        found.append((float(np.mean(floors)), Entry("floor: exact against exact", EXACT, dash=(0, (1, 2)))))
    if of.direction == "target" and not found:
        found.append((of.target, Entry(f"best value, {of.target:g}", EXACT, dash=(0, (6, 3)))))
    return found


def accuracy_charts(report: Report) -> list[Chart]:
    """For up to two metrics: against network evaluations, and against seconds where they were measured."""
    charts = []
    for of in accuracy_metrics(report):
        for cost, words in COSTS.items():
            points = _points(report, of.key, cost)
            if not points or not any(c > 0 for _, c, _ in points):
                continue

            def panel(axes: Axes, of: Metric = of, cost: str = cost) -> None:
                draw_accuracy(axes, report, of, cost)

            lines = [line for _, line in _reference_lines(report, of)]
            legend = (*entries(report, [m.name for m, _, _ in points], False), *lines)
            values = "; ".join(f"{m.label}: {show(v)} {of.unit}".rstrip() + f" at {_tick(c)}" for m, c, v in points)
            charts.append(
                Chart(
                    f"{of.key}-{cost}", f"{of.label} against {words}",
                    f"{of.explanation} {of.sense.capitalize()}. The horizontal axis is logarithmic.",
                    f"{of.label} ({of.sense}) against {words}. {values}.",
                    lambda panel=panel, legend=legend: _single(panel, legend, 200), panel, legend,
                )
            )  # fmt: skip
    return charts


def _with(report: Report, curve: str) -> list[tuple[Row, Any]]:
    """The methods that have a curve, and the curve."""
    return [(m, found) for m in report.methods if (found := getattr(m.curves, curve)) is not None]


def draw_levels(axes: Axes, report: Report, kind: str) -> None:
    """Empirical coverage over nominal level; kind is "coverage" or "tarp". The band holds 95 % of chance."""
    curves = _with(report, kind)
    trials = [c.trials for _, c in curves if c.trials is not None]
    if trials:
        p = np.linspace(0, 1, 101)
        low, high = binom.ppf(0.025, min(trials), p) / min(trials), binom.ppf(0.975, min(trials), p) / min(trials)
        axes.fill_between(p, low, high, color=BAND, alpha=0.25, linewidth=0)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    look = styles(report)
    for i, (m, curve) in enumerate(curves):
        style = look[m.name]
        every = max(1, len(curve.levels) // 5)
        axes.plot(curve.levels, curve.coverage, color=style.color, linestyle=style.dash, linewidth=1.7,
                  marker=style.marker, markersize=5.5, markevery=(i % every, every))  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=_SHARES, yticks=_SHARES, xticklabels=_SHARES, yticklabels=_SHARES)
    caption_axes(axes, "nominal level", "share of truths inside")


def _gap(curve: LevelCurve) -> float:
    return float(np.mean(np.array(curve.coverage) - curve.levels))


def _level_chart(report: Report, kind: str, title: str, caption: str) -> list[Chart]:
    curves = _with(report, kind)
    if not curves:
        return []

    def panel(axes: Axes) -> None:
        draw_levels(axes, report, kind)

    legend = tuple(entries(report, [m.name for m, _ in curves]))
    gaps = "; ".join(f"{m.label}: {_gap(c):+.3f}" for m, c in curves).replace("-", "−")
    if any(c.trials for _, c in curves):
        caption += " The grey band holds 95 % of the curves of a calibrated sampler, level by level."
    alt = f"{title}. Mean of coverage minus level; {gaps}."
    return [Chart(kind, title, caption, alt, lambda: _single(panel, legend, 270), panel, legend)]


def draw_std_error(axes: Axes, report: Report) -> None:
    """Root mean squared error over predicted standard deviation, a point a bin."""
    look, top = styles(report), 0.0
    for m, bins in _with(report, "std_error"):
        style = look[m.name]
        axes.plot(bins.std, bins.error, color=style.color, linestyle=style.dash, linewidth=1.5, marker=style.marker,
                  markersize=5.5)  # fmt: skip
        top = max(top, *bins.std, *bins.error)
    top = top or 1.0
    axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1.04 * top), ylim=(0, 1.04 * top))
    axes.locator_params(nbins=5)
    caption_axes(axes, "predicted standard deviation", "error of the mean (RMS)")


def _std_error_chart(report: Report) -> list[Chart]:
    found = _with(report, "std_error")
    if not found:
        return []

    def panel(axes: Axes) -> None:
        draw_std_error(axes, report)

    legend, title = tuple(entries(report, [m.name for m, _ in found])), "Standard deviation against error"
    ratios = [f"{m.label}: {sum(b.error) / (sum(b.std) or float('nan')):.2f}" for m, b in found]
    alt = f"{title}. Mean error over mean predicted standard deviation; {'; '.join(ratios)}"
    caption = (
        "Pixels are binned by the standard deviation of their samples. On the dashed diagonal the spread is as "
        "large as the error of the mean; above it samples are too sure."
    )
    return [Chart("std-error", title, caption, f"{alt}.", lambda: _single(panel, legend, 270), panel, legend)]


def draw_ranks(axes: Axes, report: Report, method: Row) -> None:
    """Counts of the truth's rank over their expectation; the band holds 95 % of chance."""
    histogram = method.curves.sbc
    assert histogram is not None  # callers choose methods that have one
    counts, total = np.array(histogram.counts), sum(histogram.counts)
    bins = len(counts)
    trials = histogram.trials or max(1, round(total))
    low, high = (float(binom.ppf(q, trials, 1 / bins)) * bins / trials for q in (0.025, 0.975))
    axes.axhspan(low, high, color=BAND, alpha=0.25, linewidth=0)
    axes.stairs(counts * bins / total, np.linspace(0, 1, bins + 1), fill=True, alpha=0.75,
                color=styles(report)[method.name].color)  # fmt: skip
    axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "½", "1"])


def _ranks_chart(report: Report) -> list[Chart]:
    found = _with(report, "sbc")
    if not found:
        return []
    title = "Ranks of the truth (simulation-based calibration)"
    caption = (
        "Where the truth ranks among the samples, from below all of them (0) to above all (1): counts over their "
        "expectation. Flat inside the grey band, which holds 95 % of chance: calibrated. A valley: samples too narrow; "
        "a hill: too wide; a slope: biased."
    )
    top = max(1.6, *(1.1 * max(h.counts) * len(h.counts) / sum(h.counts) for _, h in found))
    panels = []
    for m, h in found:

        def draw(axes: Axes, m: Row = m) -> None:
            draw_ranks(axes, report, m)
            axes.set_ylim(0, top)

        lowest, highest = (f(h.counts) * len(h.counts) / sum(h.counts) for f in (min, max))
        alt = f"Ranks of the truth, {m.label}: bins between {lowest:.2f} and {highest:.2f} of the expected count."
        panels.append(Tile(m.label, alt, draw))
    return [Chart("sbc", title, caption, title, lambda: tiles(panels, RANKS, 4), tiles=tuple(panels))]


def calibration_charts(report: Report) -> list[Chart]:
    """Those that some method has curves for."""
    coverage = (
        "How often credible regions hold the truth. On the dashed diagonal: calibrated; below it samples are too sure, "
        "above it too wide."
    )
    tarp = (
        "Regions around random reference points (TARP) test the joint law, not one coordinate at a time. The diagonal "
        "is right; an S shape shows samples too narrow or too wide, a curve on one side of it a bias."
    )
    return [
        *_level_chart(report, "coverage", "Coverage of credible regions", coverage),
        *_level_chart(report, "tarp", "Joint coverage (TARP)", tarp),
        *_std_error_chart(report),
        *_ranks_chart(report),
    ]
