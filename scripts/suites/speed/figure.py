"""How everything grows: a panel for each quantity that is varied, both axes logarithmic."""

from collections.abc import Sequence

from csb.evaluation.plots import Line, Panel, look
from suites.speed.growth import Curve


def speed_panels(curves: Sequence[Curve]) -> list[Panel]:
    """The panels, without what a page of memory is too coarse for."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        if any(y for _, y in curve.points):
            found.setdefault(curve.panel, []).append(curve)
    return [_panel(of) for of in found.values()]


def _panel(curves: Sequence[Curve]) -> Panel:
    lines = []
    for i, curve in enumerate(curves):
        power = "" if curve.exponent is None else f" (∝ x^{curve.exponent:.2f})"
        points = [(x, y) for x, y in curve.points if y]
        lines.append(Line(look(curve.name + power, i), [x for x, _ in points], [y for _, y in points]))
    ticks = sorted({x for curve in curves for x, _ in curve.points})
    return Panel("", curves[0].over, curves[0].unit, lines, x_ticks=ticks)
