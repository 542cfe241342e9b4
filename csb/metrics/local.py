r"""Is the posterior right at one observation? A classifier's local two-sample test, and predictive checks.

SBC, coverage and TARP are averages over observations. L-C2ST (Linhart, Gramfort & Rodrigues 2023, "L-C2ST: local
diagnostics for posterior approximations in simulation-based inference", algorithms 1 and 2) trains a classifier d on
pairs (x, y) of the joint law against (x̂, y) with x̂ ~ q(· | y), for many y, and looks at it at one observation y_o,
where no truth is needed:

    t = mean over x̂ ~ q(· | y_o) of (d(x̂, y_o) − ½)²,    p = (1 + #{t_r ≥ t})/(R + 1),

with t_r of classifiers that are trained on permuted labels. The predictive check compares y_o with y simulated from
posterior samples, by the χ² discrepancy of Gelman, Meng & Stern (1996, "Posterior predictive assessment").
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csb.errors import MOST_DRAWS, CSBError, require_int
from csb.metrics.inputs import finite
from csb.numbers import require_present

_HIDDEN = 10  # nodes of each of two layers of the classifier, a number of (x, y)


class LocalTest(NamedTuple):
    """L-C2ST at one observation: ``statistic`` in [0, ¼], 0 where no classifier tells the laws apart, and its p."""

    statistic: float
    p: float


def _features(x: Tensor, y: Tensor) -> Tensor:
    """x (n, d) and y (n, …) side by side, 0 and a mask where a value of y is missing."""
    flat = y.flatten(1).double()
    parts = [x.flatten(1).double(), flat.nan_to_num(0.0)] + ([(~flat.isnan()).double()] if flat.isnan().any() else [])
    return torch.cat(parts, 1)


def _require_observed(**values: Tensor) -> None:
    for name, y in values.items():
        require_present(name, y, "give finite values, or NaN for missing ones", gaps=True)


def local_c2st(
    drawn: Tensor, truth: Tensor, y: Tensor, at: Tensor, samples: Tensor, *, seed: int = 0, permutations: int = 19
) -> LocalTest:
    """Test whether samples at one observation are of the posterior.

    Args:
        drawn: (B, d), one posterior sample x̂ for each of B ≥ 50 observations; hundreds say something.
        truth: (B, d), the x behind the observations.
        y: (B, …), the observations; NaN is a missing value.
        at: (…), the observation y_o.
        samples: (n, d), posterior samples there.
        seed: of classifiers and permutations.
        permutations: R ≥ 1; the least p is 1/(R + 1).

    Raises:
        CSBError: shapes that do not fit, fewer than 50 observations, or values that are not finite.
    """
    from sklearn.neural_network import MLPClassifier  # a second to import, for this function only

    require_int("permutations", permutations, 1, MOST_DRAWS)
    require_int("seed", seed, 0, 2**32 - 1 - permutations)
    drawn, truth, samples = finite("drawn", drawn), finite("truth", truth), finite("samples", samples)
    B = len(truth) if truth.ndim > 1 else 0
    fits = drawn.shape == truth.shape and samples.ndim == truth.ndim and samples.shape[1:] == truth.shape[1:]
    if B < 50 or not fits or y.shape != (B, *at.shape):
        raise CSBError(
            f"drawn {tuple(drawn.shape)}, truth {tuple(truth.shape)}, y {tuple(y.shape)}, at {tuple(at.shape)} and "
            f"samples {tuple(samples.shape)} do not fit; give (B, d), (B, d), (B, …), (…) and (n, d), B ≥ 50"
        )
    _require_observed(y=y, at=at[None])
    ys = torch.cat([y, y, at[None].to(y).expand(len(samples), *at.shape)])
    both = _features(torch.cat([drawn, truth, samples]), ys)
    centre, scale = both[: 2 * B].mean(0), both[: 2 * B].std(0)
    both = ((both - centre) / torch.where(scale > 0, scale, 1.0)).numpy()
    data, there = both[: 2 * B], both[2 * B :]
    label, rng = np.repeat([0, 1], B), np.random.default_rng(seed)
    width, found = _HIDDEN * data.shape[1], []
    for number in range(permutations + 1):
        order = rng.permutation(2 * B) if number else np.arange(2 * B)
        net = MLPClassifier((width, width), early_stopping=True, max_iter=1000, random_state=seed + number)
        net.fit(data, label[order])
        chance = np.asarray(net.predict_proba(there))[:, 1]
        found.append(float(np.square(chance - 0.5).mean()))
    return LocalTest(found[0], (1 + sum(t >= found[0] for t in found[1:])) / (permutations + 1))


def predictive_p(simulated: Tensor, at: Tensor) -> float:
    """Tell how unusual an observation is among those simulated from its posterior samples: p in [1/(n + 1), 1].

    The discrepancy is Σ ((y − mean)/std)² over the values that are there, with mean and std of the simulated ones.

    Args:
        simulated: (n, …), n ≥ 20, y ~ p(y | x) of posterior samples x; NaN is a missing value.
        at: (…), the observation.

    Raises:
        CSBError: shapes that do not fit, fewer than 20 simulated y, infinite values, or none that both have.
    """
    if simulated.ndim == 0 or len(simulated) < 20 or simulated.shape[1:] != at.shape:
        raise CSBError(f"simulated {tuple(simulated.shape)} and at {tuple(at.shape)} do not fit; give (n ≥ 20, …), (…)")
    _require_observed(simulated=simulated, at=at[None])
    y = simulated.flatten(1).double()
    mean = y.nanmean(0)
    std = (y - mean).square().nanmean(0).sqrt().clamp_min(1e-300)
    used = ~at.flatten().isnan() & mean.isfinite()
    if not bool(used.any()):
        raise CSBError("simulated and at have no coordinate with a value in both; check what is missing")
    own, others = (((v - mean) / std).square()[..., used] for v in (at.flatten().double(), y))
    # a simulated y that lacks values is judged by the average of those it has
    count = (~others.isnan()).sum(1).clamp_min(1)
    return float((1 + (others.nansum(1) / count >= own.mean()).sum()) / (len(y) + 1))
