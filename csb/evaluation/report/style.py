"""Colours, markers and dashes of the methods, alike in every chart, and how a chart becomes SVG or PNG.

The colours stay apart (CIELAB distance ≥ 20) under normal and all three kinds of dichromatic vision, with a contrast of
at least 3:1 to the page in both colour schemes; markers and dashes tell methods apart without colour.
"""

import base64
import io
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextToPath

from csb.evaluation.report.model import Report
from csb.files import write_atomically

# On a white page, and the same on a dark one.
SERIES = ("#15507f", "#a8381a", "#3c9f80", "#dc62c4", "#9f8a0d", "#7d3fd6")
SERIES_DARK = ("#86b4ff", "#f0503a", "#6ee8d0", "#d060a8", "#efe04a", "#9a62f5")
INK, MUTED, RULE, BAND, EXACT, DOTS = "#1b2128", "#59626d", "#d5dae0", "#8a94a0", "#2e343b", "#b3bac2"
THEME = {color: f"var(--s{i})" for i, color in enumerate(SERIES)} | {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    BAND: "var(--band)",
    EXACT: "var(--exact)",
    DOTS: "var(--dots)",
}
# Of lengths without a common cycle: sixty methods before one look comes back.
MARKERS = "osD^vPX*<>phd"
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.5, 1.4, 1.5)), (0, (9, 2)))

UNIT = 1 / 72  # inch; one unit is one CSS pixel where a chart is drawn at its natural width
WIDTH = 356  # units: the text column of a phone
TEXT = 13  # units: 12 pixels on the narrowest phones, where charts shrink


class Style(NamedTuple):
    """How one method is drawn."""

    color: str
    marker: str
    dash: object


def styles(report: Report) -> dict[str, Style]:
    """One style a method name. A family shares its colour; references are dark, with a cross and fine dashes."""
    families = dict.fromkeys(m.family or m.name for m in report.methods if not m.reference)
    colors = {family: SERIES[i % len(SERIES)] for i, family in enumerate(families)}
    found, i = {}, 0
    for m in report.methods:
        if m.reference:
            found[m.name] = Style(EXACT, "x", (0, (2, 2)))
            continue
        found[m.name] = Style(colors[m.family or m.name], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        i += 1
    return found


@contextmanager
def drawing() -> Iterator[None]:
    """Inside, text is taken literally ("$" starts no formula) and SVG is the same for the same figure."""
    settings: Any = {"text.parse_math": False, "svg.hashsalt": "csb", "font.size": TEXT, "font.family": ["DejaVu Sans"]}
    with matplotlib.rc_context(settings):
        yield


def write_png(path: pathlib.Path, make: Callable[[], Figure | None]) -> bool:
    """Writes the figure that ``make`` draws, atomically; False, and no file, where there is nothing to show."""
    with drawing():
        figure = make()
        if figure is None:
            path.unlink(missing_ok=True)
            return False
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=144, facecolor="white")
    write_atomically(path, lambda file: file.write(data.getvalue()))
    return True


def new_figure(height: float, width: float = WIDTH) -> Figure:
    figure = Figure(figsize=(width * UNIT, height * UNIT))
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in units, with thin rules and no box."""
    w, h = figure.get_figwidth() / UNIT, figure.get_figheight() / UNIT
    axes = figure.add_axes((left / w, bottom / h, width / w, height / h))
    axes.set_facecolor("none")
    axes.tick_params(which="minor", length=2, width=0.6, color=MUTED)
    axes.tick_params(labelsize=TEXT, length=3, width=0.8, pad=2.5, color=MUTED, labelcolor=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=MUTED, linewidth=0.8)  # pyright: ignore
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def caption_axes(axes: Axes, x: str, y: str) -> None:
    """The x label below; the y label, upright, above the left end."""
    axes.set_xlabel(x, fontsize=TEXT, color=INK, labelpad=3)
    axes.annotate(y, (0, 1), (-44, 8), "axes fraction", "offset points", fontsize=TEXT, color=INK)


def add_dots(axes: Axes, points: np.ndarray, color: str, size: float) -> None:
    """Points (n, ≥ 2) as one path of dots, an eighth as large in an SVG as n markers, and coloured by the page."""
    path = Path(points[:, :2].repeat(2, axis=0), np.tile([Path.MOVETO, Path.LINETO], len(points)))
    path.should_simplify = False
    axes.add_patch(PathPatch(path, fill=False, edgecolor=color, linewidth=size, capstyle="round"))


def text_width(text: str) -> float:
    """In units, of one line."""
    return TextToPath().get_text_width_height_descent(text, FontProperties(family="DejaVu Sans", size=TEXT), False)[0]


def wrap(text: str, width: float) -> str:
    """Text in lines of about that many units."""
    return "\n".join(textwrap.wrap(text, max(8, int(width / 7.6)))) or text


class Entry(NamedTuple):
    """One entry of a legend."""

    label: str
    color: str
    marker: str = ""
    dash: object = "none"


def entries(report: Report, names: Sequence[str], lines: bool = True) -> list[Entry]:
    """Legend entries of the named methods, in the report's order; ``lines`` shows their dashes."""
    look = styles(report)
    shown = [m for m in report.methods if m.name in names]
    return [
        Entry(m.label, look[m.name].color, look[m.name].marker, look[m.name].dash if lines else "none") for m in shown
    ]


_HANDLE, _GAP, _LINE = 26, 14, 19  # units: width of a line sample, space after a label, height of a row


def _rows(shown: Sequence[Entry], width: float) -> list[list[tuple[float, Entry]]]:
    """Entries from left to right, broken into rows that fit: (x, entry)."""
    rows: list[list[tuple[float, Entry]]] = []
    x = width
    for entry in shown:
        own = _HANDLE + 6 + text_width(entry.label) + _GAP
        if not rows or x + own - _GAP > width:
            rows.append([])
            x = 4.0
        rows[-1].append((x, entry))
        x += own
    return rows


def legend_height(shown: Sequence[Entry], width: float = WIDTH) -> float:
    return _LINE * len(_rows(shown, width)) + 4


def add_legend(figure: Figure, shown: Sequence[Entry], bottom: float = 4, left: float = 0) -> None:
    """Entries in rows that fill the figure's width, the lowest at ``bottom`` units."""
    wide, tall = (side / UNIT for side in figure.get_size_inches())
    rows = _rows(shown, wide - 2 * left)
    for i, row in enumerate(rows):
        y = (bottom + (len(rows) - i - 0.5) * _LINE) / tall
        for x, entry in row:
            x += left
            line = [x / wide, (x + _HANDLE / 2) / wide, (x + _HANDLE) / wide]
            figure.add_artist(
                Line2D(line, [y] * 3, color=entry.color, linestyle=entry.dash, linewidth=1.7, marker=entry.marker,  # pyright: ignore
                       markersize=6, markevery=[1], transform=figure.transFigure)
            )  # fmt: skip
            figure.text((x + _HANDLE + 6) / wide, y, entry.label, fontsize=TEXT, color=INK, va="center_baseline")


class Tile(NamedTuple):
    """A small panel: its label, words in place of it, and what draws it on axes."""

    label: str
    alt: str
    draw: Callable[[Axes], None]


TILE = 172  # units: two side by side on a phone


def _label_lines(panels: Sequence[Tile]) -> int:
    return max(wrap(tile.label, TILE - 8).count("\n") + 1 for tile in panels)


def single_tiles(panels: Sequence[Tile], height: float) -> list[tuple[Tile, Figure]]:
    """Each panel as a figure of its own, all of one size."""
    lines = _label_lines(panels) if panels else 1
    return [(tile, tiles([tile], height, lines=lines)) for tile in panels]


def tiles(panels: Sequence[Tile], height: float, across: int = 1, lines: int | None = None) -> Figure:
    """Panels of one size, each under its label, ``across`` side by side.

    Args:
        height: of the axes alone, in units.
        lines: of text above each panel; None: as many as its labels need.
    """
    across, left = min(across, len(panels)), 30
    labels = [wrap(tile.label, TILE - 8) for tile in panels]
    top = 8 + 15 * (lines or _label_lines(panels))
    cell, rows = top + height + 24, -(-len(panels) // across)
    figure = new_figure(rows * cell, across * TILE)
    for i, (tile, label) in enumerate(zip(panels, labels)):
        x, y = i % across * TILE, (rows - 1 - i // across) * cell
        axes = place(figure, x + left, y + 24, TILE - left - 10, height)
        axes.grid(visible=False)
        tile.draw(axes)
        axes.annotate(label, (0, 1), (4 - left, 6), "axes fraction", "offset points", fontsize=TEXT, color=INK)
    return figure


def _save_svg(figure: Figure, fonttype: str) -> str:
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with drawing(), matplotlib.rc_context({"svg.fonttype": fonttype}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing, dpi=216)
    return re.sub(r'(?<= d=")[^"]+', lambda m: _short_path(m[0]), file.getvalue())


def _short_path(d: str) -> str:
    """Path data to a hundredth of a unit; a dot, drawn as a line from a point to itself, as a line of no length."""
    d = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), d)
    return re.sub(r"M (\S+ \S+) ?\nL \1(?=\s|$)", r"M\1h0", d).replace(" \n", "\n")


def inline_svg(figure: Figure, key: str, alt: str) -> Markup:
    """The figure for a page: text in the page's font, colours from its scheme, ids that start with the key."""
    body = _save_svg(figure, "none")
    body = re.sub(r"<style.*?</style>", "", body[body.index("<svg") :], flags=re.S)
    body = re.sub(r"<svg[^>]*>", "", body, count=1).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\1#{key}-", body)
    body = re.sub(r"\s*font-family: [^;\"]*;?", "", body)
    for color, variable in THEME.items():
        body = body.replace(color, variable)
    body = re.sub(r"\n\s*", "\n", body)
    width, height = (side / UNIT for side in figure.get_size_inches())
    head = f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + body)


def download(figure: Figure) -> str:
    """The figure for a paper, as a data URI: SVG with glyphs as outlines and the colours of the light scheme."""
    return data_uri(_save_svg(figure, "path").encode(), "image/svg+xml")


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
