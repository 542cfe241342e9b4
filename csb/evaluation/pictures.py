"""Pictures of posterior samples: images in rows, vectors as points."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from csb.bridge import Bridge
from csb.evaluation import plots
from csb.problems import Pairs, Problem
from csb.process import Stream, seeded

SAMPLE_COLUMNS = 6


class Shown(NamedTuple):
    """Images of 1 or 3 channels: truth (B, C, H, W), observation (B, C', h, w); the values drawn black and white."""

    truth: Tensor
    observation: Tensor
    value_range: tuple[float, float]


def as_images(problem: Problem, x: Tensor, y: Tensor) -> Shown:
    """Pairs x (B, C, H, W) and y (B, C', h, w) or (B, d) for a picture; a vector y is drawn as a row of cells.

    Pixels and their observations are drawn from 0 to 1, other images from their least to their largest value in x, to
    which range y is brought.
    """
    truth, seen = drawn_channels(x), y[:, None, None] if y.ndim == 2 else drawn_channels(y)
    if problem.is_pixels:
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
) -> bool:
    """Write :func:`samples_figure` as PNG, atomically; False, and no file, where there is nothing to draw."""
    return plots.write_png(path, samples_figure(problem, x, y, samples, exact, title))


def draw_bridge(
    path: Path, bridge: Bridge, problem: Problem, pairs: Pairs, n: int, seed: int, stream: Stream, title: str
) -> bool:
    """:func:`draw_samples` of n samples of a bridge, and 1000 exact ones where there are any, for some pairs."""
    generator = seeded(seed, stream, device=bridge.device)
    samples, exact = bridge.sample(pairs.y, n, generator=generator).x.cpu(), None
    if problem.has_exact_posterior:
        laws = [problem.posterior(y) for y in pairs.y]
        exact = torch.stack([law.sample(1000, seeded(seed, stream, i)) for i, law in enumerate(laws)])
    return draw_samples(path, problem, pairs.x, pairs.y, samples, exact, title)


def samples_figure(
    problem: Problem,
    x: Tensor,
    y: Tensor,
    samples: Tensor,
    exact: Tensor | None,
    title: str,
    labels: Sequence[str] = (),
) -> Figure | None:
    """Draw samples (B, n, *x_shape) of pairs x, y; for vectors, exact samples (B, m, d) where there are any.

    ``labels``: of the B rows or panels, e.g. of methods. None for x of one number: a point on a line makes no scatter
    plot.
    """
    if problem.x_shape == (1,):
        return None
    if problem.is_image:
        truth, seen, value_range = as_images(problem, x, y)
        return posterior_grid(truth, seen, drawn_channels(samples), title, value_range=value_range, labels=labels)
    return posterior_scatter(y, samples, exact, x, title, labels)


def to_rgb(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Images (…, C, H, W), C = 1 or 3, as (…, H, W, 3) from 0 to 1; values outside the range are clipped."""
    low, high = value_range
    shown = np.moveaxis(np.clip((images - low) / (high - low), 0, 1), -3, -1)
    return np.broadcast_to(shown, (*shown.shape[:-1], 3))


@plots.drawing()
def posterior_grid(
    truth: Tensor,
    observation: Tensor,
    samples: Tensor,
    title: str,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    labels: Sequence[str] = (),
) -> Figure:
    """Posterior samples of images: a row an observation, or a method.

    Columns: truth, observation, up to 6 samples, then over all n samples the posterior mean, the pixel std and the
    absolute error of the mean, of a colour image averaged over its channels. Std and error share one colour scale:
    where the posterior is calibrated they match.

    Args:
        truth: (B, C, H, W); C = 1, grey, or 3: red, green and blue.
        observation: (B, C', h, w), drawn as it is, missing values as 0; its size may differ from the truth's.
        samples: (B, n, C, H, W), n ≥ 2.
        value_range: the values drawn black and white, or as no colour and full colour; others are clipped.
        labels: of the rows.
    """
    x, seen, draws = (part.detach().cpu().double().numpy() for part in (truth, observation.nan_to_num(0.0), samples))
    mean = draws.mean(1)
    std, error = draws.std(1, ddof=1).mean(1), np.abs(mean - x).mean(1)
    top = max(float(np.percentile(np.stack([std, error]), 99.8)), 1e-6)
    given = {"truth": x, "observation": seen}
    given |= {f"sample {i + 1}": draws[:, i] for i in range(min(SAMPLE_COLUMNS, draws.shape[1]))}
    columns = {caption: to_rgb(images, value_range) for caption, images in {**given, "mean": mean}.items()}
    columns |= {"std": std, "|mean − truth|": error}
    rows, cell = len(x), (plots.WIDE - 70) / len(columns)
    figure = plots.new_figure(plots.WIDE, rows * cell * max(1.0, x.shape[2] / x.shape[3]) + 40, title)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for j, (caption, images) in enumerate(columns.items()):
        axes[0, j].set_title(plots.wrap(caption, cell), loc="center", fontsize=plots.SMALL)
        for one, image in zip(axes[:, j], images):
            drawn = one.imshow(image, interpolation="nearest", cmap="magma", vmin=0, vmax=top)
            one.set(xticks=[], yticks=[])
            one.spines[:].set(visible=True, color=plots.RULE)
    for one, label in zip(axes[:, 0], labels):
        one.set_ylabel(plots.wrap(label, cell), rotation=0, ha="right", va="center", fontsize=plots.SMALL)
    place = {"fraction": 0.02, "pad": 0.01, "aspect": min(40, 14 * rows)}
    bar = figure.colorbar(drawn, ax=axes, extend="max", extendfrac=0.03, **place)
    bar.outline.set_visible(False)  # pyright: ignore
    bar.ax.tick_params(labelsize=plots.SMALL)
    return figure


@plots.drawing()
def posterior_scatter(
    observations: Tensor, samples: Tensor, exact: Tensor | None, truth: Tensor, title: str, labels: Sequence[str] = ()
) -> Figure:
    """Posterior samples of points: a panel an observation, or a method, with marginal histograms along its edges.

    Grey: exact posterior samples; blue: the method's; red cross: the truth. Of points in d > 2 dimensions the first
    two coordinates are drawn. Each panel's limits hold the central 99.8 % of its exact (or own) samples and the truth.

    Args:
        observations: (B, …), printed above each panel when it has at most 5 values.
        samples: (B, n, d), d ≥ 2.
        exact: (B, m, d), or None where no exact posterior is known.
        truth: (B, d).
        labels: of the panels, in place of the observations.
    """
    B = len(truth)
    x, t = (part.detach().cpu().double().numpy()[..., :2] for part in (samples, truth))
    e = [None] * B if exact is None else exact.double().cpu().numpy()[..., :2]
    labels = labels or [observation_label(y.double().cpu().flatten().numpy()) for y in observations]
    drawn = [plots.Tile(labels[i], partial(_draw_points, x=x[i], e=e[i], t=t[i])) for i in range(B)]
    across = 3 if B in (5, 6, 9) else min(B, 4)
    side = min(plots.WIDE / across, 400)
    return plots.tiled(drawn, (side, side), across=across, title=title)


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
