"""One style for all figures: colours, markers and dashes, figures of panels, curves of methods, and PNG files.

Lengths are in units of a 72nd of an inch: one CSS pixel where a figure is shown at its natural width. The colours stay
apart (CIELAB distance ≥ 20) under normal and all three kinds of dichromatic vision, with a contrast of at least 3:1 to
white; markers and dashes tell methods apart without colour.
"""

import base64
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.stats import binom

from csb.files import write_atomically

SERIES = ("#15507f", "#a8381a", "#3c9f80", "#dc62c4", "#9f8a0d", "#7d3fd6")
INK, MUTED, RULE, BAND, EXACT, DOTS = "#1b2128", "#59626d", "#d5dae0", "#8a94a0", "#2e343b", "#b3bac2"
BLUE, RED = SERIES[0], "#d1352b"  # of the samples of one method, and of the truth among them
# Of lengths without a common cycle: sixty methods before one look comes back.
MARKERS = "osD^vPX*<>phd"
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.5, 1.4, 1.5)), (0, (9, 2)))
DASHED, DOTTED = (0, (4, 3)), (0, (2, 2))
SHARES = [0, 0.5, 1]  # ticks

UNIT = 1 / 72  # inch
NARROW, WIDE = 356, 1068  # the text column of a phone, and that of a page
TEXT, SMALL = 13, 11
DPI = 108  # three pixels to two units
_HEIGHT, _DECADES = 340, 30  # of a panel of curves; the ratio of an axis's ends from which a tick a decade is enough
_WORD = 20  # characters of a word that is not broken
_CHARACTER, _LINE, _HANDLE = 7.4, 18, 46  # of text: the width of a character and the height of a line; a legend's key
_STYLE = {
    "font.family": ["DejaVu Sans"], "font.size": TEXT, "text.color": INK, "svg.hashsalt": "csb",
    "axes.titlesize": TEXT, "axes.titlelocation": "left", "axes.labelsize": TEXT, "axes.labelcolor": INK,
    "axes.edgecolor": MUTED, "axes.linewidth": 0.8, "axes.facecolor": "none", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": RULE, "grid.linewidth": 0.7,
    "xtick.color": MUTED, "ytick.color": MUTED, "legend.frameon": False, "figure.titlesize": TEXT,
    "figure.constrained_layout.h_pad": 4 * UNIT, "figure.constrained_layout.w_pad": 4 * UNIT,
}  # fmt: skip


class Look(NamedTuple):
    """How a method, or a line, is drawn, and what a legend calls it; without a dash no line joins its points."""

    label: str
    color: str
    marker: str = ""
    dash: Any = "none"

    @property
    def line(self) -> dict[str, Any]:
        """For :meth:`Axes.plot`."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.dash}


class Tile(NamedTuple):
    """One of a figure's axes: what stands above it, and what draws on it."""

    label: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Line:
    """A line with its look; x ascending, and standard errors of y or None."""

    look: Look
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes with lines over a logarithmic x axis."""

    title: str  # above it; "" for none
    x_label: str
    y_label: str
    lines: Sequence[Line]
    levels: Sequence[tuple[float, Look]] = ()  # values of y that are drawn as horizontal lines
    y_scale: Any = "log"  # or "linear", or a function and its inverse
    x_ticks: Sequence[int] = ()  # whole numbers to mark on the x axis; none: powers of ten, and 2 and 5 times them
    more: Callable[[Axes], None] | None = None  # what else is drawn, on axes that hold the lines


def look(label: str, i: int, color: str | None = None) -> Look:
    """The look of the i-th line of a figure: the colours come again before the markers and dashes do."""
    return Look(label, color or SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])


@contextmanager
def drawing(math: bool = False) -> Iterator[None]:
    """Inside, or in a function that it decorates, figures have the style; "$" starts a formula only with ``math``."""
    settings: Any = {**_STYLE, "text.parse_math": math}
    with matplotlib.rc_context(settings):
        yield


def wrap(text: str, width: float) -> str:
    """Each line of a text in lines of about that width, of whole words up to _WORD; one with formulas as it is."""

    def filled(line: str) -> str:
        longest = max(map(len, line.split()), default=0)
        return textwrap.fill(line, max(8, int(width / _CHARACTER), min(longest, _WORD)))

    return "\n".join(line if "$" in line else filled(line) for line in text.splitlines())


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """A figure with room for axes of this size below its title."""
    title = wrap(title, width)
    figure = Figure(figsize=(width * UNIT, (height + _LINE * len(title.splitlines())) * UNIT), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=4 / width, ha="left", weight="bold")
    return figure


def add_legend(figure: Figure, entries: Sequence[Look] | dict[str, Any]) -> None:
    """A legend of looks, or of artists by their labels, below the axes in full rows; the figure grows by its height."""
    if isinstance(entries, dict):
        labels, keys = list(entries), list(entries.values())
    else:
        labels = [one.label for one in entries]
        keys = [Line2D([], [], linewidth=1.7, markersize=6, **one.line) for one in entries]
    width = figure.get_figwidth() / UNIT
    labels = [wrap(label, width - _HANDLE) for label in labels]
    widest = max(len(line) for label in labels for line in label.splitlines())
    across = max(1, int(width / (_CHARACTER * widest + _HANDLE)))
    rows = -(-len(labels) // across) * max(label.count("\n") + 1 for label in labels)
    place = {"loc": "outside lower left", "ncols": across, "borderpad": 0.2, "labelspacing": 0.3}
    for key in figure.legend(keys, labels, **place).legend_handles:
        if isinstance(key, PathCollection):  # of dots, as many of them as make each small and pale
            key.set(sizes=[40], alpha=1)
    figure.set_figheight(figure.get_figheight() + _LINE * rows * UNIT)


def tiled(
    drawn: Sequence[Tile],
    size: tuple[float, float],
    *,
    across: int = 4,
    title: str = "",
    legend: Sequence[Look] | None = None,
    x: str = "",
    y: str = "",
) -> Figure:
    """A figure of at least one panel of one size, at most ``across`` side by side, with common labels of the axes.

    ``legend``: below it; by default of the labels that the panels gave to what they drew.
    """
    across = min(across, len(drawn))
    rows, labels = -(-len(drawn) // across), [wrap(one.label, size[0] - 40) for one in drawn]
    x = wrap(x, size[0] - 40)
    room = size[1] + _LINE * max(label.count("\n") for label in labels)
    figure = new_figure(across * size[0], rows * room + _LINE * len(x.splitlines()), title)
    axes = list(figure.subplots(rows, across, squeeze=False).flat)
    for i, (one, panel, label) in enumerate(zip(axes, drawn, labels)):
        one.locator_params(nbins=4)
        panel.draw(one)
        one.set_title(label)
        if x and i + across >= len(drawn):  # the lowest of its column
            one.set_xlabel(x)
    for one in axes[len(drawn) :]:
        one.remove()
    if y:
        figure.supylabel(y, fontsize=TEXT)
    found = {label: key for one in figure.axes for key, label in zip(*one.get_legend_handles_labels())}
    if entries := found if legend is None else legend:
        add_legend(figure, entries)
    return figure


def draw_panel(axes: Axes, panel: Panel, legend: bool) -> None:
    """Draw a panel, with a legend inside where it is wanted."""
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
        if low > 0 and high / low < _DECADES and axis.get_scale() == "log":
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
    """Two panels side by side, with a legend of all lines below, or ``legends`` inside; None where there is no line."""
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    entries = dict.fromkeys(line.look for panel in panels for line in panel.lines)
    entries |= dict.fromkeys(entry for panel in panels for _, entry in panel.levels)
    drawn = [Tile(panel.title, lambda axes, panel=panel: draw_panel(axes, panel, legends)) for panel in panels]
    return tiled(drawn, (WIDE / 2, _HEIGHT), across=2, legend=[] if legends else list(entries))


def dot_area(n: int) -> float:
    """Marker area: smaller for more points."""
    return float(np.clip(4000 / n, 2, 12))


def limits_of(points: np.ndarray, truth: np.ndarray) -> list[tuple[float, float]]:
    """For each coordinate: around the central 99.8 % of points (n, d), and the truth (d,)."""
    low, high = np.percentile(points, [0.1, 99.9], axis=0)
    low, high = np.minimum(low, truth), np.maximum(high, truth)
    pad = np.where(high > low, 0.08 * (high - low), 1e-6 * np.maximum(np.abs(high), 1))
    return [(float(a), float(b)) for a, b in zip(low - pad, high + pad)]


def coverage_axes(axes: Axes, trials: int | None) -> None:
    """Axes for shares inside over nominal levels: the diagonal, and a band that holds 95 % of chance at each level."""
    p = np.linspace(0, 1, 101)
    if trials:
        low, high = (binom.ppf(q, trials, p) / trials for q in (0.025, 0.975))
        axes.fill_between(p, low, high, color=BAND, alpha=0.25, linewidth=0, label="95 % of chance, level by level")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=DASHED)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=SHARES, yticks=SHARES)


def rank_bars(axes: Axes, counts: np.ndarray, trials: float, color: str, most: float) -> None:
    """Counts (bins,) of the truth's rank over their expectation, which is at ``most`` so large in the panels beside.

    The band holds 95 % of chance, bin by bin.
    """
    bins, trials = len(counts), max(1, round(trials))
    low, high = (float(binom.ppf(q, trials, 1 / bins)) * bins / trials for q in (0.025, 0.975))
    axes.axhspan(low, high, color=BAND, alpha=0.25, linewidth=0, label="95 % of chance, bin by bin")
    axes.stairs(counts * bins / counts.sum(), np.linspace(0, 1, bins + 1), fill=True, alpha=0.75, color=color)
    axes.axhline(1, color=INK, linewidth=1, linestyle=DASHED)
    axes.set(xlim=(0, 1), xticks=SHARES, ylim=(0, max(1.6, 1.1 * most)))


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with drawing():
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return file.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def write_png(path: Path, figure: Figure | None) -> bool:
    """Write the figure, atomically; False, and no file, where there is none."""
    if figure is None:
        path.unlink(missing_ok=True)
        return False
    data = png(figure)
    write_atomically(path, lambda file: file.write(data))
    return True


def draw_curves(path: Path, panels: Sequence[Panel], legends: bool = False) -> bool:
    """Write :func:`curves_figure` as PNG, atomically; False, and no file, where there is nothing to show."""
    return write_png(path, curves_figure(panels, legends))
