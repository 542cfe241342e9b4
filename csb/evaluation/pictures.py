"""Pictures of posterior samples: images in rows, vectors as points; written as PNG files, atomically."""

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from csb.errors import CSBError
from csb.evaluation import plots
from csb.evaluation.plots import Tile
from csb.problems import Problem

SAMPLE_COLUMNS = 6
MAX_ROWS = 12


class Shown(NamedTuple):
    """Images of 1 or 3 channels: truth (B, C, H, W), observation (B, C', h, w); the values drawn black and white."""

    truth: Tensor
    observation: Tensor
    value_range: tuple[float, float]


def as_images(problem: Problem, x: Tensor, y: Tensor) -> Shown:
    """Pairs x (B, C, H, W) and y (B, C', h, w) or (B, d) for a picture; a vector y is drawn as a row of cells.

    Digits and their observations are drawn from 0 to 1, other images from their least to their largest value in x, to
    which range y is brought.
    """
    truth, seen = drawn_channels(x), y[:, None, None] if y.ndim == 2 else drawn_channels(y)
    if problem.is_digit:
        return Shown(truth, seen, (0.0, 1.0))
    low, high = float(truth.min()), float(truth.max())
    if not low < high:
        high = low + 1
    width = (seen.max() - seen.min()).clamp_min(1e-12)
    return Shown(truth, low + (high - low) * (seen - seen.min()) / width, (low, high))


def drawn_channels(x: Tensor) -> Tensor:
    """Of images (…, C, H, W) the channels that are drawn: three are red, green and blue, else the first is grey."""
    return x if x.shape[-3] == 3 else x[..., :1, :, :]


def draw_samples(
    path: Path, problem: Problem, x: Tensor, y: Tensor, samples: Tensor, exact: Tensor | None, title: str
) -> Path | None:
    """The picture of samples (B, n, *x_shape) of pairs x, y; for vectors, exact samples (B, m, d) where there are any.

    None, and nothing drawn, for x of one number: a point on a line makes no scatter plot.
    """
    if problem.x_shape == (1,):
        return None
    if problem.is_image:
        truth, seen, value_range = as_images(problem, x, y)
        return posterior_grid(path, truth, seen, drawn_channels(samples), title, value_range=value_range)
    return posterior_scatter(path, y, samples, exact, x, title)


def to_rgb(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Images (…, C, H, W), C = 1 or 3, as (…, H, W, 3) from 0 to 1; values outside the range are clipped."""
    low, high = value_range
    shown = np.moveaxis(np.clip((images - low) / (high - low), 0, 1), -3, -1)
    return np.broadcast_to(shown, (*shown.shape[:-1], 3))


def posterior_grid(
    path: str | os.PathLike[str],
    truth: Tensor,
    observation: Tensor,
    samples: Tensor,
    title: str,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Path:
    """Posterior samples of images: a row an observation.

    Columns: truth, observation, up to 6 samples, then over all n samples the posterior mean, the pixel std and the
    absolute error of the mean, of a colour image averaged over its channels. Std and error share one colour scale:
    where the posterior is calibrated they match.

    Args:
        path: the PNG to write, which is returned.
        truth: (B, C, H, W), 1 ≤ B ≤ 12; C = 1, grey, or 3: red, green and blue.
        observation: (B, C', h, w), drawn as it is; its size may differ from the truth's.
        samples: (B, n, C, H, W), n ≥ 2.
        value_range: the values drawn black and white, or as no colour and full colour; others are clipped.

    Raises:
        CSBError: shapes that do not fit, NaN, or a B or n out of range.
    """
    B, shapes = len(truth), (tuple(truth.shape), tuple(observation.shape), tuple(samples.shape))
    if tuple(map(len, shapes)) != (4, 4, 5) or not {truth.shape[1], observation.shape[1]} <= {1, 3}:
        raise CSBError(
            "truth, observation and samples have shapes {}, {} and {}; expected (B, C, H, W), (B, C', h, w) and "
            "(B, n, C, H, W) of 1 or 3 channels".format(*shapes)
        )
    if len(observation) != B or len(samples) != B or samples.shape[2:] != truth.shape[1:]:
        raise CSBError(
            "truth {}, observation {} and samples {} differ in B or in the size of the image; give the same "
            "observations to all three".format(*shapes)
        )
    if not 1 <= B <= MAX_ROWS or samples.shape[1] < 2:
        raise CSBError(f"B={B} observations, n={samples.shape[1]} samples; a grid shows 1 to {MAX_ROWS} rows of n ≥ 2")
    x, y, draws = _array("truth", truth), _array("observation", observation, 0.0), _array("samples", samples)
    mean = draws.mean(1)
    std, error = draws.std(1, ddof=1).mean(1), np.abs(mean - x).mean(1)
    top = max(float(np.percentile(np.stack([std, error]), 99.8)), 1e-6)
    columns = {"truth": x, "observation": y}
    columns |= {f"sample {i + 1}": draws[:, i] for i in range(min(SAMPLE_COLUMNS, draws.shape[1]))}
    shown = {caption: to_rgb(images, value_range) for caption, images in {**columns, "mean": mean}.items()}
    plots.write_png(Path(path), _draw_grid({**shown, "std": std, "|mean − truth|": error}, top, title))
    return Path(path)


def _array(name: str, x: Tensor, missing: float | None = None) -> np.ndarray:
    """As an array, with a value in place of what is missing, NaN, where that may be."""
    gaps = x.isnan() if missing is not None else torch.zeros((), dtype=torch.bool)
    if not bool((torch.isfinite(x) | gaps).all()):
        raise CSBError(f"{name} of shape {tuple(x.shape)} holds NaN or infinite values; expected finite ones to draw")
    shown = x if missing is None else x.masked_fill(gaps, missing)
    return shown.detach().cpu().double().numpy()


@plots.drawing()
def _draw_grid(columns: dict[str, np.ndarray], top: float, title: str) -> Figure:
    """Cells of one size: images (B, H, W, 3), and maps (B, H, W) that share a scale from 0 to ``top`` and its bar."""
    first = columns["truth"]
    rows, cell = len(first), (plots.WIDE - 70) / len(columns)
    figure = plots.new_figure(plots.WIDE, rows * cell * max(1.0, first.shape[1] / first.shape[2]) + 40, title)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for j, (caption, images) in enumerate(columns.items()):
        axes[0, j].set_title(plots.wrap(caption, cell), loc="center", fontsize=plots.SMALL)
        for one, image in zip(axes[:, j], images):
            drawn = one.imshow(image, interpolation="nearest", cmap="magma", vmin=0, vmax=top)
            one.set(xticks=[], yticks=[])
            one.spines[:].set(visible=True, color=plots.RULE)
    place = {"fraction": 0.02, "pad": 0.01, "aspect": min(40, 14 * rows)}
    bar = figure.colorbar(drawn, ax=axes, extend="max", extendfrac=0.03, **place)
    bar.outline.set_visible(False)  # pyright: ignore
    bar.ax.tick_params(labelsize=plots.SMALL)
    return figure


def posterior_scatter(
    path: str | os.PathLike[str], observations: Tensor, samples: Tensor, exact: Tensor | None, truth: Tensor, title: str
) -> Path:
    """Posterior samples of points: a panel an observation, with marginal histograms along its edges.

    Grey: exact posterior samples; blue: the method's; red cross: the truth. Of points in d > 2 dimensions the first
    two coordinates are drawn. Each panel's limits hold the central 99.8 % of its exact (or own) samples and the truth.

    Args:
        path: the PNG to write, which is returned.
        observations: (B, …), printed above each panel when it has at most 5 values.
        samples: (B, n, d), d ≥ 2, 1 ≤ B ≤ 12.
        exact: (B, m, d), or None where no exact posterior is known.
        truth: (B, d).

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
    e = [None] * B if exact is None else _array("exact", exact)[..., :2]
    labels = [observation_label(y) for y in _array("observations", observations, np.nan).reshape(B, -1)]
    drawn = [Tile(labels[i], partial(_draw_points, x=x[i], e=e[i], t=t[i])) for i in range(B)]
    across = 3 if B in (5, 6, 9) else min(B, 4)
    side = min(plots.WIDE / across, 400)
    with plots.drawing():
        figure = plots.tiled(drawn, (side, side), across=across, title=title)
    plots.write_png(Path(path), figure)
    return Path(path)


def observation_label(y: np.ndarray) -> str:
    """A short observation (d,) in words; "" for a long one."""
    numbers = ", ".join(f"{v:.2f}" for v in y).replace("-", "−").replace("nan", "?")
    return f"y\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}({numbers})" if len(y) <= 5 else ""


def _draw_points(axes: Axes, x: np.ndarray, e: np.ndarray | None, t: np.ndarray) -> None:
    if e is not None:
        axes.scatter(*e.T, s=2 * plots.dot_area(len(e)), c=plots.DOTS, linewidths=0, label="exact")
    axes.scatter(*x.T, s=plots.dot_area(len(x)), c=plots.BLUE, alpha=0.6, linewidths=0, label="samples")
    axes.scatter(*t, s=90, c=plots.RED, marker="x", linewidths=2, label="truth", zorder=3)
    limits = plots.limits_of(x if e is None else e, t)
    axes.set(xlim=limits[0], ylim=limits[1])
    for k, (place, side) in enumerate((((0, 1.01, 1, 0.16), "vertical"), ((1.01, 0, 0.16, 1), "horizontal"))):
        margin = axes.inset_axes(place)
        line = {"color": plots.BLUE, "histtype": "step", "linewidth": 1.2}
        for points, style in ((e, {"color": plots.DOTS}), (x, line)):
            if points is not None:
                share = np.full(len(points), 1 / len(points))  # of all, also of those beyond the limits
                margin.hist(points[:, k], 40, range=limits[k], weights=share, orientation=side, **style)  # pyright: ignore
        (margin.axvline if k == 0 else margin.axhline)(t[k], color=plots.RED, linewidth=1.2)
        (margin.set_xlim if k == 0 else margin.set_ylim)(limits[k])
        margin.set_axis_off()
