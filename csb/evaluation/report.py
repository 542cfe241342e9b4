"""The report of a comparison of posterior samplers: a page in one HTML file, JSON, Markdown and a picture."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from csb.evaluation import plots
from csb.evaluation.catalogue import (
    amount,
    columns,
    findings,
    groups,
    headline_keys,
    markdown,
    metrics_of,
    show,
)
from csb.evaluation.charts import Chart, accuracy_charts, calibration_charts
from csb.evaluation.diagnose import Diagnosis
from csb.evaluation.plots import UNIT, WIDE, data_uri, drawing, png
from csb.evaluation.rows import FORMAT, Report
from csb.evaluation.table import escape_markdown, format_value, markdown_table
from csb.files import write_atomically, write_json, write_text

_FOLDER = Path(__file__).parent
_PANELS = 3  # of the picture
_DIAGNOSES = {  # the figures of a diagnosis that the page shows, and words in place of each
    "corner": "Corner plot of one posterior beside the prior",
    "recovery": "Posterior means and intervals over the truth, parameter by parameter",
    "coverage": "Coverage of credible intervals, parameter by parameter",
    "sbc_ecdf": "Distribution of the truth's ranks less the uniform one, parameter by parameter",
    "z_contraction": "Z-scores over the contraction, parameter by parameter",
    "loss": "Training and validation losses of each half-step",
}


def write_report(
    report: Report,
    samples: Sequence[Figure],
    folder: str | os.PathLike[str],
    diagnosis: Diagnosis | None = None,
) -> dict[str, Path]:
    """Write report.html, report.json, report.md and report.png, each atomically, once all four are ready.

    Args:
        report: see :class:`Report`.
        samples: a picture of samples for each of some observations.
        folder: made where it is missing.
        diagnosis: of the first method, parameter by parameter, for the page and the Markdown; None for none.

    Returns:
        The paths by their ending: "html", "json", "md", "png".

    Raises:
        CSBError: a folder that cannot be written.
    """
    page, text, picture = render(report, samples, diagnosis), render_markdown(report, diagnosis), png(overview(report))
    paths = {ending: Path(folder) / f"report.{ending}" for ending in ("html", "json", "md", "png")}
    write_text(paths["html"], page)
    write_json(paths["json"], {"format": FORMAT, **vars(report)})
    write_text(paths["md"], text)
    write_atomically(paths["png"], lambda file: file.write(picture))
    return paths


def render(report: Report, samples: Sequence[Figure], diagnosis: Diagnosis | None = None) -> str:
    """The page. Everything from the report is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"slug": _slug, "show": show, "amount": amount, "cell": format_value}
    table, found = columns(report), diagnosis or Diagnosis([], {})
    figures = {alt: found.figures[name] for name, alt in _DIAGNOSES.items() if name in found.figures}
    return environment.get_template("page.html.jinja").render(
        report=report,
        css=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        accuracy=[*map(_chart, accuracy_charts(report))],
        calibration=[*map(_chart, calibration_charts(report))],
        samples=[_image(f"Samples of every method, observation {b}", one) for b, one in enumerate(samples, start=1)],
        diagnosis=found.table,
        diagnoses=[_image(alt, figure) for alt, figure in figures.items()],
        columns=table,
        groups=groups(table),
        findings=findings(report, headline_keys(report)),
        metrics=[m for m in metrics_of(report) if any(c.key == m.key for c in table)],
        with_sweeps=[m for m in report.methods if m.sweeps],
    )


def _slug(text: str) -> str:
    """An id for a page: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def _image(alt: str, figure: Figure) -> dict[str, Any]:
    return {"alt": alt, "image": data_uri(png(figure)), "width": round(figure.get_figwidth() / UNIT)}


def _chart(chart: Chart) -> dict[str, Any]:
    """A chart as the template takes it, as SVG."""
    figure, file = chart.figure(), io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    width = round(figure.get_figwidth() / UNIT)
    return chart._asdict() | {"image": data_uri(file.getvalue().encode(), "image/svg+xml"), "width": width}


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
    for label, sweep in [(m.label, sweep) for m in report.methods for sweep in m.sweeps]:
        rows = [{text(k): text(v) if isinstance(v, str) else v for k, v in row.items()} for row in sweep.rows]
        if sweep.chosen is not None:
            rows = [row | {"chosen": "yes" if i == sweep.chosen else ""} for i, row in enumerate(rows)]
        lines += [f"## {text(label)}: {text(sweep.title)}", "", markdown_table(rows)]
        lines += [text(sweep.note), ""] if sweep.note else []
    lines += ["## Glossary", ""]
    lines += [f"- **{text(m.label)}** ({m.sense}): {text(m.explanation or m.key)}" for m in metrics_of(report)]
    lines += ["", "## How to reproduce", "", *(f"    {line}" for line in report.command.splitlines()), ""]
    lines += [f"- {text(name)}: {text(str(value))}" for name, value in (report.settings | report.versions).items()]
    return "\n".join(lines).rstrip() + "\n"


@drawing()
def overview(report: Report) -> Figure:
    """The picture: accuracy against network evaluations, and calibration."""
    accuracy, calibration = accuracy_charts(report), [c for c in calibration_charts(report) if not c.tiled]
    order = {"coverage": 0, "std-error": 1, "tarp": 2}
    calibration.sort(key=lambda c: order.get(c.key, 9))
    charts = (accuracy[:1] + calibration + accuracy[1:])[:_PANELS]
    line = f"{report.problem}: {report.observations:,} observations, {report.samples:,} samples each"
    drawn = []
    for chart in charts:
        titles = dict.fromkeys((chart.title, chart.panels[0].label))  # of what, and of the vertical axis
        drawn.append(chart.panels[0]._replace(label="\n".join(titles)))
    shown = {look.label: look for chart in charts for look in chart.legend}  # one with its dashes comes after
    title = f"{report.title}\n{line}"
    if not drawn:
        return plots.new_figure(WIDE, 0, title)
    return plots.tiled(drawn, (WIDE / len(drawn), 300), title=title, legend=[*shown.values()])
