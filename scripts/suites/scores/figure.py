"""C2ST against network calls, a panel a problem, with what others published as horizontal lines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from csb.evaluation.plots import DASHES, EXACT, MARKERS, MUTED, SERIES, SMALL, Line, Look, Panel
from suites.scores.published import Published
from suites.scores.tables import Row, count_text, groups_of, pairs_of, pooled, problems_of

_GAP = 18 / 320  # between two labels of published lines, of the axes' height
_TICKS = (0.5, 0.505, 0.52, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0)


def _spread(v: np.ndarray) -> np.ndarray:
    """The root of the distance to ½, with its sign: shows .505 and .8 in one chart."""
    return np.sign(v - 0.5) * np.sqrt(np.abs(v - 0.5))


def _unspread(u: np.ndarray) -> np.ndarray:
    return 0.5 + np.sign(u) * np.square(u)


def _curves(rows: Sequence[Row], problem: str) -> dict[tuple[str, int | None, int], list[tuple[int, float, float]]]:
    """(calls, C2ST, standard error) by label, L and training pairs."""
    curves: dict[tuple[str, int | None, int], list[tuple[int, float, float]]] = {}
    for group in groups_of(rows, problem):
        for n in pairs_of(group.rows):
            found = pooled(group.at(n), "c2st")
            if found is not None:
                point = (group.rows[0]["calls"], found[0], found[1] or 0.0)
                curves.setdefault((group.label, group.L, n), []).append(point)
    return curves


def _name(label: str, L: int | None) -> str:
    return label if L is None else f"{label}, L = {L}"


def _looks(rows: Sequence[Row], published: Sequence[Published]) -> dict[Any, Look]:
    """One look a line: the colour tells the method, dash and marker the training pairs; published lines by source.

    Methods beyond the last colour begin again at the first with other markers and dashes.
    """
    pairs = pairs_of(rows)
    looks: dict[Any, Look] = {}
    lines = dict.fromkeys(key for problem in problems_of(rows) for key in _curves(rows, problem))
    methods = list(dict.fromkeys((label, L) for label, L, _ in lines))
    for label, L, n in lines:
        turn, color = divmod(methods.index((label, L)), len(SERIES))
        color, i = SERIES[color], pairs.index(n) + turn * len(pairs)
        text = f"{_name(label, L)}, {count_text(n)} pairs"
        looks[label, L, n] = Look(text, color, MARKERS[i % len(MARKERS)], DASHES[-i % len(DASHES)])
    for i, source in enumerate(dict.fromkeys(one.source for one in published)):
        looks[source] = Look(f"published: {source}", EXACT if i % 2 else MUTED, "", (0, (1 + 4 * i, 2)))
    return looks


def _panel(rows: Sequence[Row], problem: str, published: Sequence[Published], looks: dict[Any, Look]) -> Panel:
    """The lines of one problem over logarithmic network calls; ``rows`` and ``published`` are its own."""
    curves = _curves(rows, problem)
    lines = [Line(looks[key], *zip(*sorted(points))) for key, points in curves.items()]
    floor = pooled([row for row in rows if row["pairs"] is None], "c2st")
    bars = [(v - e, v + e) for points in curves.values() for _, v, e in points]
    low, high = min(0.499, *(v for v, _ in bars)), max(0.52, *(v for _, v in bars), *(one.c2st for one in published))

    def more(axes: Axes) -> None:
        if floor is not None:
            axes.axhspan(*sorted((0.5, floor[0])), color=MUTED, alpha=0.3, linewidth=0)
        axes.set_ylim(low, high + 0.01)
        axes.yaxis.set_major_locator(FixedLocator(_TICKS))
        _name_published(axes, published, looks)

    return Panel(
        f"{problem}: C2ST (lower is better, ½ at best)", "network calls a sample", "", lines,
        [(one.c2st, looks[one.source]) for one in published], (_spread, _unspread),
        sorted({x for points in curves.values() for x, _, _ in points}), more,
    )  # fmt: skip


def _name_published(axes: Axes, published: Sequence[Published], looks: dict[Any, Look]) -> None:
    """Names of published lines right of the axes; those that would overlap are moved apart."""
    low, high = axes.get_ylim()
    ordered = sorted(published, key=lambda one: one.c2st)
    levels = _spread(np.array([low, high, *(one.c2st for one in ordered)]))
    at = (levels[2:] - levels[0]) / (levels[1] - levels[0])
    for one, y, level in zip(ordered, at, apart(at, _GAP)):
        color = looks[one.source].color
        axes.annotate(f"{one.short}, {count_text(one.pairs)}", (1, y), (1.05, level), "axes fraction", "axes fraction",
                      fontsize=SMALL, color=color, va="center",
                      arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5),
                                  "shrinkA": 1, "shrinkB": 0})  # fmt: skip


def apart(at: Sequence[float] | np.ndarray, gap: float) -> list[float]:
    """Ascending places moved up, and back below 1 where there is room, until neighbours are ``gap`` apart."""
    places: list[float] = []
    for y in at:
        places.append(max(float(y), places[-1] + gap) if places else float(y))
    top = 1.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - gap
    return places


def suite_panels(rows: Sequence[Row], published: Sequence[Published]) -> list[Panel]:
    """A panel for each problem with a C2ST. Arguments as in :func:`suites.scores.suite_tables`.

    The vertical axis shows √(C2ST − ½); the grey band reaches from ½ to the C2ST of exact samples.
    """
    shown = [problem for problem in problems_of(rows) if _curves(rows, problem)]
    pairs = pairs_of(rows)
    published = [one for one in published if one.problem in shown and one.pairs in pairs]
    looks, panels = _looks(rows, published), []
    for problem in shown:
        own = [row for row in rows if row["problem"] == problem]
        panels.append(_panel(own, problem, [one for one in published if one.problem == problem], looks))
    return panels
