"""Writes a report as a page, as JSON, as Markdown and as one picture."""

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csb.errors import CSBError
from csb.evaluation.diagnose import Diagnosis
from csb.evaluation.report.catalogue import headline_keys, metrics_of
from csb.evaluation.report.charts import Chart, accuracy_charts, calibration_charts
from csb.evaluation.report.model import Grid, ImageGrid, Report
from csb.evaluation.report.page import render
from csb.evaluation.report.table import Cell, Column, amount, columns, escape_markdown, markdown
from csb.evaluation.style import INK, MUTED, RULE, TEXT, WIDE, Look, add_legend, drawing, new_figure, png, wrap
from csb.evaluation.table import markdown_table, write_json, write_text
from csb.files import write_atomically

_PANELS, _METRICS = 3, 6  # of the picture
_ROW = 22  # units: height of a line of its table


def write_report(
    report: Report, grids: Grid | None, folder: str | os.PathLike[str], diagnosis: Diagnosis | None = None
) -> dict[str, Path]:
    """Writes report.html, report.json, report.md and report.png, each atomically, once all four are ready.

    Args:
        report: see :class:`Report`.
        grids: samples to draw, an :class:`ImageGrid` or :class:`PointGrid` by the report's kind, or None for none.
        folder: made where it is missing.
        diagnosis: of the first method, parameter by parameter, for the page and the Markdown; None for none.

    Returns:
        The paths by their ending: "html", "json", "md", "png".

    Raises:
        CSBError: a report with values that are none, a grid of the wrong kind or with an unknown method, or a folder
            that cannot be written.
    """
    plain = report.to_plain()
    if grids is not None:
        known = [method.name for method in report.methods]
        if isinstance(grids, ImageGrid) != (report.kind == "images") or not grids.samples.keys() <= set(known):
            raise CSBError(
                f"a report on {report.kind} of {', '.join(known)} got a {type(grids).__name__} of "
                f"{', '.join(grids.samples)}; give samples of its kind and methods, or None"
            )
    page, text, picture = render(report, grids, diagnosis), render_markdown(report, diagnosis), png(overview(report))
    paths = {ending: Path(folder) / f"report.{ending}" for ending in ("html", "json", "md", "png")}
    write_text(paths["html"], page)
    write_json(paths["json"], plain)
    write_text(paths["md"], text)
    write_atomically(paths["png"], lambda file: file.write(picture))
    return paths


def render_markdown(report: Report, diagnosis: Diagnosis | None = None) -> str:
    """The report without charts: warnings, tables, sweeps, glossary, command."""
    text = escape_markdown
    facts = f"{report.observations:,} observations, {report.samples:,} samples each, seed {report.seed}"
    lines = [f"# {text(report.title)}", "", f"**{text(report.problem)}.** {text(report.description)}", ""]
    lines += [f"{facts}{', ' + text(report.date) if report.date else ''}.", ""]
    lines += [f"> **Warning:** {text(' '.join(w.split()))}\n" for w in report.warnings]
    lines += ["![overview](report.png)", "", "## All numbers", "", markdown(report)]
    if len(report.compared) > 1:
        lines += [
            "Bold: the best value of a column that ranks samplers, and what differs from it by no more than the "
            "standard error of the difference. The exact posterior and floors do not compete.",
            "",
        ]
    if diagnosis is not None:
        rows = [{**row, "parameter": text(str(row["parameter"]))} for row in diagnosis.table]
        lines += ["## Parameter by parameter", "", markdown_table(rows)]
    for m in report.methods:
        for sweep in m.sweeps:
            rows = [{text(k): text(v) if isinstance(v, str) else v for k, v in row.items()} for row in sweep.rows]
            if sweep.chosen is not None:
                rows = [row | {"chosen": "yes" if i == sweep.chosen else ""} for i, row in enumerate(rows)]
            lines += [f"## {text(m.label)}: {text(sweep.title)}", "", markdown_table(rows)]
            lines += [text(sweep.note), ""] if sweep.note else []
    lines += ["## Glossary", ""]
    lines += [f"- **{text(m.label)}** ({m.sense}): {text(m.explanation or m.key)}" for m in metrics_of(report)]
    lines += ["", "## How to reproduce", "", *(f"    {line}" for line in report.command.splitlines()), ""]
    for name, value in (report.settings | report.versions).items():
        lines.append(f"- {text(name)}: {text(str(value))}")
    return "\n".join(lines).rstrip() + "\n"


@drawing()
def overview(report: Report) -> Figure:
    """The picture: accuracy against network evaluations, calibration, and an excerpt of the table."""
    charts = _charts(report)
    plots, table = (300 if charts else 0), _ROW * (len(report.methods) + 3)
    line = f"{report.problem}: {report.observations:,} observations, {report.samples:,} samples each"
    figure = new_figure(WIDE, plots + table, f"{report.title}\n{line}")
    grid = figure.add_gridspec(
        2 if charts else 1, max(1, len(charts)), height_ratios=[plots, table] if charts else None
    )
    for i, chart in enumerate(charts):
        axes = figure.add_subplot(grid[0, i])
        chart.panels[0].draw(axes)
        titles = dict.fromkeys((chart.title, chart.panels[0].label))  # of what, and of the vertical axis
        axes.set_title("\n".join(wrap(title, WIDE / len(charts) - 40) for title in titles))
    _draw_table(figure.add_subplot(grid[-1, :]), report)
    shown = {look.label: look for chart in charts for look in chart.legend}  # one with its dashes comes after
    if shown:
        add_legend(figure, list[Look](shown.values()))
    return figure


def _charts(report: Report) -> list[Chart]:
    """Accuracy against evaluations first, then coverage, std against error and TARP, then the other charts."""
    accuracy, calibration = accuracy_charts(report), [c for c in calibration_charts(report) if not c.tiled]
    order = {"coverage": 0, "std-error": 1, "tarp": 2}
    calibration.sort(key=lambda c: order.get(c.key, 9))
    return (accuracy[:1] + calibration + accuracy[1:])[:_PANELS]


def _excerpt(report: Report) -> list[Column]:
    """NFE, time, and up to _METRICS metrics: those of the summary first, then the rest."""
    found = {c.key: c for c in columns(report)}
    costs = [Column("", "NFE", "a sample", "evaluations", [Cell(amount(m.evaluations)) for m in report.methods])]
    costs += [found["seconds"]] if "seconds" in found else []
    first = [key for key in headline_keys(report) if key in found]
    rest = [m.key for m in metrics_of(report) if m.key in found and m.key not in first]
    return costs + [found[key] for key in (first + rest)[:_METRICS]]


def _draw_table(axes: Axes, report: Report) -> None:
    """The excerpt, in units of rows: the head takes three."""
    shown, left = _excerpt(report), 0.2
    step = (1 - left) / len(shown)
    axes.set(xlim=(0, 1), ylim=(len(report.methods), -3))
    axes.set_axis_off()

    def write(x: float, row: float, text: str, **style: Any) -> None:
        axes.text(x, row, text, **{"va": "center", "color": INK, **style})

    write(0, -0.5, "Method", weight="bold")
    for j, column in enumerate(shown, start=1):
        label = "\n".join(wrap(column.label, WIDE * step - 28).splitlines()[:2])
        write(left + j * step, -1.1, label, ha="right", va="bottom", weight="bold", linespacing=1.05)
        write(left + j * step, -0.5, column.note, ha="right", color=MUTED)
    for i, method in enumerate(report.methods):
        axes.axhline(i, color=RULE, linewidth=0.8)
        style = {"style": "italic", "color": MUTED} if method.reference else {}
        name = method.label if len(method.label) <= 28 else f"{method.label[:27]}…"
        write(0, i + 0.5, name, fontsize=TEXT, **style)
        for j, column in enumerate(shown, start=1):
            cell = column.cells[i]
            write(left + j * step, i + 0.5, cell.text, ha="right", weight="bold" if cell.best else "normal", **style)
