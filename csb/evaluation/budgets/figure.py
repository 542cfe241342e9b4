"""The picture of a comparison at equal cost: accuracy against passes and against seconds, a line or point a method."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from csb.evaluation.budgets.rows import KEYS, Row
from csb.evaluation.report import Metric, metric
from csb.evaluation.report.style import (
    DASHES,
    EXACT,
    INK,
    MARKERS,
    SERIES,
    TEXT,
    Entry,
    add_legend,
    caption_axes,
    legend_height,
    new_figure,
    place,
    write_png,
)

_PANEL, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 300, 52, 16, 48, 44  # units
_WIDE = 30  # ratio of the ends from which a tick a decade is enough
_COSTS = {"passes": "network passes a sample", "seconds": "seconds a sample"}


def _looks(rows: Sequence[Row]) -> dict[str, Entry]:
    """One look a method, by its id."""
    looks: dict[str, Entry] = {}
    for row in rows:
        if not row.reference and row.method not in looks:
            i = len(looks)
            color, marker, dash = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]
            looks[row.method] = Entry(row.label, color, marker, dash)
    return looks


def _reference(rows: Sequence[Row], key: str) -> tuple[float, Entry] | None:
    """The exact posterior's value, else the floor of the distance where it has one."""
    for row in rows:
        if row.reference and (value := row.metrics.get(key)) is not None:
            return value, Entry(row.label, EXACT, "", (0, (2, 2)))
    floors = [value for row in rows if (value := row.metrics.get(f"{key}_floor")) is not None]
    return (float(np.mean(floors)), Entry("floor: exact against exact", EXACT, "", (0, (2, 2)))) if floors else None


def _panel(axes: Axes, rows: Sequence[Row], of: Metric, cost: str, looks: dict[str, Entry]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log" if min(row.metrics[of.key] or 0 for row in rows) > 0 else "linear")
    costs = [value for row in rows if (value := getattr(row, cost)) > 0 and not row.reference]
    if costs:
        axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    for method, look in looks.items():
        own = sorted((r for r in rows if r.method == method), key=lambda row: getattr(row, cost))
        own = [row for row in own if getattr(row, cost) > 0]
        x, y = [getattr(row, cost) for row in own], [row.metrics[of.key] for row in own]
        errors = [row.standard_errors.get(of.key) or 0.0 for row in own]
        axes.errorbar(x, y, errors, color=look.color, marker=look.marker, markersize=6, linewidth=1.3,  # pyright: ignore
                      linestyle=look.dash, capsize=2, elinewidth=1)  # pyright: ignore  # fmt: skip
    if (found := _reference(rows, of.key)) is not None:
        axes.axhline(found[0], color=EXACT, linewidth=1.2, linestyle=found[1].dash, zorder=1)  # pyright: ignore
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if low > 0 and high / low < _WIDE:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    caption_axes(axes, _COSTS[cost], f"{of.label}{f', {of.unit}' if of.unit else ''} ({of.sense})")


def budgets_figure(rows: Sequence[Row], kind: str, title: str) -> Figure | None:
    """The figure, or None where no row has the metric that sorts the tables of the kind. Both axes are logarithmic."""
    of = metric(KEYS[kind][0])
    rows = [row for row in rows if row.metrics.get(of.key) is not None]
    looks = _looks(rows)
    if not looks:
        return None
    line = _reference(rows, of.key)
    legend = [*looks.values(), *([] if line is None else [line[1]])]
    width, low = len(_COSTS) * _PANEL, legend_height(legend, len(_COSTS) * _PANEL) + 8
    figure = new_figure(_TOP + _HEIGHT + _BOTTOM + low, width)
    for i, cost in enumerate(_COSTS):
        axes = place(figure, i * _PANEL + _LEFT, low + _BOTTOM, _PANEL - _LEFT - _RIGHT, _HEIGHT)
        _panel(axes, rows, of, cost, looks)
        if i == 0:
            axes.annotate(title, (0, 1), (-44, 26), "axes fraction", "offset points", fontsize=TEXT, color=INK,
                          weight="bold")  # fmt: skip
    add_legend(figure, legend)
    return figure


def draw_budgets(path: Path, rows: Sequence[Row], kind: str, title: str) -> bool:
    """Writes the figure as PNG, atomically; False, and no file, where there is nothing to show."""
    return write_png(path, lambda: budgets_figure(rows, kind, title))
