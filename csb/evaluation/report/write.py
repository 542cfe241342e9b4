"""Writes a report as a page, as JSON, as Markdown and as one picture."""

import io
import os
import shutil
from pathlib import Path

from csb.evaluation.report.catalogue import metrics_of
from csb.evaluation.report.grids import Grid, check_grid
from csb.evaluation.report.html import render
from csb.evaluation.report.model import Report
from csb.evaluation.report.overview import overview
from csb.evaluation.report.style import drawing
from csb.evaluation.report.table import escape_markdown, markdown
from csb.evaluation.table import markdown_table, write_json, write_text
from csb.files import write_atomically

DPI = 144  # two pixels a unit


def write_report(report: Report, grids: Grid | None, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Writes report.html, report.json, report.md and report.png, each atomically, once all four are ready.

    Args:
        report: see :class:`Report`.
        grids: samples to draw, an :class:`ImageGrid` or :class:`PointGrid` by the report's kind, or None for none.
        folder: made where it is missing.

    Returns:
        The paths by their ending: "html", "json", "md", "png".

    Raises:
        CSBError: a grid of the wrong kind or with an unknown method, or a folder that cannot be written.
    """
    check_grid(report, grids)
    plain, page, text, picture = report.to_plain(), render(report, grids), render_markdown(report), _picture(report)
    paths = {ending: Path(folder) / f"report.{ending}" for ending in ("html", "json", "md", "png")}
    write_text(paths["html"], page)
    write_json(paths["json"], plain)
    write_text(paths["md"], text)
    write_atomically(paths["png"], lambda file: shutil.copyfileobj(io.BytesIO(picture), file))
    return paths


def _picture(report: Report) -> bytes:
    file = io.BytesIO()
    with drawing():
        overview(report).savefig(file, format="png", dpi=DPI, facecolor="white")
    return file.getvalue()


def render_markdown(report: Report) -> str:
    """The report without charts: warnings, table, sweeps, glossary, command."""
    text = escape_markdown
    facts = f"{report.observations:,} observations, {report.samples:,} samples each, seed {report.seed}"
    lines = [f"# {text(report.title)}", "", f"**{text(report.problem)}.** {text(report.description)}", ""]
    lines += [f"{facts}{', ' + text(report.date) if report.date else ''}.", ""]
    lines += [f"> **Warning:** {text(' '.join(w.split()))}\n" for w in report.warnings]
    lines += ["![overview](report.png)", "", "## All numbers", "", markdown(report)]
    lines += [
        "Bold: the best value of a column that ranks samplers, and what differs from it by no more than the standard "
        "error of the difference. The exact posterior and floors do not compete.",
        "",
    ]
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
