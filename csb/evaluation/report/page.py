"""The page: everything in one HTML file, figures included."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.image import imsave

from csb.evaluation.diagnose import Diagnosis
from csb.evaluation.pictures import to_rgb
from csb.evaluation.report.catalogue import headline_keys, metrics_of, show
from csb.evaluation.report.charts import Chart, accuracy_charts, calibration_charts, sample_charts
from csb.evaluation.report.model import Grid, ImageGrid, Report
from csb.evaluation.report.table import amount, columns, findings, groups
from csb.evaluation.style import SERIES, SERIES_DARK, UNIT, data_uri, download, inline_svg, png
from csb.evaluation.table import format_value

_FOLDER = Path(__file__).parent
_SHOWN = 4  # samples in a strip, before the mean and the standard deviation
_DIAGNOSES = {  # the figures of a diagnosis that the page shows, and words in place of each
    "corner": "Corner plot of one posterior beside the prior",
    "recovery": "Posterior means and intervals over the truth, parameter by parameter",
    "coverage": "Coverage of credible intervals, parameter by parameter",
    "sbc_ecdf": "Distribution of the truth's ranks less the uniform one, parameter by parameter",
    "z_contraction": "Z-scores over the contraction, parameter by parameter",
    "loss": "Training and validation losses of each half-step",
}


class Strip(NamedTuple):
    """A method's row: its label, and a data URI of equal cells side by side."""

    label: str
    image: str
    alt: str


class ImageBlock(NamedTuple):
    """One observation: data URIs of truth and observation, and a strip a method."""

    title: str
    truth: str
    observation: str
    strips: list[Strip]


def slug(text: str) -> str:
    """An id for a page: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def _figure(chart: Chart) -> dict[str, Any]:
    """A chart as the template takes it."""
    whole, key = chart.figure(), slug(chart.key)
    tiles = chart.tiles() if chart.tiled else []
    return {
        "key": key,
        "title": chart.title,
        "caption": chart.caption,
        "svg": "" if tiles else inline_svg(whole, key, chart.alt),
        "tiles": [inline_svg(drawn, f"{key}{i}", panel.alt) for i, (panel, drawn) in enumerate(tiles)],
        "download": download(whole),
    }


def _diagnoses(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    return [
        {"image": data_uri(png(figures[name])), "alt": alt, "width": round(figures[name].get_figwidth() / UNIT)}
        for name, alt in _DIAGNOSES.items()
        if name in figures
    ]


def _images(report: Report, grid: ImageGrid) -> dict[str, Any]:
    """The blocks, how many samples a strip shows, and the standard deviation drawn brightest (one for all blocks)."""
    shown = min(_SHOWN, *(x.shape[1] for x in grid.samples.values()))
    spread = {name: x.std(1, ddof=1).mean(-3) for name, x in grid.samples.items()}
    top = max(float(np.percentile(np.stack(list(spread.values())), 99.8)), 1e-6)
    blocks = []
    for b in range(len(grid.truth)):
        strips = []
        for m in (m for m in report.methods if m.name in grid.samples):
            x = grid.samples[m.name][b]
            cells = [*to_rgb(np.stack([*x[:shown], x.mean(0)]), grid.value_range), _heat(spread[m.name][b] / top)]
            alt = f"{m.label}, observation {b + 1}: {shown} samples, their mean and standard deviation"
            strips.append(Strip(m.label, _png(cells), alt))
        truth, seen = (_png([to_rgb(part[b], grid.value_range)]) for part in (grid.truth, grid.observation))
        blocks.append(ImageBlock(f"Observation {b + 1}", truth, seen, strips))
    return {"images": blocks, "shown": shown, "top_std": f"{top:.3g}"}


def _heat(image: np.ndarray) -> np.ndarray:
    return matplotlib.colormaps["magma"](np.clip(image, 0, 1))[..., :3]


def _png(cells: list[np.ndarray]) -> str:
    """Cells (H, W, 3) side by side, doubled in size, with a transparent gap around each of several."""
    gap = 2 * (len(cells) > 1)
    large = [np.pad(c.repeat(2, 0).repeat(2, 1), ((0, 0), (0, 0), (0, 1)), constant_values=1.0) for c in cells]
    row = np.concatenate([np.pad(c, ((0, 0), (gap, gap), (0, 0))) for c in large], axis=1)
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(np.round(255 * row).astype(np.uint8)), format="png")
    return data_uri(file.getvalue())


def _samples(report: Report, grid: Grid | None) -> dict[str, Any]:
    """What the page's section on samples shows: image blocks, charts of points, or nothing."""
    if isinstance(grid, ImageGrid):
        return _images(report, grid)
    if grid is None:
        return {}
    return {"points": [_figure(chart) for chart in sample_charts(report, grid)], "exact": grid.exact is not None}


def _palette() -> str:
    """CSS variables of the methods' colours in both schemes."""
    light, dark = (";".join(f"--s{i}:{c}" for i, c in enumerate(colors)) for colors in (SERIES, SERIES_DARK))
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def render(report: Report, grid: Grid | None, diagnosis: Diagnosis | None = None) -> str:
    """The page. Everything from the report is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"slug": slug, "show": show, "amount": amount, "cell": format_value}
    table = columns(report)
    return environment.get_template("page.html.jinja").render(
        report=report,
        css=Markup(_palette() + (_FOLDER / "page.css").read_text(encoding="utf-8")),
        accuracy=[_figure(chart) for chart in accuracy_charts(report)],
        calibration=[_figure(chart) for chart in calibration_charts(report)],
        samples=_samples(report, grid),
        diagnosis=[] if diagnosis is None else diagnosis.table,
        diagnoses=[] if diagnosis is None else _diagnoses(diagnosis.figures),
        columns=table,
        groups=groups(table),
        findings=findings(report, headline_keys(report)),
        metrics=[m for m in metrics_of(report) if any(c.key == m.key for c in table)],
        with_sweeps=[m for m in report.methods if m.sweeps],
    )
