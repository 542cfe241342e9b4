"""Heat maps of a sweep over L × T: accuracy, training time and network calls, side by side."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from csb.evaluation.style import INK, MUTED, RULE, SERIES, SMALL, TEXT, Tile, drawing, tiled, write_png
from csb.evaluation.sweep import CALLS, SECONDS, Cell, Combination, Score, Stat, is_swept

logger = logging.getLogger(__name__)
_WIDE, _TALL = 92, 44  # units: a cell
_NARROW, _AROUND = 210, 60  # units: the least width of a panel, which its title needs, and what surrounds its cells
_MOST = 40  # combinations in one picture
_COLORS = LinearSegmentedColormap.from_list("csb", ["#f2f6fa", SERIES[0]])
_DARK = 0.55  # of the scale; above it text is white


class Panel(NamedTuple):
    """One quantity: its key, its title, whether higher is better, and what its values are divided by."""

    key: str
    title: str
    higher: bool
    unit: float = 1.0


def quantities(found: Sequence[Cell], score: Score | None) -> list[Panel]:
    """Accuracy, training time in a unit that suits its largest value, and network calls a sample."""
    longest = max((cell.stats[SECONDS].mean for cell in found if SECONDS in cell.stats), default=0.0)
    name, unit = ("s", 1.0) if longest < 600 else ("min", 60.0) if longest < 36_000 else ("h", 3600.0)
    accuracy = Panel("", "accuracy", True)  # where every job failed
    if score is not None:
        accuracy = Panel(score.key, f"{score.label} ({score.direction})", score.higher)
    return [
        accuracy,
        Panel(SECONDS, f"training time, {name}", False, unit),
        Panel(CALLS, "network calls a sample", False),
    ]


def cell_text(stat: Stat, panel: Panel) -> str:
    """The mean to three digits, whole numbers whole, and ± its standard deviation to two below it."""
    mean = stat.mean / panel.unit
    text = f"{mean:.0f}" if (panel.key == CALLS and mean.is_integer()) or abs(mean) >= 1000 else f"{mean:#.3g}"
    text = text.rstrip(".")
    return text if stat.sd is None or (panel.key == CALLS and stat.sd == 0) else f"{text}\n± {stat.sd / panel.unit:.2g}"


def _scale(found: Sequence[Cell], panel: Panel) -> Callable[[float], float]:
    """From a value to its shade: 0 for the worst, 1 (dark) for the best, ½ where all are alike."""
    values = [cell.stats[panel.key].mean for cell in found if panel.key in cell.stats]
    if len(set(values)) < 2:
        return lambda _: 0.5
    worst, best = (min(values), max(values)) if panel.higher else (max(values), min(values))
    return lambda value: (value - worst) / (best - worst)


def _draw_cell(axes: Axes, x: int, y: int, cell: Cell, panel: Panel, shade: float | None, best: bool) -> None:
    """A coloured square with its value; hatched, with the word, where all jobs failed."""
    stat = cell.stats.get(panel.key)
    square = (x - 0.5, y - 0.5), 1, 1
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    if stat is None or shade is None:
        hatch, word = ("////", "failed") if cell.failed else (None, "–")
        axes.add_patch(Rectangle(*square, facecolor="white", edgecolor=RULE, hatch=hatch, linewidth=0))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text(x, y, word, fontsize=TEXT - 1, color=MUTED, bbox=box, **middle)
        return
    axes.add_patch(Rectangle(*square, facecolor=_COLORS(shade), edgecolor="white", linewidth=1))
    text = cell_text(stat, panel) + (f"\n{cell.failed} failed" if cell.failed else "")
    style: dict[str, Any] = {
        "fontsize": TEXT - 3 if text.count("\n") > 1 else TEXT - 1,
        "weight": "bold" if best else "normal",
    }
    axes.text(x, y, text, color="white" if shade > _DARK else INK, linespacing=1.05, **style, **middle)


def _draw_panel(
    axes: Axes, found: Sequence[Cell], panel: Panel, scale: Callable[[float], float], sides: tuple[list, list]
) -> None:
    """The cells of one combination; T to the right, L upwards."""
    Ls, Ts = sides
    axes.set(xlim=(-0.5, len(Ts) - 0.5), ylim=(-0.5, len(Ls) - 0.5))
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(Ts)), [f"T={T}" for T in Ts])
    axes.set_yticks(range(len(Ls)), [f"L={L}" for L in Ls])
    axes.tick_params(length=0)
    known = [cell.stats[panel.key].mean for cell in found if panel.key in cell.stats]
    best = (max if panel.higher else min)(known, default=None)
    for cell in found:
        stat = cell.stats.get(panel.key)
        marked = stat is not None and stat.mean == best and panel.key not in (SECONDS, CALLS)
        shade = None if stat is None else scale(stat.mean)
        _draw_cell(axes, Ts.index(cell.T), Ls.index(cell.L), cell, panel, shade, marked)


def _name(combination: Combination) -> str:
    return ", ".join(f"{key}={value}" for key, value in combination)


@drawing()
def sweep_figure(found: Sequence[Cell], score: Score | None) -> Figure | None:
    """One row of three heat maps over L × T for each combination of other settings; None where L, T are not swept.

    Colours are alike in all rows, darker being better; the best score of a row is bold. Cells with several seeds show
    mean ± standard deviation; cells whose jobs all failed are hatched; cells without a job stay empty.

    Args:
        found: of :func:`csb.evaluation.sweep.cells`.
        score: of :func:`csb.evaluation.sweep.main_score`.
    """
    if not is_swept(found):
        return None
    combinations = list(dict.fromkeys(cell.combination for cell in found))
    if len(combinations) > _MOST:
        logger.warning("the heat map shows the first %d of %d combinations of settings", _MOST, len(combinations))
        combinations = combinations[:_MOST]
    Ls, Ts = sorted({cell.L for cell in found}), sorted({cell.T for cell in found})
    drawn = []
    for combination in combinations:
        own = [cell for cell in found if cell.combination == combination]
        for i, panel in enumerate(quantities(found, score)):
            label = f"{_name(combination)}\n{panel.title}" if combination and not i else panel.title

            def draw(axes: Axes, own: list[Cell] = own, panel: Panel = panel) -> None:
                _draw_panel(axes, own, panel, _scale(found, panel), (Ls, Ts))

            drawn.append(Tile(label, draw))
    size = max(_NARROW, _WIDE * len(Ts)) + _AROUND, _TALL * len(Ls) + _AROUND
    figure = tiled(drawn, size, across=3)
    note = "Darker is better; bold: the best." + (
        " ±: standard deviation over seeds." if any(s.sd is not None for c in found for s in c.stats.values()) else ""
    )
    figure.supxlabel(note, x=0.01, ha="left", fontsize=SMALL, color=MUTED)
    return figure


def draw_sweep(path: Path, found: Sequence[Cell], score: Score | None) -> bool:
    """Writes the figure as PNG, atomically; False, and no file, where L and T are not swept."""
    return write_png(path, sweep_figure(found, score))
