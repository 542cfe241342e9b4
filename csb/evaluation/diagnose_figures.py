"""Figures of :mod:`csb.evaluation.diagnose`, each of checked numpy arrays; matplotlib's global state is not touched."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from scipy.ndimage import gaussian_filter, median_filter

from csb.evaluation import plots
from csb.evaluation.plots import Tile
from csb.metrics.calibration import LEVELS, Coverage
from csb.schema import Count, Name, Schema

MOST_POINTS = 100  # observations whose intervals are drawn
QUANTILES = (0.05, 0.25, 0.75, 0.95)  # that :func:`recovery` draws
_MASSES = (0.5, 0.9)  # of the regions in a corner plot
_SHADES = ("#e4e6e9", "#cfd2d7")  # of the prior's
_BINS, _MOST_Z = 40, 8.0
_HALF_STEPS = 16  # in the figure of losses
Window = list[tuple[float, float]]  # limits of each coordinate


class HalfStepLosses(Schema):
    """The losses of one half-step, or of any other training."""

    half_step: Name
    losses: Annotated[list[float], Field(min_length=1, description="means of ``every`` steps each, from the first on")]
    every: Count = 1
    validation: list[Annotated[tuple[Count, float], Field(strict=False)]] = Field(default=[], description="step, loss")
    kept_step: Count | None = Field(default=None, description="the step whose weights were kept")
    stopped: bool = Field(default=False, description="whether it ended before its last planned step")


@plots.drawing(math=True)
def _panels(title: str, labels: Sequence[str], draw: Callable[[Axes, int], None], x: str, y: str) -> Figure:
    """A panel a label, up to four side by side; ``draw`` is given the axes and the label's index."""
    width = plots.WIDE / min(4, max(2, len(labels)))
    drawn = [Tile(label, lambda axes, i=i: draw(axes, i)) for i, label in enumerate(labels)]
    return plots.tiled(drawn, (width, min(0.8 * width, 320)), title=title, x=x, y=y)


@plots.drawing(math=True)
def corner(
    posterior: np.ndarray, prior: np.ndarray, truth: np.ndarray | None, names: Sequence[str], note: str = ""
) -> Figure:
    """Draw the marginals of one posterior, and of each two parameters, beside the prior.

    Off the diagonal: samples, and the smallest regions of the mass 50 % and 90 % of both. The limits show the posterior
    with its width again to both sides, as far as the prior reaches.

    Args:
        posterior, prior: (n, k) and (M, k), samples.
        truth: (k,), or None where it is not known.
        note: further words of the title.
    """
    posterior, prior, k = np.asarray(posterior), np.asarray(prior), len(names)
    centre = posterior.mean(0) if truth is None else truth
    own, wide = plots.limits_of(posterior, centre), plots.limits_of(prior, centre)
    window = [
        (max(2 * low - high, min(low, first)), min(2 * high - low, max(high, last)))
        for (low, high), (first, last) in zip(own, wide)
    ]
    side = min(max(plots.WIDE / k, 130), 320)
    known = "" if truth is None else ", and the truth (red)"
    regions = ". Regions hold 50 and 90 % of the mass" if k > 1 else ""
    title = f"Posterior (blue) beside the prior (grey){known}{regions}{note}"
    figure = plots.new_figure(k * side, k * side * 0.9, title)
    grid = figure.subplots(k, k, squeeze=False)
    for i, j in itertools.product(range(k), repeat=2):
        axes = grid[i, j]
        if j > i:
            axes.remove()
            continue
        axes.set_xlim(window[j])
        axes.locator_params(nbins=3 if side > 200 else 2)
        if i == j:
            _densities(axes, posterior[:, i], prior[:, i], own[i], wide[i])
        else:
            axes.set_ylim(window[i])
            _regions(axes, posterior[:, [j, i]], prior[:, [j, i]], [own[j], own[i]], [wide[j], wide[i]])
        if truth is not None:
            axes.axvline(truth[j], color=plots.RED, linewidth=1.2)
            if i != j:
                axes.axhline(truth[i], color=plots.RED, linewidth=1.2)
        lowest, first = i == k - 1, j == 0 and i > 0
        axes.tick_params(labelbottom=lowest, labelleft=first)
        axes.set_xlabel(plots.wrap(names[j], side - 20) if lowest else "")
        axes.set_ylabel(plots.wrap(names[i], side - 20) if first else "")
    return figure


def _densities(axes: Axes, posterior: np.ndarray, prior: np.ndarray, own: tuple, wide: tuple) -> None:
    for x, limits, color in ((prior, wide, plots.DOTS), (posterior, own, plots.BLUE)):
        counts, edges = np.histogram(x, _bins(len(x)), limits)
        axes.stairs(counts / (len(x) * np.diff(edges)), edges, fill=True, color=color, alpha=0.6, linewidth=0)
    axes.set(yticks=[], ylim=(0, None))
    axes.spines["left"].set_visible(False)


def _regions(axes: Axes, posterior: np.ndarray, prior: np.ndarray, own: Window, wide: Window) -> None:
    x, y, density, levels = _density(prior, wide)
    axes.contourf(x, y, density, [*levels, np.inf], colors=_SHADES[-len(levels) :])
    shown = posterior[:2000]
    axes.scatter(*shown.T, s=plots.dot_area(len(shown)), c=plots.BLUE, alpha=0.35, linewidths=0)
    x, y, density, levels = _density(posterior, own)
    axes.contour(x, y, density, levels, colors=[plots.BLUE], linewidths=[1.2, 2.0][-len(levels) :])


def _bins(n: int) -> int:
    return min(max(math.isqrt(n), 10), _BINS)


def _density(points: np.ndarray, limits: Window) -> tuple[np.ndarray, ...]:
    """A smoothed histogram (y, x) of points (n, 2) on a grid, and the heights that bound the regions' masses.

    The grid goes beyond the limits by a quarter of their width, so that the regions' bounds close.
    """
    around = [(low - (high - low) / 4, high + (high - low) / 4) for low, high in limits]
    counts, x, y = np.histogram2d(points[:, 0], points[:, 1], 3 * _bins(len(points)) // 2, around)
    density = gaussian_filter(counts, 1.2, mode="constant").T
    heights = np.sort(density, axis=None)[::-1]
    mass = heights.cumsum() / max(heights.sum(), 1e-300)
    levels = np.unique([heights[np.searchsorted(mass, share)] for share in _MASSES])
    return (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, density, levels


def recovery(
    quantiles: np.ndarray, mean: np.ndarray, truth: np.ndarray, r: np.ndarray, names: Sequence[str], note: str = ""
) -> Figure:
    """Draw posterior means (b, k) over the truth (b, k), with QUANTILES (4, b, k) and correlations r (k,)."""

    def draw(axes: Axes, i: int) -> None:
        t = truth[:, i]
        for low, high, width, label in ((0, 3, 0.8, "90 %"), (1, 2, 2.2, "50 %")):
            ends = quantiles[low, :, i], quantiles[high, :, i]
            axes.vlines(t, *ends, color=plots.BLUE, linewidth=width, alpha=0.5, label=label)
        axes.plot(t, mean[:, i], ".", color=plots.INK, markersize=5, label="posterior mean")
        axes.axline((t[0], t[0]), slope=1, color=plots.RED, linewidth=1.2, linestyle=plots.DASHED, label="mean = truth")
        axes.annotate(f"r = {r[i]:.2f}", (0.04, 0.9), xycoords="axes fraction")

    title = f"Recovery of the truth, and its correlation r with the posterior mean{note}"
    return _panels(title, names, draw, "truth", "posterior")


def rank_histogram(counts: np.ndarray, names: Sequence[str], note: str = "") -> Figure:
    """Draw SBC histograms, counts (bins, k) over their expectation; the band holds 95 % of chance, bin by bin."""
    B = counts[:, 0].sum()
    most = float(counts.max() * len(counts) / B)
    title = f"Ranks of the truth (SBC). A valley: samples too narrow; a hill: too wide; a slope: biased{note}"
    return _panels(
        title, names, lambda axes, i: plots.rank_bars(axes, counts[:, i], B, plots.BLUE, most),
        "rank of the truth among the samples", "count over its expectation",
    )  # fmt: skip


def ecdf_difference(ranks: np.ndarray, band: tuple[np.ndarray, ...], names: Sequence[str], note: str = "") -> Figure:
    """Draw the ECDF of ranks (B, k) less u, over the levels u, with a simultaneous band (u, low, high) of the ECDF."""
    u, low, high = band
    share = np.stack([np.searchsorted(np.sort(r), u, side="right") for r in ranks.T]) / len(ranks)
    most = 1.1 * max(np.abs(share - u).max(), (high - u).max())

    def draw(axes: Axes, i: int) -> None:
        axes.fill_between(u, low - u, high - u, color=plots.BAND, alpha=0.25, linewidth=0, label="95 % of whole curves")
        axes.axhline(0, color=plots.INK, linewidth=1, linestyle=plots.DASHED)
        axes.plot(u, share[i] - u, color=plots.BLUE, linewidth=2, drawstyle="steps-mid")
        axes.set(xlim=(0, 1), xticks=plots.SHARES, ylim=(-most, most))

    title = f"Distribution of the ranks less the uniform one (SBC). First above, then below 0: samples too narrow{note}"
    return _panels(title, names, draw, "rank u", "share of ranks ≤ u, less u")


def joint_coverage(found: Coverage) -> Figure:
    """Draw what TARP found."""
    distance = f"{found.deviation:.3f} from the diagonal on average, by chance {found.floor:.3f}"
    title = f"TARP: coverage of random regions of all parameters, {distance}"
    return coverage(found.coverage.numpy(), found.observations, ["all parameters"], title=title)


def coverage(
    shares: np.ndarray,
    observations: int,
    names: Sequence[str],
    note: str = "",
    title: str = "Coverage of central credible intervals. Below the diagonal: samples too narrow",
) -> Figure:
    """Draw shares (L, k) of truths inside regions over the regions' levels, LEVELS, with a pointwise 95 % band."""

    def draw(axes: Axes, i: int) -> None:
        plots.coverage_axes(axes, observations)
        axes.plot([0, *LEVELS, 1], [0, *shares[:, i], 1], color=plots.BLUE, linewidth=2)

    return _panels(title + note, names, draw, "nominal level", "share of truths inside")


def z_contraction(z: np.ndarray, contraction: np.ndarray, names: Sequence[str], note: str = "") -> Figure:
    """Draw z-scores (B, k), NaN where there is none, over the contraction (B, k); beyond ±8 at the edge."""
    most = min(max(3.0, np.abs(z[np.isfinite(z)]).max(initial=0)), _MOST_Z)

    def draw(axes: Axes, i: int) -> None:
        axes.axhspan(-2, 2, color=plots.BAND, alpha=0.25, linewidth=0, label="|z| ≤ 2")
        axes.axhline(0, color=plots.INK, linewidth=1, linestyle=plots.DASHED)
        dots = {"s": 2 * plots.dot_area(len(z)), "c": plots.BLUE, "alpha": 0.5, "linewidths": 0}
        axes.scatter(contraction[:, i], z[:, i].clip(-most, most), **dots, label="an observation")
        low = float(np.percentile(contraction[:, i], 1))
        axes.set(xlim=(min(0, low) - 0.03, 1.03), ylim=(-1.05 * most, 1.05 * most))

    title = f"Exact: z-scores about 0, mostly within ±2. Contraction 1: the data tell all, 0: nothing{note}"
    x = "contraction 1 − posterior variance / prior variance"
    return _panels(title, names, draw, x, "z = (mean − truth) / std")


def loss(rows: Sequence[HalfStepLosses]) -> Figure:
    """Draw training and validation losses, a panel a half-step, and mark the step whose weights were kept."""
    shown = list(rows)[-_HALF_STEPS:]
    labels = [f"{row.half_step} · stopped early" if row.stopped else row.half_step for row in shown]
    note = f" · the last {len(shown)} of {len(rows)}" * (len(shown) < len(rows))
    return _panels(f"Loss of each half-step{note}", labels, partial(_losses, shown), "step", "loss")


def _losses(rows: Sequence[HalfStepLosses], axes: Axes, i: int) -> None:
    """Losses and their median over about a fortieth of them; a logarithmic axis where they span a factor of 20."""
    row, losses = rows[i], np.array(rows[i].losses)
    steps = row.every * np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color=plots.BLUE, linewidth=1, alpha=0.35, label="loss")
    median = median_filter(losses, 2 * max(1, len(losses) // 80) + 1)
    axes.plot(steps, median, color=plots.BLUE, linewidth=2, label="running median")
    low, high = np.percentile(losses, [1, 99])
    if low > 0 and high > 20 * low:
        axes.set_yscale("log")
    else:
        room = 0.12 * max(high - low, 1e-6)
        axes.set_ylim(losses.min() if losses.min() > low - 3 * room else low - room, high + room)
    if row.validation:
        steps, scores = np.array(row.validation).T
        axes.plot(steps, scores, color=plots.INK, linewidth=1.5, marker=".", markersize=6, label="validation")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, scores.min()), max(high, min(scores.max(), 2 * high - low)))
    if row.kept_step is not None:
        axes.axvline(row.kept_step, color=plots.RED, linewidth=1.2, linestyle=plots.DASHED, label="step kept")
