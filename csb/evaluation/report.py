"""The report of a comparison of posterior samplers: a page in one HTML file, JSON, Markdown and a picture."""

import io
import os
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

from csb.errors import CSBError
from csb.evaluation import plots
from csb.evaluation.catalogue import (
    Cell,
    Column,
    amount,
    columns,
    findings,
    groups,
    headline_keys,
    markdown,
    metrics_of,
    show,
)
from csb.evaluation.charts import Chart, accuracy_charts, calibration_charts, sample_charts
from csb.evaluation.diagnose import Diagnosis
from csb.evaluation.pictures import to_rgb
from csb.evaluation.plots import INK, MUTED, RULE, SERIES, TEXT, UNIT, WIDE, data_uri, drawing, png, wrap
from csb.evaluation.rows import Grid, ImageGrid, Report
from csb.evaluation.table import escape_markdown, format_value, markdown_table
from csb.files import write_atomically, write_json, write_text

_FOLDER = Path(__file__).parent
_SHOWN = 4  # samples in a strip, before the mean and the standard deviation
_PANELS, _METRICS = 3, 6  # of the picture
_ROW = 22  # units: height of a line of its table
_DIAGNOSES = {  # the figures of a diagnosis that the page shows, and words in place of each
    "corner": "Corner plot of one posterior beside the prior",
    "recovery": "Posterior means and intervals over the truth, parameter by parameter",
    "coverage": "Coverage of credible intervals, parameter by parameter",
    "sbc_ecdf": "Distribution of the truth's ranks less the uniform one, parameter by parameter",
    "z_contraction": "Z-scores over the contraction, parameter by parameter",
    "loss": "Training and validation losses of each half-step",
}
_THEME = {  # colours of a chart that are the page's
    **{getattr(plots, name): f"var(--{name.lower()})" for name in ("INK", "MUTED", "RULE", "BAND", "EXACT", "DOTS")},
    **{color: f"var(--s{i})" for i, color in enumerate(SERIES)},
}


def write_report(
    report: Report, grids: Grid | None, folder: str | os.PathLike[str], diagnosis: Diagnosis | None = None
) -> dict[str, Path]:
    """Write report.html, report.json, report.md and report.png, each atomically, once all four are ready.

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


def render(report: Report, grid: Grid | None, diagnosis: Diagnosis | None = None) -> str:
    """The page. Everything from the report is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"slug": _slug, "show": show, "amount": amount, "cell": format_value}
    light, dark = (";".join(f"--s{i}:{c}" for i, c in enumerate(of)) for of in (SERIES, plots.SERIES_DARK))
    palette = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    table, samples, found = columns(report), {}, diagnosis or Diagnosis([], {})
    if isinstance(grid, ImageGrid):
        samples = _images(report, grid)
    elif grid is not None:
        samples = {"points": [*map(_figure, sample_charts(report, grid))], "exact": grid.exact is not None}
    return environment.get_template("page.html.jinja").render(
        report=report,
        css=Markup(palette + (_FOLDER / "page.css").read_text(encoding="utf-8")),
        accuracy=[*map(_figure, accuracy_charts(report))],
        calibration=[*map(_figure, calibration_charts(report))],
        samples=samples,
        diagnosis=found.table,
        diagnoses=[
            {"image": data_uri(png(figure)), "alt": alt, "width": round(figure.get_figwidth() / UNIT)}
            for name, alt in _DIAGNOSES.items()
            if (figure := found.figures.get(name)) is not None
        ],
        columns=table,
        groups=groups(table),
        findings=findings(report, headline_keys(report)),
        metrics=[m for m in metrics_of(report) if any(c.key == m.key for c in table)],
        with_sweeps=[m for m in report.methods if m.sweeps],
    )


def _slug(text: str) -> str:
    """An id for a page: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def _figure(chart: Chart) -> dict[str, Any]:
    """A chart as the template takes it; its download, for a paper, has glyphs as outlines and the light colours."""
    whole, key = chart.figure(), _slug(chart.key)
    tiles = chart.tiles() if chart.tiled else []
    return chart._asdict() | {
        "key": key,
        "svg": "" if tiles else _inline_svg(whole, key, chart.alt),
        "tiles": [_inline_svg(drawn, f"{key}{i}", panel.alt) for i, (panel, drawn) in enumerate(tiles)],
        "download": data_uri(_svg(whole, "path").encode(), "image/svg+xml"),
    }


def _svg(figure: Figure, fonttype: str) -> str:
    """The figure as SVG with short paths: to a hundredth of a unit, and dots as lines of no length."""

    def shorter(path: re.Match[str]) -> str:
        d = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), path[0])
        return re.sub(r"M (\S+ \S+) ?\nL \1(?=\s|$)", r"M\1h0", d).replace(" \n", "\n")

    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with drawing(), matplotlib.rc_context({"svg.fonttype": fonttype}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing, dpi=216)
    figure.set_layout_engine("none")  # it has its layout now
    return re.sub(r'(?<= d=")[^"]+', shorter, file.getvalue())


def _inline_svg(figure: Figure, key: str, alt: str) -> Markup:
    """The figure for a page: text in the page's font, colours from its scheme, ids that start with the key."""
    body = _svg(figure, "none")
    body = re.sub(r"<style.*?</style>", "", body[body.index("<svg") :], flags=re.S)
    body = re.sub(r"<svg[^>]*>", "", body, count=1).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\1#{key}-", body)
    body = re.sub(r"\s*font-family: [^;\"]*;?", "", body)
    for color, variable in _THEME.items():
        body = body.replace(color, variable)
    body = re.sub(r"\n\s*", "\n", body)
    width, height = (side / UNIT for side in figure.get_size_inches())
    head = f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + body)


def _images(report: Report, grid: ImageGrid) -> dict[str, Any]:
    """The blocks, how many samples a strip shows, and the standard deviation drawn brightest (one for all blocks)."""
    shown = min(_SHOWN, *(x.shape[1] for x in grid.samples.values()))
    spread = {name: x.std(1, ddof=1).mean(-3) for name, x in grid.samples.items()}
    top = max(float(np.percentile(np.stack(list(spread.values())), 99.8)), 1e-6)
    blocks = []
    for b, pair in enumerate(zip(grid.truth, grid.observation), start=1):
        strips = []
        for m in (m for m in report.methods if m.name in grid.samples):
            x, std = grid.samples[m.name][b - 1], np.clip(spread[m.name][b - 1] / top, 0, 1)
            cells = to_rgb(np.stack([*x[:shown], x.mean(0)]), grid.value_range)
            image = _cells_png([*cells, matplotlib.colormaps["magma"](std)[..., :3]])
            alt = f"{m.label}, observation {b}: {shown} samples, their mean and standard deviation"
            strips.append({"label": m.label, "image": image, "alt": alt})
        truth, seen = (_cells_png([to_rgb(part, grid.value_range)]) for part in pair)
        blocks.append({"title": f"Observation {b}", "truth": truth, "observation": seen, "strips": strips})
    return {"images": blocks, "shown": shown, "top_std": f"{top:.3g}"}


def _cells_png(cells: list[np.ndarray]) -> str:
    """Cells (H, W, 3) side by side, doubled in size, with a transparent gap around each of several, as a data URI."""
    gap = 2 * (len(cells) > 1)
    large = [np.pad(c.repeat(2, 0).repeat(2, 1), ((0, 0), (0, 0), (0, 1)), constant_values=1.0) for c in cells]
    row = np.concatenate([np.pad(c, ((0, 0), (gap, gap), (0, 0))) for c in large], axis=1)
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(np.round(255 * row).astype(np.uint8)), format="png")
    return data_uri(file.getvalue())


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
    """The picture: accuracy against network evaluations, calibration, and an excerpt of the table."""
    accuracy, calibration = accuracy_charts(report), [c for c in calibration_charts(report) if not c.tiled]
    order = {"coverage": 0, "std-error": 1, "tarp": 2}
    calibration.sort(key=lambda c: order.get(c.key, 9))
    charts = (accuracy[:1] + calibration + accuracy[1:])[:_PANELS]
    plots_height, table = (300 if charts else 0), _ROW * (len(report.methods) + 3)
    line = f"{report.problem}: {report.observations:,} observations, {report.samples:,} samples each"
    figure = plots.new_figure(WIDE, plots_height + table, f"{report.title}\n{line}")
    heights = [plots_height, table] if charts else [table]
    grid = figure.add_gridspec(len(heights), max(1, len(charts)), height_ratios=heights)
    for i, chart in enumerate(charts):
        axes = figure.add_subplot(grid[0, i])
        chart.panels[0].draw(axes)
        titles = dict.fromkeys((chart.title, chart.panels[0].label))  # of what, and of the vertical axis
        axes.set_title("\n".join(wrap(title, WIDE / len(charts) - 40) for title in titles))
    _draw_table(figure.add_subplot(grid[-1, :]), report)
    shown = {look.label: look for chart in charts for look in chart.legend}  # one with its dashes comes after
    if shown:
        plots.add_legend(figure, [*shown.values()])
    return figure


def _draw_table(axes: Axes, report: Report) -> None:
    """NFE, time, and up to _METRICS metrics, those of the summary first; in units of rows: the head takes three."""
    found, left = {c.key: c for c in columns(report)}, 0.2
    nfe = Column("", "NFE", "a sample", "evaluations", [Cell(amount(m.evaluations)) for m in report.methods])
    keys = dict.fromkeys([*headline_keys(report), *(m.key for m in metrics_of(report))])
    chosen = [found[key] for key in keys if key in found][:_METRICS]
    shown = [nfe, *([found["seconds"]] if "seconds" in found else []), *chosen]
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
