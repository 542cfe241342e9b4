r"""Is the posterior right on average? Ranks of the truth among the samples, coverage of intervals, and TARP.

If truth and samples of each observation come from one law, the rank of the truth among n samples is uniform. Ranks
here are numbers in (0, 1): the weight below the truth, plus a uniform share of the weight that ties with it, the truth
itself taking part with the weight 1/n_eff = Σw² of one sample,

    rank = (Σ_i w_i 1[x_i < y] + u·(Σ_i w_i 1[x_i = y] + Σw²)) / (1 + Σw²),   u ~ U(0, 1).

For equal weights and no ties it is (#{x_i < y} + u)/(n + 1), exactly uniform for any n; u resolves ties, such as
clipped pixels. Self-normalised importance weights are exact only for large n_eff.

Samples, truth, mask and log_weights are those of :mod:`csb.metrics.ensemble`, and so are the errors for them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import kstest
from torch import Generator, Tensor

from csb.errors import CSBError, is_number, require_int
from csb.metrics.inputs import concentration, ensembles, uniform

LEVELS = tuple(i / 20 for i in range(1, 20))
MAX_RANKED = 16  # coordinates: a p-value of ranks over hundreds of dependent ones, such as pixels, says nothing


@dataclass(frozen=True)
class Uniformity:
    """Whether ranks are uniform, coordinate by coordinate; float64, on the CPU.

    Attributes:
        counts: (bins, P), the histogram of the ranks on [0, 1]; ∪-shaped for over-confident samples, ∩ for too wide
            ones, a slope for a bias. Uniform: B/bins each.
        ks: (P,), p-values of the Kolmogorov–Smirnov test.
        deviation: (P,), mean over the bins' upper edges e < 1 of |share of ranks ≤ e − e|.
    """

    counts: Tensor
    ks: Tensor
    deviation: Tensor

    @property
    def p_value(self) -> float:
        """The least KS p-value times the number of coordinates (Bonferroni), at most 1."""
        return min(1.0, float(self.ks.min()) * len(self.ks))


@dataclass(frozen=True)
class Coverage:
    """How often regions of given credibility hold the truth; float64, on the CPU.

    Attributes:
        levels: (L,), the credibility of the regions, in (0, 1).
        coverage: (L, P), the share of observations whose truth lies inside; P coordinates, 1 for joint regions.
        observations: B; an exact posterior's coverage has standard deviation √(level(1 − level)/B).
    """

    levels: Tensor
    coverage: Tensor
    observations: int

    @property
    def deviation(self) -> float:
        """Mean |coverage − level| over levels and coordinates, in [0, 1]; compare with :attr:`floor`."""
        return float((self.coverage - self.levels[:, None]).abs().mean())

    @property
    def floor(self) -> float:
        """The deviation expected of an exact posterior with as many observations."""
        return deviation_floor(self.levels.tolist(), self.observations)


def deviation_floor(levels: Sequence[float], observations: int) -> float:
    """The mean over levels c of √(2c(1 − c)/(πB)), the mean |coverage − c| of an exact posterior."""
    return sum(math.sqrt(2 * c * (1 - c) / (math.pi * observations)) for c in levels) / len(levels)


def sbc_ranks(
    samples: Tensor, truth: Tensor, generator: Generator, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> Tensor:
    """Rank of the truth in each coordinate (Talts et al. 2018, Algorithm 1): (B, P), float64, on the CPU, in [0, 1].

    P is the number of coordinates that the mask selects; ``generator`` draws what splits ties. Ranks of several chunks
    of observations can be joined with ``torch.cat``.
    """
    x, y, keep, w = ensembles(samples, truth, mask, log_weights)
    u = uniform(generator, len(x), int(keep[0].sum()), device=x.device)
    return torch.stack([_rank(s[:, k], t[k], v, r) for s, t, k, v, r in zip(x, y, keep, w, u)]).cpu()


def _rank(x: Tensor, y: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Ranks (P,) of y (P,) among x (n, P)."""
    own = concentration(w)
    below, ties = w @ (x < y).double(), w @ (x == y).double()
    return (below + u * (ties + own)) / (1 + own)


def rank_uniformity(ranks: Tensor, bins: int = 20) -> Uniformity:
    """Tests of uniformity of ranks (B, P) in [0, 1], as :func:`sbc_ranks` gives them (Talts et al. 2018, §4).

    ``bins`` of the histogram, from 2 to B/5, else CSBError, as for ranks of another shape or range.
    """
    r = _checked_ranks(ranks)
    require_int("bins", bins, 2)
    if len(r) < 5 * bins:
        raise CSBError(f"ranks hold {len(r)} observations for bins={bins}; expected at least 5 a bin; use fewer bins")
    counts = torch.stack([column.histc(bins, 0, 1) for column in r.T], dim=1)
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    deviation = (counts.cumsum(0)[:-1] / len(r) - edges[:, None]).abs().mean(0)
    ks = torch.tensor([kstest(column.numpy(), "uniform").pvalue for column in r.T], dtype=torch.float64)
    return Uniformity(counts, ks, deviation)


def central_coverage(ranks: Tensor, levels: Sequence[float] = LEVELS) -> Coverage:
    """Expected coverage of central credible intervals of each coordinate, from its ranks.

    The interval of credibility c holds the truth where |rank − ½| ≤ c/2; with the ranks of :func:`sbc_ranks` an exact
    posterior has coverage c at any n, which intervals between two sample quantiles have only for large n.
    N(m, s²) for the law N(m, 1): 2Φ(s·z) − 1 with z = Φ⁻¹((1 + c)/2).

    Args:
        ranks: (B, P) in [0, 1], else CSBError.
        levels: credibilities c in (0, 1), else CSBError.
    """
    return _coverage(2 * (_checked_ranks(ranks) - 0.5).abs(), levels)


def tarp(
    samples: Tensor,
    truth: Tensor,
    generator: Generator,
    levels: Sequence[float] = LEVELS,
    mask: Tensor | None = None,
    log_weights: Tensor | None = None,
) -> Coverage:
    """Tests of accuracy with random points (Lemos et al. 2023, Algorithm 2): coverage (L, 1) of joint regions.

    For each observation a reference point is drawn; the region of credibility c is the ball around it that holds the
    weight c of the samples, and holds the truth where the rank of the truth's distance among the samples' is ≤ c.
    Coordinates are scaled to [0, 1] by the least and largest truth, and references are uniform in that box, whatever
    the observation: samples of the prior pass too, so that TARP goes with a score of accuracy.
    Over-confident samples cover too much below c = ½ and too little above; bias lies on one side.
    N(m, s²) for the law N(m, 1), references far away: Φ(s·Φ⁻¹(c)). CSBError for B < 2.

    Args:
        generator: draws references and what splits ties.
        levels: credibilities c in (0, 1), else CSBError.
    """
    x, y, keep, w = ensembles(samples, truth, mask, log_weights)
    if len(x) < 2:
        raise CSBError(f"samples hold B={len(x)} observation; references need the range of at least 2 truths")
    y = y[keep].view(len(y), -1).double()
    low, width = y.amin(0), y.amax(0) - y.amin(0)
    width = torch.where(width > 0, width, 1.0)
    references = uniform(generator, *y.shape, device=x.device)
    u = uniform(generator, len(x), 1, device=x.device)
    ranks = []
    for s, t, k, v, reference, r in zip(x, (y - low) / width, keep, w, references, u):
        points = (s[:, k].double() - low) / width
        distance = (points - reference).norm(dim=1, keepdim=True)
        ranks.append(_rank(distance, (t - reference).norm().reshape(1), v, r))
    return _coverage(torch.stack(ranks).cpu(), levels)


def _coverage(least: Tensor, levels: Sequence[float]) -> Coverage:
    """Coverage from the least credibility (B, P) whose region holds the truth."""
    if not isinstance(levels, Sequence) or not levels or not all(is_number(c) and 0 < c < 1 for c in levels):
        raise CSBError(f"levels={levels!r} are not credibilities; give numbers above 0 and below 1")
    c = torch.tensor(levels, dtype=torch.float64)
    return Coverage(c, torch.stack([(least <= level).double().mean(0) for level in c]), len(least))


def _checked_ranks(ranks: Tensor) -> Tensor:
    if ranks.ndim != 2 or not ranks.numel() or not bool(((ranks >= 0) & (ranks <= 1)).all()):
        raise CSBError(f"ranks {tuple(ranks.shape)} are no numbers (B, P) in 0..1; give what sbc_ranks gives")
    return ranks.double().cpu()
