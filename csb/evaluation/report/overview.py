"""One figure that says most: accuracy against network evaluations, calibration, and an excerpt of the table."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from csb.evaluation.report.catalogue import headline_keys, metrics_of
from csb.evaluation.report.charts import Chart, accuracy_charts, calibration_charts
from csb.evaluation.report.model import Report
from csb.evaluation.report.style import (
    INK,
    MUTED,
    RULE,
    TEXT,
    UNIT,
    WIDTH,
    add_legend,
    legend_height,
    new_figure,
    place,
    wrap,
)
from csb.evaluation.report.table import Cell, Column, amount, columns

PANELS, METRICS = 3, 6
_WIDE = PANELS * WIDTH
_ROW, _HEAD = 21, 60


def _panels(report: Report) -> list[Chart]:
    """Accuracy against evaluations first, then coverage, std against error and TARP, then the other charts."""
    accuracy, calibration = accuracy_charts(report), [c for c in calibration_charts(report) if c.panel]
    order = {"coverage": 0, "std-error": 1, "tarp": 2}
    calibration.sort(key=lambda c: order.get(c.key, 9))
    return (accuracy[:1] + calibration + accuracy[1:])[:PANELS]


def _excerpt(report: Report) -> list[Column]:
    """Evaluations, time, and up to METRICS metrics: those of the summary first, then the rest."""
    found = {c.key: c for c in columns(report)}
    costs = [
        Column("", "Evaluations", "a sample", "evaluations", [Cell(amount(m.evaluations)) for m in report.methods])
    ]
    costs += [found["seconds"]] if "seconds" in found else []
    first = [key for key in headline_keys(report) if key in found]
    rest = [m.key for m in metrics_of(report) if m.key in found and m.key not in first]
    return costs + [found[key] for key in (first + rest)[:METRICS]]


def overview(report: Report) -> Figure:
    """The figure, about 1070 units wide. Call it inside ``drawing()``."""
    charts = _panels(report)
    legend = list(dict.fromkeys(entry for chart in charts for entry in chart.legend))
    shown = {entry.label: entry for entry in legend}  # an entry with its dashes comes after one without
    shown = list(shown.values())
    key = legend_height(shown, _WIDE - 24) + 14 if shown else 0
    table = _HEAD + _ROW * len(report.methods) + 12
    plots = 312 if charts else 0
    height = 60 + plots + key + table
    figure = new_figure(height, _WIDE)
    _write(figure, 12, height - 26, report.title, size=17, weight="bold")
    line = f"{report.problem}: {report.observations:,} observations, {report.samples:,} samples each"
    _write(figure, 12, height - 48, line, color=MUTED)
    for i, chart in enumerate(charts):
        axes = place(figure, i * WIDTH + 56, table + key + 40, WIDTH - 78, plots - 76)
        assert chart.panel is not None
        chart.panel(axes)
    add_legend(figure, shown, table + 8, 12)
    _draw_table(figure, report, table)
    return figure


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text at a place in units."""
    width, height = figure.get_figwidth() / UNIT, figure.get_figheight() / UNIT
    figure.text(x / width, y / height, text, **({"size": TEXT, "color": INK} | style))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _draw_table(figure: Figure, report: Report, top: float) -> None:
    shown = _excerpt(report)
    left, step = 220, (_WIDE - 232) / len(shown)
    _write(figure, 12, top - _HEAD + 8, "Method", weight="bold")
    for j, column in enumerate(shown):
        x = left + (j + 1) * step
        label = "\n".join(wrap(column.label, step - 14).splitlines()[:2])
        _write(figure, x, top - _HEAD + 23, label, ha="right", va="bottom", weight="bold", linespacing=1.05)
        _write(figure, x, top - _HEAD + 8, column.note, ha="right", color=MUTED)
    for i, method in enumerate(report.methods):
        y = top - _HEAD - (i + 1) * _ROW + 8
        rule = figure.add_artist(_rule(y + 15.5, figure))
        rule.set_zorder(0)
        style = {"style": "italic", "color": MUTED} if method.reference else {}
        _write(figure, 12, y, _short(method.label, 30), **style)
        for j, column in enumerate(shown):
            cell = column.cells[i]
            weight = "bold" if cell.best else "normal"
            _write(figure, left + (j + 1) * step, y, cell.text, ha="right", weight=weight, **style)


def _rule(y: float, figure: Figure) -> Line2D:
    height = y * UNIT / figure.get_figheight()
    return Line2D(
        [12 / _WIDE, 1 - 12 / _WIDE], [height, height], color=RULE, linewidth=0.8, transform=figure.transFigure
    )
