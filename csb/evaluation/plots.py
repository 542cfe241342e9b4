"""Curves of comparisons: a panel a quantity, a line a method, with error bars, and one legend below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from csb.evaluation.style import SMALL, WIDE, Look, Tile, drawing, tiled, write_png

_HEIGHT = 340  # units: of a panel
_WIDE = 30  # ratio of an axis's ends from which a tick a decade is enough


@dataclass(frozen=True)
class Line:
    """A line with its look; x ascending, and standard errors of y or None."""

    look: Look
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
    levels: Sequence[tuple[float, Look]] = ()
    y_scale: Any = "log"
    x_ticks: Sequence[int] = ()
    more: Callable[[Axes], None] | None = None


def _draw(axes: Axes, panel: Panel, legend: bool) -> None:
    axes.set_xscale("log")
    if xs := [x for line in panel.lines for x in line.x]:
        axes.set_xlim(min(xs) / 1.25, max(xs) * 1.25)
    scale = panel.y_scale
    axes.set_yscale(scale) if isinstance(scale, str) else axes.set_yscale("function", functions=scale)
    for line in panel.lines:
        own = {"label": line.look.label, **line.look.line}
        axes.errorbar(line.x, line.y, line.errors, **own, markersize=6, capsize=2, elinewidth=1)
    for value, entry in panel.levels:
        axes.axhline(value, color=entry.color, linestyle=entry.dash, linewidth=1.2, zorder=1)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if low > 0 and high / low < _WIDE and axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    if panel.x_ticks:
        axes.set_xticks(panel.x_ticks, [str(x) for x in panel.x_ticks])
        axes.set_xticks([], minor=True)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    axes.grid()
    if legend:
        axes.legend(loc="upper left", fontsize=SMALL)
    if panel.more is not None:
        panel.more(axes)


@drawing()
def curves_figure(panels: Sequence[Panel], legends: bool = False) -> Figure | None:
    """Two panels side by side, and a legend of all lines below; None where no panel has a line.

    ``legends``: each panel has its own, inside.
    """
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    entries = dict.fromkeys(line.look for panel in panels for line in panel.lines)
    entries |= dict.fromkeys(entry for panel in panels for _, entry in panel.levels)
    drawn = [Tile(panel.title, lambda axes, panel=panel: _draw(axes, panel, legends)) for panel in panels]
    return tiled(drawn, (WIDE / 2, _HEIGHT), across=2, legend=[] if legends else list(entries))


def draw_curves(path: Path, panels: Sequence[Panel], legends: bool = False) -> bool:
    """Write the figure as PNG, atomically; False, and no file, where there is nothing to show."""
    return write_png(path, curves_figure(panels, legends))
