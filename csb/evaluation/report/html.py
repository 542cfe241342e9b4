"""The page: everything in one HTML file, figures included."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from csb.evaluation.report.catalogue import headline_keys, metrics_of, show
from csb.evaluation.report.charts import RANKS, Chart, accuracy_charts, calibration_charts
from csb.evaluation.report.grids import Grid
from csb.evaluation.report.model import Report
from csb.evaluation.report.samples import blocks_of
from csb.evaluation.report.style import SERIES, SERIES_DARK, download, drawing, inline_svg, single_tiles
from csb.evaluation.report.table import amount, columns, findings, groups
from csb.evaluation.table import format_value

_FOLDER = Path(__file__).parent


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"slug": slug, "show": show, "amount": amount, "cell": format_value}
    return environment


def slug(text: str) -> str:
    """An id for a page: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def figure(chart: Chart) -> dict[str, Any]:
    """A chart as the template takes it."""
    with drawing():
        drawn, key = chart.draw(), slug(chart.key)
        return {
            "key": key,
            "title": chart.title,
            "caption": chart.caption,
            "svg": "" if chart.tiles else inline_svg(drawn, key, chart.alt),
            "tiles": [inline_svg(f, f"{key}{i}", t.alt) for i, (t, f) in enumerate(single_tiles(chart.tiles, RANKS))],
            "download": download(drawn),
        }


def palette() -> Markup:
    """CSS variables of the methods' colours in both schemes."""
    light, dark = (";".join(f"--s{i}:{c}" for i, c in enumerate(colors)) for colors in (SERIES, SERIES_DARK))
    return Markup(f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}")


def render(report: Report, grid: Grid | None) -> str:
    """The page. Everything from the report is escaped."""
    table = columns(report)
    keys = headline_keys(report)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            css=Markup(palette() + (_FOLDER / "page.css").read_text(encoding="utf-8")),
            compared=sum(not m.reference for m in report.methods),
            accuracy=[figure(chart) for chart in accuracy_charts(report)],
            calibration=[figure(chart) for chart in calibration_charts(report)],
            samples=blocks_of(report, grid),
            columns=table,
            groups=groups(table),
            findings=findings(report, keys),
            metrics=[m for m in metrics_of(report) if any(c.key == m.key for c in table)],
            with_sweeps=[m for m in report.methods if m.sweeps],
        )
    )
