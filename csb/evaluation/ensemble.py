r"""Scores of posterior samples: calibration of the spread, CRPS and energy score, std against error.

``samples`` are (B, n, *shape): n posterior samples for each of B observations; ``truth`` is (B, *shape), what each
observation was made from. ``mask``, boolean, selects the coordinates that count (e.g. the hole of an inpainting
problem): of ``shape``, or (B, *shape) with as many for each observation; None selects all. ``log_weights``, (B, n) or
(n,), are natural logarithms of weights of sum 1; None gives equal weights. Every statistic is computed in float64, one
observation at a time, and then averaged over observations: nothing depends on how observations are batched.

With weights, 1/n becomes Σw², and mean_{i≠j} becomes Σ_{i≠j} w_i w_j (·)/(1 − Σw²), so that every estimate stays
unbiased for weights that do not depend on the samples. Where one sample has all the weight there is no pair: variance
and pair terms are 0 by definition.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.stats import rankdata
from torch import Tensor

from csb.errors import CSBError
from csb.evaluation.inputs import concentration, ensemble_weights, ensembles

Term = Callable[[Tensor, Tensor, Tensor], Tensor]


class SpreadSkill(NamedTuple):
    """See :func:`spread_skill`."""

    spread: float
    skill: float
    spread_skill: float
    spread_skill_fair: float


class Reliability(NamedTuple):
    """See :func:`std_error_correlation`. The two tensors are (n_bins,), float64, on the CPU."""

    predicted_std: Tensor
    rmse: Tensor
    pearson: float
    spearman: float


def ratio(a: float, b: float) -> float:
    """a/b; ∞ for b = 0, NaN for 0/0."""
    return a / b if b else (math.inf if a else math.nan)


def pairs_share(w: Tensor) -> float:
    """1/(1 − Σw²), by which sums over pairs i ≠ j become means; 0 where one sample has all the weight."""
    alone = concentration(w)
    return 0.0 if alone == 1 else 1 / (1 - alone)


def _moments(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance Σw(x − m)²/(1 − Σw²) of each pixel, (P,) each."""
    mean = w @ x
    return mean, pairs_share(w) * (w @ (x - mean).square())


# The terms of one observation: samples x (n, P), truth y (P,), weights w (n,) of sum 1, float64.
def spread_skill_terms(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Means over pixels of the variance, of the squared error of the mean, and of Σw²·variance: (3,)."""
    mean, variances = _moments(x, w)
    variance = variances.mean()
    return torch.stack([variance, (mean - y).square().mean(), concentration(w) * variance])


def from_terms(terms: Tensor) -> SpreadSkill:
    """The scores from the terms (B, 3) of B observations."""
    variance, mse, of_mean = terms.mean(0).tolist()
    ratios = ratio(variance, mse), ratio(variance + of_mean, mse)
    return SpreadSkill(*map(math.sqrt, (variance, mse, *ratios)))


def crps_term(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Σ w_i |x_i − y| − Σ_i w_(i) (W_i + W_{i−1} − 1) x_(i) / (1 − Σw²), averaged over pixels: (1,).

    x_(i) sorted, W_i the cumulated weights; the second term is half the mean distance of two samples.
    """
    ordered = (x - w @ x).sort(dim=0)  # centred: the rounding of W then does not meet a large offset
    v = w[ordered.indices]
    cumulative = v.cumsum(0)
    pairs = pairs_share(w) * (v * (2 * cumulative - v - 1) * ordered.values).sum(0)
    return (w @ (x - y).abs() - pairs).mean().reshape(1)


def energy_term(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Σ w_i ‖x_i − y‖ − ½ Σ_{i≠j} w_i w_j ‖x_i − x_j‖ / (1 − Σw²): (1,)."""
    both = torch.combinations(w).prod(1)  # in the order of pdist
    return (w @ (x - y).norm(dim=1) - pairs_share(w) * (both @ torch.nn.functional.pdist(x))).reshape(1)


def _std_error(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The ensemble's std and |error of its mean| of each pixel: (2, P)."""
    mean, variance = _moments(x, w)
    return torch.stack([variance.sqrt(), (mean - y).abs()])


def std_error_sums(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Means over pixels of (s, e, s², e², se), s the ensemble's std and e = |error of its mean|: (5,)."""
    s, e = _std_error(x, y, w)
    return torch.stack([v.mean() for v in (s, e, s * s, e * e, s * e)])


def each(term: Term, x: Tensor, y: Tensor, keep: Tensor, w: Tensor, unit: Tensor | None = None) -> Tensor:
    """term(x, y, w) of each observation, on its kept coordinates (B, P): (B, *terms), on the CPU.

    ``unit``, (P,), float64: of the coordinates, which the terms are in; None: as they are.
    """
    one = torch.ones(x.shape[2], dtype=torch.float64, device=x.device) if unit is None else unit
    return torch.stack(
        [term(s[:, k].double() / one[k], t[k].double() / one[k], v) for s, t, k, v in zip(x, y, keep, w)]
    ).cpu()


def correlation(s: float, e: float, ss: float, ee: float, se: float) -> float:
    """Pearson's correlation from the five means; NaN where s or e is constant to rounding."""
    var_s, var_e = ss - s * s, ee - e * e
    if var_s <= 1e-12 * ss or var_e <= 1e-12 * ee:
        return math.nan
    return (se - s * e) / math.sqrt(var_s * var_e)


def _scored(term: Term, samples: Tensor, truth: Tensor, mask: Tensor | None, log_weights: Tensor | None) -> Tensor:
    return each(term, *ensembles(samples, truth, mask), ensemble_weights(log_weights, samples))


def spread_skill(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> SpreadSkill:
    """Does the spread of the ensemble match the error of its mean? (Fortin et al. 2014)

    Truth and samples from one law give E[mse] = (1 + 1/n_eff)·E[variance], n_eff = 1/Σw² (n for equal weights), the
    1/n_eff being the noise of the mean.

    Args:
        samples, truth, mask, log_weights: see the module.

    Returns:
        spread: square root of the mean, over pixels and observations, of the unbiased variance Σw(x − m)²/(1 − Σw²);
        in the unit of the data.
        skill: root mean squared error of the ensemble mean m; in the unit of the data.
        spread_skill: spread/skill, a ratio of standard deviations; √(n/(n + 1)) for a calibrated ensemble.
        spread_skill_fair: √(mean of (1 + 1/n_eff)·variance / mean squared error); 1 for a calibrated ensemble of any
        size, < 1 for an over-confident one.

    Raises:
        CSBError: wrong shapes, fewer than 2 samples an observation, non-finite values, a mask not boolean, or
            log-weights that are NaN or not of sum 1.

    Source: V. Fortin, M. Abaza, F. Anctil, R. Turcotte, Why should ensemble spread match the RMSE of the ensemble
    mean?, Journal of Hydrometeorology 15, 2014.
    """
    return from_terms(_scored(spread_skill_terms, samples, truth, mask, log_weights))


def crps_ensemble(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> float:
    """Continuous ranked probability score, averaged over pixels and observations, in the unit of the data.

    The fair form Σ w_i |x_i − y| − ½ Σ_{i≠j} w_i w_j |x_i − x_j|/(1 − Σw²), unbiased for the CRPS of the law that the
    samples come from (Ferro 2014; Zamo & Naveau 2018, eq. PWM), in O(n log n) by sorting. Smaller is better; the fair
    form may fall below 0. Raises CSBError as :func:`spread_skill`.
    """
    return float(_scored(crps_term, samples, truth, mask, log_weights).mean())


def energy_score(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> float:
    """Fair energy score Σ w_i ‖x_i − y‖ − ½ Σ_{i≠j} w_i w_j ‖x_i − x_j‖/(1 − Σw²) on the selected coordinates jointly.

    (Gneiting & Raftery 2007, eq. 22.) Averaged over observations, in the unit of the data; equal to the CRPS for one
    coordinate. O(n²) distances for one observation at a time. Raises CSBError as :func:`spread_skill`.
    """
    return float(_scored(energy_term, samples, truth, mask, log_weights).mean())


def std_error_correlation(
    samples: Tensor,
    truth: Tensor,
    mask: Tensor | None = None,
    n_bins: int = 10,
    log_weights: Tensor | None = None,
) -> Reliability:
    """Does the predicted std map say where the error is? A reliability diagram and two correlations.

    All selected pixels of all observations are sorted by predicted std and cut into ``n_bins`` groups of equal size;
    each gives the root mean predicted variance and the RMSE of the ensemble mean. Calibrated: rmse = √(1 + 1/n_eff)·std
    in every bin, once n_eff (~100) keeps noise in the std from flattening the curve. ``pearson`` and ``spearman`` are
    between std and |error|; NaN where one is constant.
    Raises CSBError as :func:`spread_skill`, and for fewer pixels than bins.
    """
    x, y, keep = ensembles(samples, truth, mask)
    w = ensemble_weights(log_weights, samples)
    std, error = each(_std_error, x, y, keep, w).transpose(0, 1).flatten(1)
    if not 1 <= n_bins <= len(std):
        raise CSBError(f"n_bins={n_bins} does not fit {len(std)} pixels; choose between 1 and the number of pixels")
    order = std.argsort(stable=True)
    bins = [torch.stack([v[i].square().mean().sqrt() for v in (std, error)]) for i in order.tensor_split(n_bins)]
    pearson = correlation(*each(std_error_sums, x, y, keep, w).mean(0).tolist())
    ranks = torch.stack([torch.from_numpy(rankdata(v.numpy())) for v in (std, error)])
    predicted, rmse = torch.stack(bins, dim=1)
    return Reliability(predicted, rmse, pearson, float(torch.corrcoef(ranks)[0, 1]))
