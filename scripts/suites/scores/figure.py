"""C2ST against network calls, a panel a problem, with what others published as horizontal lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from csb.evaluation.style import (
    DASHES,
    EXACT,
    MARKERS,
    MUTED,
    SERIES,
    SMALL,
    WIDE,
    Look,
    Tile,
    drawing,
    tiled,
    write_png,
)
from suites.scores.published import Published
from suites.scores.tables import Row, count_text, groups_of, pairs_of, pooled, problems_of

_HEIGHT = 320  # units: of a panel
_GAP = 18 / _HEIGHT  # between two labels of published lines, of the axes' height
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


def _panel(
    axes: Axes, rows: Sequence[Row], problem: str, published: Sequence[Published], looks: dict[Any, Look]
) -> None:
    """The lines of one problem over logarithmic network calls; ``rows`` and ``published`` are its own."""
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(_spread, _unspread))
    curves = _curves(rows, problem)
    ticks = sorted({x for points in curves.values() for x, _, _ in points})
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    for key, points in curves.items():
        look, (calls, values, errors) = looks[key], zip(*sorted(points))
        axes.errorbar(calls, values, errors, markersize=5, linewidth=1.4, capsize=2, elinewidth=1, **look.line)
    floor = pooled([row for row in rows if row["pairs"] is None], "c2st")
    if floor is not None:
        axes.axhspan(*sorted((0.5, floor[0])), color=MUTED, alpha=0.3, linewidth=0)
    axes.set_xticks(ticks, [str(x) for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    bars = [(v - e, v + e) for points in curves.values() for _, v, e in points]
    low, high = min(0.499, *(v for v, _ in bars)), max(0.52, *(v for _, v in bars), *(one.c2st for one in published))
    axes.set_ylim(low, high + 0.01)
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("network calls a sample")
    axes.grid()
    _published_lines(axes, published, looks)


def _published_lines(axes: Axes, published: Sequence[Published], looks: dict[Any, Look]) -> None:
    """Horizontal lines, each with its name right of the axes; names that would overlap are moved apart."""
    low, high = axes.get_ylim()
    ordered = sorted(published, key=lambda one: one.c2st)
    levels = _spread(np.array([low, high, *(one.c2st for one in ordered)]))
    at = (levels[2:] - levels[0]) / (levels[1] - levels[0])
    for one, y, level in zip(ordered, at, apart(at, _GAP)):
        look = looks[one.source]
        axes.axhline(one.c2st, color=look.color, linestyle=look.dash, linewidth=1, zorder=1)  # pyright: ignore
        axes.annotate(f"{one.short}, {count_text(one.pairs)}", (1, y), (1.05, level), "axes fraction", "axes fraction",
                      fontsize=SMALL, color=look.color, va="center",
                      arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 0.6, "relpos": (0, 0.5),
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


@drawing()
def suite_figure(rows: Sequence[Row], published: Sequence[Published]) -> Figure | None:
    """The figure, or None where no C2ST was computed. Arguments as in :func:`suites.scores.suite_tables`.

    The vertical axis shows √(C2ST − ½); the grey band reaches from ½ to the C2ST of exact samples.
    """
    shown = [problem for problem in problems_of(rows) if _curves(rows, problem)]
    if not shown:
        return None
    pairs = pairs_of(rows)
    published = [one for one in published if one.problem in shown and one.pairs in pairs]
    looks = _looks(rows, published)
    drawn = []
    for problem in shown:
        own = [row for row in rows if row["problem"] == problem]
        theirs = [one for one in published if one.problem == problem]

        def draw(axes: Axes, own: list[Row] = own, problem: str = problem, theirs: list[Published] = theirs) -> None:
            _panel(axes, own, problem, theirs, looks)

        drawn.append(Tile(f"{problem}: C2ST (lower is better, ½ at best)", draw))
    return tiled(drawn, (WIDE / 2, _HEIGHT), across=2, legend=list(looks.values()))


def draw_suite(path: Path, rows: Sequence[Row], published: Sequence[Published]) -> bool:
    """Writes the figure as PNG, atomically; False, and no file, where there is nothing to show."""
    return write_png(path, suite_figure(rows, published))
