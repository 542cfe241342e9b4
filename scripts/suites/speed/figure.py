"""How everything grows: a panel for each quantity that is varied, both axes logarithmic."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from csb.evaluation.report.style import (
    DASHES,
    MARKERS,
    SERIES,
    Entry,
    add_legend,
    caption_axes,
    new_figure,
    place,
    write_png,
)
from suites.speed.growth import Curve

_PANEL, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM, _LINE = 380, 180, 56, 20, 40, 44, 19  # units
_ACROSS = 2  # panels side by side


def _entry(curve: Curve, i: int) -> Entry:
    power = "" if curve.exponent is None else f" (∝ x^{curve.exponent:.2f})"
    return Entry(curve.name + power, SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])


def _draw(axes: Axes, curves: Sequence[Curve]) -> list[Entry]:
    looks = [_entry(curve, i) for i, curve in enumerate(curves)]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for curve, look in zip(curves, looks):
        x, y = zip(*[point for point in curve.points if point[1]])
        axes.plot(x, y, color=look.color, marker=look.marker, markersize=5, linewidth=1.4,
                  linestyle=look.dash)  # pyright: ignore  # fmt: skip
    ticks = sorted({x for curve in curves for x, _ in curve.points})
    axes.set_xticks(ticks, [str(x) for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    caption_axes(axes, curves[0].over, curves[0].unit)
    return looks


def speed_figure(curves: Sequence[Curve]) -> Figure | None:
    """The figure; None where nothing was measured."""
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        if any(y for _, y in curve.points):  # nothing that a page of memory is too coarse for
            panels.setdefault(curve.panel, []).append(curve)
    if not panels:
        return None
    low = _LINE * max(map(len, panels.values())) + 8  # a line for each entry of a legend
    cell, down = _TOP + _HEIGHT + _BOTTOM + low, -(-len(panels) // _ACROSS)
    figure = new_figure(down * cell, _ACROSS * _PANEL)
    for i, one in enumerate(panels.values()):
        x, y = i % _ACROSS * _PANEL, (down - 1 - i // _ACROSS) * cell
        axes = place(figure, x + _LEFT, y + low + _BOTTOM, _PANEL - _LEFT - _RIGHT, _HEIGHT)
        for j, look in enumerate(_draw(axes, one), start=1):
            add_legend(figure, [look], y + low - _LINE * j, x + _LEFT)
    return figure


def draw_speed(path: Path, curves: Sequence[Curve]) -> bool:
    """Writes the figure as PNG, atomically; False, and no file, where there is nothing to show."""
    return write_png(path, lambda: speed_figure(curves))
