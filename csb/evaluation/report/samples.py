"""Pictures of posterior samples: one strip of images, or one scatter, a method, aligned over methods."""

import io
from typing import NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.image import imsave

from csb.evaluation.report.grids import Grid, ImageGrid, PointGrid
from csb.evaluation.report.model import Report, Row
from csb.evaluation.report.style import (
    DOTS,
    INK,
    Tile,
    add_dots,
    data_uri,
    download,
    drawing,
    inline_svg,
    single_tiles,
    styles,
    tiles,
)

SHOWN = 4  # samples in a strip, before the mean and the standard deviation
MAX_POINTS = 800  # of one law in a scatter
_SIDE = 132  # units: height of a scatter


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


class PointBlock(NamedTuple):
    """One observation: a panel a method, and all of them as one figure to download."""

    title: str
    tiles: list[Markup]
    download: str


def image_blocks(report: Report, grid: ImageGrid) -> tuple[list[ImageBlock], int, float]:
    """The blocks, how many samples a strip shows, and the standard deviation drawn brightest (one for all blocks)."""
    shown = min(SHOWN, *(x.shape[1] for x in grid.samples.values()))
    spread = {name: x.std(1, ddof=1) for name, x in grid.samples.items()}
    top = max(float(np.percentile(np.stack(list(spread.values())), 99.8)), 1e-6)
    blocks = []
    for b in range(len(grid.truth)):
        strips = []
        for m in (m for m in report.methods if m.name in grid.samples):
            x = grid.samples[m.name][b]
            cells = [*x[:shown], x.mean(0)]
            rgb = [_grey(cell, grid) for cell in cells] + [_heat(spread[m.name][b] / top)]
            alt = f"{m.label}, observation {b + 1}: {shown} samples, their mean and standard deviation"
            strips.append(Strip(m.label, _png(_row(rgb)), alt))
        truth, seen = (_png(_row([_grey(part[b], grid)])) for part in (grid.truth, grid.observation))
        blocks.append(ImageBlock(f"Observation {b + 1}", truth, seen, strips))
    return blocks, shown, top


def _grey(image: np.ndarray, grid: ImageGrid) -> np.ndarray:
    low, high = grid.value_range
    value = np.clip((image - low) / (high - low), 0, 1)
    return np.repeat(np.round(255 * value).astype(np.uint8)[..., None], 3, axis=-1)


def _heat(image: np.ndarray) -> np.ndarray:
    return matplotlib.colormaps["magma"](np.clip(image, 0, 1), bytes=True)[..., :3]


def _row(cells: list[np.ndarray]) -> np.ndarray:
    """Cells side by side, doubled in size, with a transparent gap after each: (2H, Σ (2W + 4), 4)."""
    large = [np.pad(c.repeat(2, 0).repeat(2, 1), ((0, 0), (0, 0), (0, 1)), constant_values=255) for c in cells]
    gapped = [np.pad(c, ((0, 0), (2, 2), (0, 0))) for c in large] if len(cells) > 1 else large
    return np.concatenate(gapped, axis=1)


def _png(rgba: np.ndarray) -> str:
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(rgba.astype(np.uint8)), format="png")
    return data_uri(file.getvalue())


def point_blocks(report: Report, grid: PointGrid) -> list[PointBlock]:
    """A block an observation, with the same axes in all its panels."""
    blocks = []
    for b in range(len(grid.truth)):
        y = grid.observation[b]
        seen = f", y = ({', '.join(f'{v:.2f}' for v in y)})".replace("-", "−") if len(y) <= 5 else ""
        panels = [_panel(report, grid, b, m) for m in report.methods if m.name in grid.samples]
        with drawing():
            drawn = [inline_svg(one, f"points{b}-{i}", t.alt) for i, (t, one) in enumerate(single_tiles(panels, _SIDE))]
            whole = download(tiles(panels, _SIDE, 4))
        blocks.append(PointBlock(f"Observation {b + 1}{seen}", drawn, whole))
    return blocks


def _panel(report: Report, grid: PointGrid, b: int, method: Row) -> Tile:
    def draw(axes: Axes) -> None:
        if grid.exact is not None:
            add_dots(axes, grid.exact[b, :MAX_POINTS], DOTS, 2.2)
        add_dots(axes, grid.samples[method.name][b, :MAX_POINTS], styles(report)[method.name].color, 1.8)
        axes.scatter(*grid.truth[b, :2], s=60, c=INK, marker="x", linewidths=1.8, zorder=3)
        limits = _limits(grid, b)
        axes.set(xlim=limits[0], ylim=limits[1])
        axes.locator_params(nbins=4)

    behind = " in front of exact posterior samples" if grid.exact is not None else ""
    alt = f"Observation {b + 1}: samples of {method.label}{behind}; a cross marks the truth."
    return Tile(method.label, alt, draw)


def _limits(grid: PointGrid, b: int) -> list[tuple[float, float]]:
    """The central 99.6 % of the exact samples, or of every method's where there are none, and the truth."""
    sets = [grid.exact] if grid.exact is not None else list(grid.samples.values())
    points = np.concatenate([x[b, :, :2] for x in sets])
    truth = grid.truth[b, :2]
    low, high = np.minimum(np.percentile(points, 0.2, 0), truth), np.maximum(np.percentile(points, 99.8, 0), truth)
    pad = np.maximum(0.12 * (high - low), 1e-6)
    return [(float(a), float(c)) for a, c in zip(low - pad, high + pad)]


def blocks_of(report: Report, grid: Grid | None) -> dict[str, object]:
    """What the page's section on samples shows: image blocks, point blocks, or nothing."""
    if isinstance(grid, ImageGrid):
        blocks, shown, top = image_blocks(report, grid)
        return {"images": blocks, "shown": shown, "top_std": f"{top:.3g}"}
    return {} if grid is None else {"points": point_blocks(report, grid), "exact": grid.exact is not None}
