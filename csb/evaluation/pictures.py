"""Pictures of posteriors and of training, written as PNG files without touching matplotlib's global state."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from csb.errors import CSBError
from csb.files import write_atomically

DPI = 150
WIDTH = 8.0  # inches: 1200 pixels
SAMPLE_COLUMNS = 6
MAX_ROWS = 12
BLUE, GREY, RED, INK = "#1f6fb4", "#b8bcc2", "#d1352b", "#333333"


def _array(name: str, x: Tensor) -> np.ndarray:
    if not bool(torch.isfinite(x).all()):
        raise CSBError(f"{name} of shape {tuple(x.shape)} holds NaN or infinite values; expected finite ones to draw")
    return x.detach().cpu().double().numpy()


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.18 / height, title, ha="center", va="center", fontsize=11, color=INK)
    return figure


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    write_atomically(Path(path), lambda file: figure.savefig(file, format="png", dpi=DPI, facecolor="white"))
    return Path(path)


def posterior_grid(
    path: str | os.PathLike[str],
    truth: Tensor,
    observation: Tensor,
    samples: Tensor,
    title: str,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Path:
    """Posterior samples of images: a row an observation, 1200 pixels wide.

    Columns: truth, observation, up to 6 samples, then over all n samples the posterior mean, the pixel std and the
    absolute error of the mean. Std and error share one colour scale: where the posterior is calibrated they match.

    Args:
        path: the PNG to write, atomically.
        truth: (B, 1, H, W), 1 ≤ B ≤ 12.
        observation: (B, 1, h, w), drawn as it is; its size may differ from the truth's.
        samples: (B, n, 1, H, W), n ≥ 2.
        title: one line above the picture.
        value_range: the values drawn black and white; others are clipped.

    Returns:
        The path.

    Raises:
        CSBError: shapes that do not fit, NaN, or a B or n out of range.
    """
    _check_grid(truth, observation, samples)
    x, y, draws = _array("truth", truth)[:, 0], _array("observation", observation)[:, 0], _array("samples", samples)
    draws = draws[:, :, 0]
    mean, std = draws.mean(1), draws.std(1, ddof=1)
    error = np.abs(mean - x)
    shown = min(SAMPLE_COLUMNS, draws.shape[1])
    grey = {"cmap": "gray", "vmin": value_range[0], "vmax": value_range[1]}
    heat = {"cmap": "magma", "vmin": 0.0, "vmax": max(float(np.percentile(np.stack([std, error]), 99.8)), 1e-6)}
    columns = [("truth", x, grey), ("observation", y, grey)]
    columns += [(f"sample {i + 1}", draws[:, i], grey) for i in range(shown)]
    columns += [("mean", mean, grey), ("std", std, heat), ("|mean − truth|", error, heat)]
    return write_figure(_draw_grid(columns, title, groups=(2, 2 + shown)), path)


def _check_grid(truth: Tensor, observation: Tensor, samples: Tensor) -> None:
    B = len(truth)
    if (
        truth.ndim != 4
        or observation.ndim != 4
        or samples.ndim != 5
        or truth.shape[1] != 1
        or observation.shape[1] != 1
    ):
        raise CSBError(
            f"truth, observation and samples have shapes {tuple(truth.shape)}, {tuple(observation.shape)} and "
            f"{tuple(samples.shape)}; expected (B, 1, H, W), (B, 1, h, w) and (B, n, 1, H, W)"
        )
    if len(observation) != B or len(samples) != B or samples.shape[2:] != truth.shape[1:]:
        raise CSBError(
            f"truth {tuple(truth.shape)}, observation {tuple(observation.shape)} and samples {tuple(samples.shape)} "
            "differ in B or in the size of the image; give the same observations to all three"
        )
    if not 1 <= B <= MAX_ROWS or samples.shape[1] < 2:
        raise CSBError(f"B={B} observations, n={samples.shape[1]} samples; a grid shows 1 to {MAX_ROWS} rows of n ≥ 2")


def _draw_grid(columns: list[tuple[str, np.ndarray, dict]], title: str, groups: tuple[int, int]) -> Figure:
    """Cells of one size; a wider gap before the columns in ``groups``; one colour bar for the heat columns."""
    rows, count = len(columns[0][1]), len(columns)
    gap, wide, left, right, top, bottom = 0.04, 0.16, 0.08, 0.62, 0.62, 0.08
    cell = (WIDTH - left - right - gap * (count - 1) - wide * len(groups)) / count
    height_cell = cell * max(1.0, columns[0][1].shape[1] / columns[0][1].shape[2])
    height = top + bottom + rows * height_cell + (rows - 1) * gap
    figure = _figure(WIDTH, height, title)
    at = left
    image = None
    for i, (caption, pictures, style) in enumerate(columns):
        at += wide if i in groups else 0
        figure.text((at + cell / 2) / WIDTH, 1 - 0.5 / height, caption, ha="center", va="center", fontsize=7, color=INK)
        for row in range(rows):
            low = bottom + (rows - 1 - row) * (height_cell + gap)
            axes = figure.add_axes((at / WIDTH, low / height, cell / WIDTH, height_cell / height))
            image = axes.imshow(pictures[row], interpolation="nearest", **style)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=GREY, linewidth=0.5)
        at += cell + gap
    assert image is not None  # there is at least one column
    bar_height = min(height - top - bottom, 2.2)
    bar = figure.add_axes(
        ((at + 0.06) / WIDTH, (height - top - bar_height) / height, 0.09 / WIDTH, bar_height / height)
    )
    figure.colorbar(image, cax=bar, extend="max", extendfrac=0.03).outline.set_visible(False)  # pyright: ignore
    bar.tick_params(labelsize=6, length=2, width=0.5, pad=1, color=INK, labelcolor=INK)
    bar.locator_params(nbins=5)
    return figure


def posterior_scatter(
    path: str | os.PathLike[str],
    observations: Tensor,
    samples: Tensor,
    exact: Tensor | None,
    truth: Tensor,
    title: str,
) -> Path:
    """Posterior samples of points: a panel an observation, with marginal histograms along its edges.

    Grey: exact posterior samples; blue: the method's; red cross: the truth. Of points in d > 2 dimensions the first
    two coordinates are drawn. Each panel's limits hold the central 99.8 % of its exact (or own) samples and the truth.

    Args:
        path: the PNG to write, atomically.
        observations: (B, …), printed above each panel when it has at most 5 values.
        samples: (B, n, d), d ≥ 2, 1 ≤ B ≤ 12.
        exact: (B, m, d), or None where no exact posterior is known.
        truth: (B, d).
        title: one line above the picture.

    Returns:
        The path.

    Raises:
        CSBError: shapes that do not fit, NaN, or a B out of range.
    """
    B, d = len(truth), truth.shape[-1]
    sets = [samples] if exact is None else [samples, exact]
    fits = truth.ndim == 2 and d >= 2 and len(observations) == B
    if not fits or any(s.ndim != 3 or len(s) != B or s.shape[1] < 2 or s.shape[2] != d for s in sets):
        shapes = ", ".join(str(tuple(s.shape)) for s in (observations, *sets, truth))
        raise CSBError(f"shapes {shapes}; expected observations (B, …), sample sets (B, n ≥ 2, d ≥ 2), truth (B, d)")
    if not 1 <= B <= MAX_ROWS:
        raise CSBError(f"B={B} observations; a scatter picture shows 1 to {MAX_ROWS}, choose some")
    x, t = _array("samples", samples)[..., :2], _array("truth", truth)[:, :2]
    e = None if exact is None else _array("exact", exact)[..., :2]
    labels = [_observation_label(y) for y in _array("observations", observations).reshape(B, -1)]
    across = 3 if B in (5, 6, 9) else min(B, 4)
    panel = WIDTH / max(across, 2)
    tall = panel - 0.2  # a panel's margins take less height than width
    figure = _figure(panel * across, tall * math.ceil(B / across) + 0.5, title)
    for i in range(B):
        corner = (i % across * panel, (math.ceil(B / across) - 1 - i // across) * tall)
        _draw_panel(figure, corner, panel, x[i], None if e is None else e[i], t[i], labels[i])
    _legend(figure)
    return write_figure(figure, path)


def _legend(figure: Figure) -> None:
    """One legend for all panels, under the title."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    anchor = (0.5, 1 - 0.3 / figure.get_figheight())
    legend = figure.legend(handles, names, loc="upper center", bbox_to_anchor=anchor, ncols=3, fontsize=8, borderpad=0)
    legend.set_frame_on(False)
    for handle in legend.legend_handles:
        handle.set(sizes=[22], alpha=1)  # pyright: ignore


def _observation_label(y: np.ndarray) -> str:
    return f"y = ({', '.join(f'{v:.2f}' for v in y)})".replace("-", "−") if len(y) <= 5 else ""


def _draw_panel(
    figure: Figure, corner: tuple[float, float], size: float, x: np.ndarray, e: np.ndarray | None, t: np.ndarray, y: str
) -> None:
    width, height = figure.get_size_inches()
    left, low, edge, pad = corner[0] + 0.4, corner[1] + 0.28, 0.2 * (size / 2), 0.03
    side = size - 0.4 - 0.1 - edge - pad - 0.2

    def place(x0: float, y0: float, w: float, h: float) -> Axes:
        return figure.add_axes((x0 / width, y0 / height, w / width, h / height))

    axes = place(left, low, side, side)
    margins = place(left, low + side + pad, side, edge), place(left + side + pad, low, edge, side)
    if e is not None:
        axes.scatter(*e.T, s=4 * dot_area(len(e)), c=GREY, linewidths=0, label="exact")
    axes.scatter(*x.T, s=dot_area(len(x)), c=BLUE, alpha=0.6, linewidths=0, label="samples")
    axes.scatter(*t, s=50, c=RED, marker="x", linewidths=1.6, label="truth", zorder=3)
    limits = limits_of(x if e is None else e, t)
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.tick_params(labelsize=6, length=2, width=0.5, pad=1.5, color=INK, labelcolor=INK)
    axes.locator_params(nbins=4)
    for spine in axes.spines.values():
        spine.set(color=GREY, linewidth=0.7)
    for k, margin in enumerate(margins):
        side_way = "vertical" if k == 0 else "horizontal"
        style = {"bins": 40, "range": limits[k], "orientation": side_way}
        if e is not None:
            margin.hist(e[:, k], weights=np.full(len(e), 1 / len(e)), color=GREY, **style)
        margin.hist(x[:, k], weights=np.full(len(x), 1 / len(x)), histtype="step", color=BLUE, linewidth=0.9, **style)
        (margin.axvline if k == 0 else margin.axhline)(t[k], color=RED, linewidth=0.8)
        (margin.set_xlim if k == 0 else margin.set_ylim)(limits[k])
        margin.set_axis_off()
    margins[0].set_title(y, fontsize=7, color=INK, pad=2)


def dot_area(n: int) -> float:
    """Marker area: smaller for more points."""
    return float(np.clip(2000 / n, 0.8, 6))


def limits_of(points: np.ndarray, t: np.ndarray) -> list[tuple[float, float]]:
    low, high = np.minimum(np.percentile(points, 0.1, 0), t), np.maximum(np.percentile(points, 99.9, 0), t)
    pad = np.where(high > low, 0.08 * (high - low), 1e-6 * np.maximum(np.abs(high), 1))
    return [(float(a), float(b)) for a, b in zip(low - pad, high + pad)]


def loss_curve(
    path: str | os.PathLike[str], steps: Sequence[float], losses: Sequence[float], boundaries: Sequence[float]
) -> Path:
    """The training loss, its running median, and a dashed line where each half-step begins. Returns the path.

    Args:
        path: the PNG to write, atomically.
        steps, losses: of one length ≥ 1; the loss may be negative. A positive one that spans a factor of 20 gets a
            logarithmic axis.
        boundaries: steps at which a half-step ends and the next begins.

    Raises:
        CSBError: lengths differ, no points, or values that are not finite.
    """
    s, v = np.asarray(steps, dtype=float), np.asarray(losses, dtype=float)
    if s.ndim != 1 or s.shape != v.shape or len(s) == 0:
        raise CSBError(f"steps and losses have shapes {s.shape} and {v.shape}; expected two lists of one length ≥ 1")
    if not (np.isfinite(s).all() and np.isfinite(v).all()):
        raise CSBError("steps or losses hold NaN or infinite values; expected finite ones: did training diverge?")
    figure = _figure(WIDTH, 3.4, "training loss")
    axes = figure.add_axes((0.09, 0.14, 0.89, 0.75))
    draw_losses(axes, s, v, boundaries)
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, color=INK, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="upper right")
    return write_figure(figure, path)


def draw_losses(axes: Axes, s: np.ndarray, v: np.ndarray, boundaries: Sequence[float]) -> None:
    """Draw losses v over steps s, as :func:`loss_curve` has them."""
    for boundary in boundaries:
        axes.axvline(boundary, color=INK, linewidth=0.7, linestyle=(0, (4, 3)), alpha=0.6)
    axes.plot(s, v, color=BLUE, linewidth=0.7, alpha=0.35, label="loss")
    axes.plot(s, _running_median(s, v, boundaries), color=BLUE, linewidth=1.6, label="running median")
    low, high = np.percentile(v, [1, 99])
    if low > 0 and high > 20 * low:
        axes.set_yscale("log")
    else:
        room = 0.12 * max(high - low, 1e-6)
        axes.set_ylim(min(v.min(), low) if v.min() > low - 3 * room else low - room, high + room)


def _running_median(s: np.ndarray, v: np.ndarray, boundaries: Sequence[float]) -> np.ndarray:
    """A median over about 1/40 of the points, which does not reach over a boundary."""
    half = max(1, len(v) // 80)
    piece = np.searchsorted(np.sort(np.asarray(boundaries, dtype=float)), s, side="right")
    result = np.empty_like(v)
    for p in np.unique(piece):
        own = v[piece == p]
        padded = np.pad(own, half, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
        result[piece == p] = np.median(windows, axis=1)
    return result
