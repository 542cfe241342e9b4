"""How everything grows: a panel for each quantity that is varied, both axes logarithmic."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from csb.evaluation.style import SMALL, Tile, drawing, look, tiled, write_png
from suites.speed.growth import Curve

_SIZE = 520, 280  # units: a panel


def _draw(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for i, curve in enumerate(curves):
        power = "" if curve.exponent is None else f" (∝ x^{curve.exponent:.2f})"
        one = look(curve.name + power, i)
        x, y = zip(*[point for point in curve.points if point[1]])
        axes.plot(x, y, markersize=5, linewidth=1.4, label=one.label, **one.line)
    ticks = sorted({x for curve in curves for x, _ in curve.points})
    axes.set_xticks(ticks, [str(x) for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(curves[0].over)
    axes.grid()
    axes.legend(loc="upper left", fontsize=SMALL)


@drawing()
def speed_figure(curves: Sequence[Curve]) -> Figure | None:
    """The figure; None where nothing was measured."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        if any(y for _, y in curve.points):  # nothing that a page of memory is too coarse for
            found.setdefault(curve.panel, []).append(curve)
    if not found:
        return None
    drawn = [Tile(of[0].unit, lambda axes, of=of: _draw(axes, of)) for of in found.values()]
    return tiled(drawn, _SIZE, across=2, legend=())


def draw_speed(path: Path, curves: Sequence[Curve]) -> bool:
    """Writes the figure as PNG, atomically; False, and no file, where there is nothing to show."""
    return write_png(path, speed_figure(curves))
