"""Accuracy against cost and calibration curves: charts, each described in words for who cannot see it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csb.evaluation import plots
from csb.evaluation.catalogue import Metric, accuracy_metrics, show
from csb.evaluation.plots import Line, Look, Tile
from csb.evaluation.rows import Report, Row

COSTS = {"evaluations": "network evaluations a sample", "seconds": "seconds a call"}
TILE = 172  # units: two side by side on a phone


class Chart(NamedTuple):
    """One figure of the page."""

    key: str  # for ids and file names
    title: str
    caption: str
    alt: str  # words in place of it
    panels: Sequence[Tile]  # one or more of one size
    height: float  # of a panel, in units
    legend: Sequence[Look] = ()
    tiled: bool = False  # whether the panels are narrow

    @plots.drawing()
    def figure(self) -> Figure:
        return plots.tiled(self.panels, (TILE if self.tiled else plots.NARROW, self.height), legend=self.legend)


def looks(methods: Sequence[Row]) -> dict[str, Look]:
    """A look for each method's name: a family shares its colour; references are dark, with a cross and fine dashes."""
    compared = [m for m in methods if not m.reference]
    families = list(dict.fromkeys(m.family or m.name for m in compared))
    found = {m.name: Look(m.label, plots.EXACT, "x", plots.DOTTED) for m in methods}
    for i, m in enumerate(compared):
        found[m.name] = plots.look(m.label, i, plots.SERIES[families.index(m.family or m.name) % len(plots.SERIES)])
    return found


def axis_label(of: Metric) -> str:
    """E.g. "PSNR of mean, dB (higher is better)"."""
    return f"{of.label}{f', {of.unit}' if of.unit else ''} ({of.sense})"


def reference_lines(methods: Sequence[Row], of: Metric) -> list[tuple[float, Look]]:
    """The reference methods' values; without one, the mean floor where the metric has it, or the best value."""
    found = [
        (value, Look(m.label, plots.EXACT, dash=plots.DOTTED))
        for m in methods
        if m.reference and (value := m.value(of.key)) is not None
    ]
    floors = [v for m in methods if (v := m.value(f"{of.key}_floor")) is not None]
    if floors and not found:
        found.append((float(np.mean(floors)), Look("floor: exact against exact", plots.EXACT, dash=(0, (1, 2)))))
    if of.direction == "target" and not found:
        found.append((of.target, Look(f"best value, {of.target:g}", plots.EXACT, dash=(0, (6, 3)))))
    return found


def _tick(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,g}"


def _points(report: Report, key: str, cost: str) -> list[tuple[Row, float, float]]:
    found = [(m, getattr(m, cost), m.value(key)) for m in report.compared]
    return [(m, c, v) for m, c, v in found if c and v is not None]


def _accuracy_panel(report: Report, of: Metric, cost: str) -> Tile:
    """A point a method over a logarithmic cost; those of a family are joined."""
    look_of, points = looks(report.methods), _points(report, of.key, cost)
    lines = []
    for family in dict.fromkeys(m.family for m, _, _ in points if m.family):
        own = sorted((c, v, m.name) for m, c, v in points if m.family == family)
        color = look_of[own[0][2]].color
        lines.append(Line(Look("", color, dash="-"), [c for c, *_ in own], [v for _, v, _ in own]))
    for m, c, v in points:
        error = m.error(of.key)
        lines.append(Line(look_of[m.name]._replace(dash="none"), [c], [v], None if error is None else [error]))
    levels = reference_lines(report.methods, of)
    panel = plots.Panel("", COSTS[cost], "", lines, levels, "linear")
    return Tile(axis_label(of), partial(plots.draw_panel, panel=panel, legend=False))


def accuracy_charts(report: Report) -> list[Chart]:
    """For up to two metrics: against network evaluations, and against seconds where they were measured.

    None of a single method, which there is nothing to compare with.
    """
    charts, look_of = [], looks(report.methods)
    if len(report.compared) < 2:
        return []
    for of in accuracy_metrics(report):
        for cost, words in COSTS.items():
            points = _points(report, of.key, cost)
            if not points:
                continue
            lines = [line for _, line in reference_lines(report.methods, of)]
            legend = [*(look_of[m.name]._replace(dash="none") for m, _, _ in points), *lines]
            values = "; ".join(f"{m.label}: {show(v)} {of.unit}".rstrip() + f" at {_tick(c)}" for m, c, v in points)
            charts.append(
                Chart(
                    f"{of.key}-{cost}", f"{of.label} against {words}",
                    f"{of.explanation} {of.sense.capitalize()}. The horizontal axis is logarithmic.",
                    f"{of.label} ({of.sense}) against {words}. {values}.",
                    [_accuracy_panel(report, of, cost)], 276, legend,
                )
            )  # fmt: skip
    return charts


def _with(report: Report, curve: str) -> list[tuple[Row, Look, Any]]:
    """The methods that have a curve, with their looks, and the curve."""
    look_of = looks(report.methods)
    return [(m, look_of[m.name], found) for m in report.methods if (found := getattr(m.curves, curve)) is not None]


def _level_chart(report: Report, kind: str, title: str, caption: str) -> list[Chart]:
    """Empirical coverage over nominal level; kind is "coverage" or "tarp"."""
    found = _with(report, kind)
    if not found:
        return []
    trials = min((c.trials for _, _, c in found if c.trials), default=None)

    def draw(axes: Axes) -> None:
        plots.coverage_axes(axes, trials)
        for i, (_, one, curve) in enumerate(found):
            every = max(1, len(curve.levels) // 5)
            marks = {"markersize": 5.5, "markevery": (i % every, every)}
            axes.plot(curve.levels, curve.coverage, linewidth=1.7, **one.line, **marks)
        axes.set_xlabel("nominal level")
        axes.grid()

    gaps = [f"{m.label}: {np.mean(np.array(c.coverage) - c.levels):+.3f}" for m, _, c in found]
    caption += " The grey band holds 95 % of the curves of a calibrated sampler, level by level." if trials else ""
    alt = f"{title}. Mean of coverage minus level; {'; '.join(gaps)}.".replace("-", "−")
    panels = [Tile("share of truths inside", draw)]
    return [Chart(kind, title, caption, alt, panels, 340, [one for _, one, _ in found])]


def _std_error_chart(report: Report) -> list[Chart]:
    """Root mean squared error over predicted standard deviation, a point a bin."""
    found = _with(report, "std_error")
    if not found:
        return []
    top = max(v for _, _, bins in found for v in (*bins.std, *bins.error)) or 1.0

    def draw(axes: Axes) -> None:
        for _, one, bins in found:
            axes.plot(bins.std, bins.error, linewidth=1.5, markersize=5.5, **one.line)
        axes.plot([0, top], [0, top], color=plots.INK, linewidth=1, linestyle=plots.DASHED)
        axes.set(xlim=(0, 1.04 * top), ylim=(0, 1.04 * top), xlabel="predicted standard deviation")
        axes.grid()

    title = "Standard deviation against error"
    ratios = [f"{m.label}: {sum(b.error) / (sum(b.std) or float('nan')):.2f}" for m, _, b in found]
    alt = f"{title}. Mean error over mean predicted standard deviation; {'; '.join(ratios)}."
    caption = (
        "Pixels are binned by the standard deviation of their samples. On the dashed diagonal the spread is as "
        "large as the error of the mean; above it samples are too sure."
    )
    panels = [Tile("error of the mean (RMS)", draw)]
    return [Chart("std-error", title, caption, alt, panels, 340, [one for _, one, _ in found])]


def _ranks_chart(report: Report) -> list[Chart]:
    found = [(m, one, curve.trials, np.array(curve.counts)) for m, one, curve in _with(report, "sbc")]
    most = max((float(counts.max() / counts.mean()) for *_, counts in found), default=0.0)
    panels, spans = [], []
    for m, one, trials, counts in found:
        draw = partial(plots.rank_bars, counts=counts, trials=trials or counts.sum(), color=one.color, most=most)
        low, high = counts.min() / counts.mean(), counts.max() / counts.mean()
        spans.append(f"{m.label}: {low:.2f} to {high:.2f}")
        panels.append(Tile(m.label, draw))
    title = "Ranks of the truth (simulation-based calibration)"
    caption = (
        "Where the truth ranks among the samples, from below all of them (0) to above all (1): counts over their "
        "expectation. Flat inside the grey band, which holds 95 % of chance: calibrated. A valley: samples too narrow; "
        "a hill: too wide; a slope: biased."
    )
    tiled = len(panels) > 1
    alt = f"{title}. Counts of the bins over the expected one; {'; '.join(spans)}."
    return [Chart("sbc", title, caption, alt, panels, 130 if tiled else 340, tiled=tiled)] if panels else []


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
