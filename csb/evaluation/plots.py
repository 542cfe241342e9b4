"""Curves of comparisons: a panel a quantity, a line a method, with error bars, and one legend below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from csb.evaluation.report.style import (
    DASHES,
    INK,
    MARKERS,
    MUTED,
    RULE,
    SERIES,
    TEXT,
    UNIT,
    Entry,
    text_width,
    write_png,
)

_WIDTH, _HEIGHT, _LINE, _HANDLE = 440, 300, 19, 60  # units: of a panel, of a legend's row and of its lines
_WIDE = 30  # ratio of an axis's ends from which a tick a decade is enough


@dataclass(frozen=True)
class Line:
    """A line with its look; x ascending, and standard errors of y or None."""

    look: Entry
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it; "" for none.
        x_label, y_label: of the axes.
        levels: values of y that are drawn as horizontal lines.
        y_scale: "log", "linear", or a function and its inverse.
        x_ticks: whole numbers to mark on the x axis, which is logarithmic; none: powers of ten, and 2 and 5 times them.
        more: what else is drawn, on axes that hold the lines.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Sequence[tuple[float, Entry]] = ()
    y_scale: Any = "log"
    x_ticks: Sequence[int] = ()
    more: Callable[[Axes], None] | None = None


def look(label: str, i: int, color: str | None = None) -> Entry:
    """The look of the i-th line of a figure: the colours come again before the markers and dashes do."""
    return Entry(label, color or SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log")
    scale = panel.y_scale
    axes.set_yscale(scale) if isinstance(scale, str) else axes.set_yscale("function", functions=scale)
    for line in panel.lines:
        own: Any = {"color": line.look.color, "marker": line.look.marker, "linestyle": line.look.dash}
        axes.errorbar(line.x, line.y, line.errors, **own, markersize=6, linewidth=1.3, capsize=2, elinewidth=1)
    for value, entry in panel.levels:
        own = {"color": entry.color, "linestyle": entry.dash}
        axes.axhline(value, **own, linewidth=1.2, zorder=1)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if low > 0 and high / low < _WIDE and axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    if panel.x_ticks:
        axes.set_xticks(panel.x_ticks, [str(x) for x in panel.x_ticks])
        axes.set_xticks([], minor=True)
    axes.set_title(panel.title, loc="left", fontsize=TEXT, color=INK, weight="bold")
    axes.set_xlabel(panel.x_label, fontsize=TEXT, color=INK)
    axes.set_ylabel(panel.y_label, fontsize=TEXT, color=INK)
    axes.tick_params(labelsize=TEXT, color=MUTED, labelcolor=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    if panel.more is not None:
        panel.more(axes)


def curves_figure(panels: Sequence[Panel]) -> Figure | None:
    """Two panels side by side, and a legend of all lines below; None where no panel has a line."""
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    entries = dict.fromkeys(line.look for panel in panels for line in panel.lines)
    entries |= dict.fromkeys(entry for panel in panels for _, entry in panel.levels)
    across = min(2, len(panels))
    down, width = -(-len(panels) // across), across * _WIDTH
    columns = max(1, int(width / max(_HANDLE + text_width(entry.label) for entry in entries)))
    height = down * _HEIGHT + _LINE * -(-len(entries) // columns) + _LINE
    figure = Figure((width * UNIT, height * UNIT), layout="constrained")
    FigureCanvasAgg(figure)
    for i, panel in enumerate(panels):
        _draw(figure.add_subplot(down, across, i + 1), panel)
    handles = [
        Line2D([], [], color=e.color, marker=e.marker or "None", linestyle=e.dash, label=e.label)  # pyright: ignore
        for e in entries
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=TEXT)
    return figure


def draw_curves(path: Path, panels: Sequence[Panel]) -> bool:
    """Write the figure as PNG, atomically; False, and no file, where there is nothing to show."""
    return write_png(path, lambda: curves_figure(panels))
