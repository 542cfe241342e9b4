r"""Scores of posterior samples: calibration of the spread, CRPS and energy score, std against error.

``samples`` are (B, n, *shape): n posterior samples for each of B observations; ``truth`` is (B, *shape), what each
observation was made from. ``mask``, boolean, selects the coordinates that count (e.g. the hole of an inpainting
problem): of ``shape``, or (B, *shape) with as many for each observation; None selects all. ``log_weights``, (B, n) or
(n,), are natural logarithms of weights of sum 1; None gives equal weights. Every statistic is computed in float64, one
observation at a time, and then averaged over observations: nothing depends on how observations are batched.

n_eff = 1/Σw² is n for equal weights. Means over pairs are Σ_{i≠j} w_i w_j (·)/(1 − Σw²), so that every estimate stays
unbiased for weights that do not depend on the samples. Where one sample has all the weight there is no pair: variance
and pair terms are 0 by definition.

All raise CSBError for wrong shapes, fewer than 2 samples an observation, values that are not finite, a mask that is not
boolean, or log-weights that are NaN or not of sum 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from csb.errors import CSBError, require_int
from csb.metrics.fidelity import decibel
from csb.metrics.inputs import concentration, ensembles, pairs_share, ratio

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


def _moments(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each pixel, (P,) each."""
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
    return each(term, *ensembles(samples, truth, mask, log_weights))


def spread_skill(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> SpreadSkill:
    """Does the spread of the ensemble match the error of its mean?

    Truth and samples from one law give E[mse] = (1 + 1/n_eff)·E[variance], the 1/n_eff being the noise of the mean
    (V. Fortin, M. Abaza, F. Anctil, R. Turcotte, Journal of Hydrometeorology 15, 2014).

    Returns:
        spread: square root of the mean, over pixels and observations, of the unbiased variance Σw(x − m)²/(1 − Σw²);
        in the unit of the data.
        skill: root mean squared error of the ensemble mean m; in the unit of the data.
        spread_skill: spread/skill, a ratio of standard deviations; √(n/(n + 1)) for a calibrated ensemble.
        spread_skill_fair: √(mean of (1 + 1/n_eff)·variance / mean squared error); 1 for a calibrated ensemble of any
        size, < 1 for an over-confident one.
    """
    return from_terms(_scored(spread_skill_terms, samples, truth, mask, log_weights))


def crps_ensemble(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> float:
    """Continuous ranked probability score, averaged over pixels and observations, in the unit of the data.

    The fair form Σ w_i |x_i − y| − ½ Σ_{i≠j} w_i w_j |x_i − x_j|/(1 − Σw²), unbiased for the CRPS of the law that the
    samples come from (Ferro 2014; Zamo & Naveau 2018, eq. PWM), in O(n log n). It may fall below 0.
    """
    return float(_scored(crps_term, samples, truth, mask, log_weights).mean())


def energy_score(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> float:
    """Fair energy score Σ w_i ‖x_i − y‖ − ½ Σ_{i≠j} w_i w_j ‖x_i − x_j‖/(1 − Σw²) on the selected coordinates jointly.

    Averaged over observations, in the unit of the data (Gneiting & Raftery 2007, eq. 22). O(n²) distances.
    """
    return float(_scored(energy_term, samples, truth, mask, log_weights).mean())


def std_error_correlation(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, n_bins: int = 10, log_weights: Tensor | None = None
) -> Reliability:
    """Does the predicted std map say where the error is? A reliability diagram and a correlation.

    All selected pixels of all observations are sorted by predicted std and cut into ``n_bins`` groups of equal size;
    each gives the root mean predicted variance and the RMSE of the ensemble mean. Calibrated: rmse = √(1 + 1/n_eff)·std
    in every bin, once n_eff (~100) keeps noise in the std from flattening the curve. ``pearson`` is between std and
    |error|; NaN where one is constant. CSBError for fewer pixels than bins.
    """
    x, y, keep, w = ensembles(samples, truth, mask, log_weights)
    std, error = each(_std_error, x, y, keep, w).transpose(0, 1).flatten(1)
    require_int("n_bins", n_bins, 1, len(std))
    order = std.argsort(stable=True)
    bins = [torch.stack([v[i].square().mean().sqrt() for v in (std, error)]) for i in order.tensor_split(n_bins)]
    pearson = correlation(*each(std_error_sums, x, y, keep, w).mean(0).tolist())
    predicted, rmse = torch.stack(bins, dim=1)
    return Reliability(predicted, rmse, pearson)


class EnsembleScores:
    """All scores at once, over many observations, a chunk at a time.

    Any split into chunks gives the numbers of one :meth:`update` with everything, and of the functions.

    Args:
        scale: the unit of x, broadcastable to ``shape``, by which samples and truth are divided, so that coordinates in
            other units count alike: that of :meth:`csb.problems.Transform.x_scale`.
    """

    def __init__(self, scale: Tensor | float = 1.0) -> None:
        self._scale = torch.as_tensor(scale, dtype=torch.float64)
        self._rows: list[Tensor] = []

    def update(
        self, samples: Tensor, truth: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Add B observations. The PSNRs are over all pixels whatever the mask."""
        x, y, keep, w = ensembles(samples, truth, mask, log_weights)
        unit = self._scale.to(x.device).expand(truth.shape[1:]).flatten()
        inside = (spread_skill_terms, crps_term, energy_term, std_error_sums)
        scores = each(lambda *one: torch.cat([term(*one) for term in inside]), x, y, keep, w, unit)
        everywhere = each(spread_skill_terms, x, y, torch.ones_like(keep), w, unit)
        self._rows.append(torch.cat([scores, everywhere], dim=1))

    def _all(self) -> Tensor:
        if not self._rows:
            raise CSBError("no observation was added; call update(samples, truth) first")
        return torch.cat(self._rows)

    def compute(self) -> dict[str, float]:
        """Every score. CSBError before the first update, as of the two methods below.

        ``psnr_mean``/``psnr_sample``: of the ensemble mean and of single samples; ``spread``, ``skill``,
        ``spread_skill``, ``spread_skill_fair``: as in :func:`spread_skill`, the first two in the unit of x/scale.
        """
        rows = self._all()
        inside, (crps, energy, *sums) = rows[:, :3], rows[:, 3:10].mean(0).tolist()
        variance, mse_mean, of_mean = rows[:, 10:].unbind(1)
        mse_sample = mse_mean + variance - of_mean  # Σ w_i (x_i − y)² = (m − y)² + (1 − Σw²)·variance
        return {
            "psnr_mean": float(decibel(mse_mean.mean())),
            "psnr_sample": float(decibel(mse_sample.mean())),
            "psnr_mean_per_image": float(decibel(mse_mean).mean()),
            **from_terms(inside)._asdict(),
            "crps": crps,
            "energy_score": energy,
            "std_error_pearson": correlation(*sums),
        }

    def energy_scores(self) -> list[float]:
        """The energy score of each observation, in the order in which they were added."""
        return self._all()[:, 4].tolist()

    def standard_errors(self) -> dict[str, float]:
        """Of the means over observations: crps, energy_score, psnr_mean_per_image, spread_skill, spread_skill_fair.

        Empty for one observation. The root r = √(a/b) of a ratio of two means by the delta method:
        (r/2)·std(a_i/a − b_i/b)/√B.
        """
        rows = self._all()
        if len(rows) < 2:
            return {}

        def error(values: Tensor) -> float:
            return float(values.std() / len(values) ** 0.5)

        variance, mse, of_mean = rows[:, :3].T
        found = {
            "crps": error(rows[:, 3]),
            "energy_score": error(rows[:, 4]),
            "psnr_mean_per_image": error(decibel(rows[:, 11])),
        }
        for key, above in (("spread_skill", variance), ("spread_skill_fair", variance + of_mean)):
            a, b = above.mean(), mse.mean()
            found[key] = float((a / b).sqrt() / 2) * error(above / a - mse / b) if a * b > 0 else math.nan
        return {key: value for key, value in found.items() if math.isfinite(value)}
