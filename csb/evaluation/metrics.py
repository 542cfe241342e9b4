r"""Scores of posterior samples: accuracy, calibration of the spread, and distances between laws.

``samples`` are (B, n, *shape): n posterior samples for each of B observations; ``truth`` is (B, *shape), what each
observation was made from. ``mask``, boolean of ``shape``, selects the coordinates that count (e.g. the hole of an
inpainting problem); None selects all. Every statistic is computed in float64, one observation at a time, and then
averaged over observations: nothing depends on how observations are batched.
"""

import math
from typing import NamedTuple

import torch
from scipy.stats import rankdata
from torch import Generator, Tensor

from csb.errors import CSBError


class SpreadSkill(NamedTuple):
    """See :func:`spread_skill`."""

    spread: float
    skill: float
    ratio: float
    ratio_fair: float


class Reliability(NamedTuple):
    """See :func:`std_error_correlation`. The two tensors are (n_bins,), float64, on the CPU."""

    predicted_std: Tensor
    rmse: Tensor
    pearson: float
    spearman: float


class MomentErrors(NamedTuple):
    """See :func:`gaussian_moment_errors`."""

    mean_scaled: float
    mean_relative: float
    cov_relative: float


def _check(name: str, x: Tensor) -> Tensor:
    """x, detached. Raises CSBError where it is empty, complex or not finite."""
    if x.numel() == 0 or x.is_complex():
        raise CSBError(f"{name} has shape {tuple(x.shape)} and dtype {x.dtype}; expected a non-empty real tensor")
    if bad := x.numel() - int(torch.isfinite(x).sum()):
        raise CSBError(
            f"{name} has {bad} NaN or infinite values of {x.numel()}; expected finite ones; check its source"
        )
    return x.detach()


def _selection(mask: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The mask as a flat boolean tensor (P,)."""
    if mask is None:
        return torch.ones(math.prod(shape), dtype=torch.bool, device=device)
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise CSBError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of shape {shape}")
    if not bool(mask.any()):
        raise CSBError(f"mask of shape {shape} selects no coordinate; set at least one to True")
    return mask.to(device).flatten()


def _ensembles(samples: Tensor, truth: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Checked (samples (B, n, P), truth (B, P), mask (P,)); the first two in their own dtype, on one device."""
    if samples.ndim < 3 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        shapes = f"samples have shape {tuple(samples.shape)}, truth {tuple(truth.shape)}"
        raise CSBError(f"{shapes}; expected (B, n, *shape) and (B, *shape), the same B and shape")
    if samples.shape[1] < 2:
        raise CSBError(f"samples hold n={samples.shape[1]} draws an observation; the scores need at least 2")
    samples, truth = _check("samples", samples), _check("truth", truth).to(samples.device)
    return samples.flatten(2), truth.flatten(1), _selection(mask, tuple(truth.shape[1:]), samples.device)


def _ratio(a: float, b: float) -> float:
    return a / b if b else (math.inf if a else math.nan)


# The terms of one observation: samples x (n, P), truth y (P,), float64.
def _spread_skill_terms(x: Tensor, y: Tensor) -> Tensor:
    """Means over pixels of the unbiased variance and of the squared error of the ensemble mean: (2,)."""
    return torch.stack([x.var(0).mean(), (x.mean(0) - y).square().mean()])


def _spread_skill(terms: Tensor, n: int) -> SpreadSkill:
    spread, skill = terms.mean(0).tolist()
    return SpreadSkill(spread, skill, _ratio(spread, skill), _ratio(spread * (1 + 1 / n), skill))


def _crps_term(x: Tensor, y: Tensor) -> Tensor:
    """mean_i |x_i − y| − Σ_i (2i − n − 1) x_(i) / (n(n − 1)), averaged over pixels: (1,)."""
    n = len(x)
    weight = (2 * torch.arange(1, n + 1, dtype=x.dtype, device=x.device) - n - 1) / (n * (n - 1))
    return ((x - y).abs().mean(0) - weight @ x.sort(dim=0).values).mean().reshape(1)


def _energy_term(x: Tensor, y: Tensor) -> Tensor:
    """mean_i ‖x_i − y‖ − ½ mean_{i≠j} ‖x_i − x_j‖: (1,)."""
    return ((x - y).norm(dim=1).mean() - 0.5 * torch.nn.functional.pdist(x).mean()).reshape(1)


def _std_error_sums(x: Tensor, y: Tensor) -> Tensor:
    """Means over pixels of (s, e, s², e², se), s the ensemble's std and e = |error of its mean|: (5,)."""
    s, e = x.std(0), (x.mean(0) - y).abs()
    return torch.stack([v.mean() for v in (s, e, s * s, e * e, s * e)])


def _each(function, samples: Tensor, truth: Tensor, keep: Tensor) -> Tensor:
    """function(x, y) for each observation, on the kept coordinates: (B, terms), on the CPU."""
    return torch.stack([function(x[:, keep].double(), y[keep].double()) for x, y in zip(samples, truth)]).cpu()


def _pearson(s: float, e: float, ss: float, ee: float, se: float) -> float:
    """The correlation from the five means; NaN where s or e is constant to rounding."""
    var_s, var_e = ss - s * s, ee - e * e
    if var_s <= 1e-12 * ss or var_e <= 1e-12 * ee:
        return math.nan
    return (se - s * e) / math.sqrt(var_s * var_e)


def psnr(estimate: Tensor, truth: Tensor, data_range: float = 1.0, *, per_image: bool = False) -> float:
    """Peak signal-to-noise ratio in dB over all pixels; +∞ where the estimate is exact.

    Args:
        estimate, truth: (B, *shape).
        data_range: the largest minus the smallest value a pixel can have, > 0.
        per_image: False: 10·log₁₀(range²/MSE) of the mean squared error over all pixels and images, the convention of
            every table here. True: the average over images of each image's PSNR, which is never smaller (Jensen).

    Raises CSBError where shapes differ, the input is empty or not finite, or data_range ≤ 0.
    """
    if estimate.shape != truth.shape or estimate.ndim < 2:
        shapes = f"estimate has shape {tuple(estimate.shape)}, truth {tuple(truth.shape)}"
        raise CSBError(f"{shapes}; expected one shape (B, *shape)")
    error = _check("estimate", estimate).double() - _check("truth", truth.to(estimate.device)).double()
    mse = error.square().flatten(1).mean(1).cpu()
    return float(_decibel(mse, data_range).mean() if per_image else _decibel(mse.mean(), data_range))


def _decibel(mse: Tensor, data_range: float) -> Tensor:
    if not data_range > 0 or not math.isfinite(data_range):
        raise CSBError(f"data_range={data_range!r} is not positive; give the largest minus the smallest pixel value")
    return 10 * torch.log10(data_range**2 / mse)


def spread_skill(samples: Tensor, truth: Tensor, mask: Tensor | None = None) -> SpreadSkill:
    """Does the ensemble's variance match the error of its mean? (Fortin et al. 2014)

    spread: mean over pixels of the unbiased variance; skill: mean squared error of the ensemble mean. Truth and n
    samples from one law give E[skill] = (1 + 1/n)·E[spread], the 1/n being the noise of the mean. ``ratio`` is plain
    spread/skill, n/(n + 1) at best; ``ratio_fair`` = (1 + 1/n)·spread/skill is 1 for a calibrated ensemble of any
    size, < 1 for an over-confident one.

    Raises CSBError for wrong shapes, fewer than 2 samples an observation, non-finite values or a mask not boolean.
    """
    terms = _each(_spread_skill_terms, *_ensembles(samples, truth, mask))
    return _spread_skill(terms, samples.shape[1])


def crps_ensemble(samples: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Continuous ranked probability score, averaged over pixels and observations, in the unit of the data.

    The fair form mean_i |x_i − y| − ½ mean_{i≠j} |x_i − x_j|, unbiased for the CRPS of the law that the samples come
    from (Ferro 2014; Zamo & Naveau 2018, eq. PWM), in O(n log n) by sorting. Smaller is better; the fair form may
    fall below 0. Raises CSBError as :func:`spread_skill`.
    """
    return float(_each(_crps_term, *_ensembles(samples, truth, mask)).mean())


def energy_score(samples: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Fair energy score mean_i ‖x_i − y‖ − ½ mean_{i≠j} ‖x_i − x_j‖ on the selected coordinates jointly, averaged.

    (Gneiting & Raftery 2007, eq. 22.) Equal to the CRPS for one coordinate. O(n²) distances for one observation at a
    time. Raises CSBError as :func:`spread_skill`.
    """
    return float(_each(_energy_term, *_ensembles(samples, truth, mask)).mean())


def std_error_correlation(samples: Tensor, truth: Tensor, mask: Tensor | None = None, n_bins: int = 10) -> Reliability:
    """Does the predicted std map say where the error is? A reliability diagram and two correlations.

    All selected pixels of all observations are sorted by predicted std and cut into ``n_bins`` groups of equal size;
    each gives the root mean predicted variance and the RMSE of the ensemble mean. Calibrated: rmse = √(1 + 1/n)·std
    in every bin, once n (~100) keeps noise in the std from flattening the curve. ``pearson`` and ``spearman`` are
    between std and |error|; NaN where one is constant.
    Raises CSBError as :func:`spread_skill`, and for fewer pixels than bins.
    """
    x, y, keep = _ensembles(samples, truth, mask)
    std = torch.cat([v[:, keep].double().std(0) for v in x])
    error = torch.cat([(v[:, keep].double().mean(0) - t[keep].double()).abs() for v, t in zip(x, y)])
    if not 1 <= n_bins <= len(std):
        raise CSBError(f"n_bins={n_bins} does not fit {len(std)} pixels; choose between 1 and the number of pixels")
    order = std.argsort(stable=True)
    bins = [torch.stack([v[i].square().mean().sqrt() for v in (std, error)]) for i in order.tensor_split(n_bins)]
    pearson = _pearson(*_each(_std_error_sums, x, y, keep).mean(0).tolist())
    ranks = torch.stack([torch.from_numpy(rankdata(v.cpu().numpy())) for v in (std, error)])
    predicted, rmse = torch.stack(bins, dim=1).cpu()
    return Reliability(predicted, rmse, pearson, float(torch.corrcoef(ranks)[0, 1]))


def sliced_wasserstein(a: Tensor, b: Tensor, generator: Generator, n_projections: int = 128, p: float = 2.0) -> float:
    """Sliced p-Wasserstein distance (∫ W_p^p(θ·a, θ·b) dθ)^{1/p} of two point clouds (Bonneel et al. 2015).

    θ is uniform on the sphere, drawn ``n_projections`` times; each 1-D distance is exact, for unequal sizes too.
    N(m, C) against N(m + δ, C): SW_2² = |δ|²/d. Raises CSBError for other shapes, non-finite values, n_projections < 1
    or p < 1.

    Args:
        a, b: (N, d), (M, d).
        generator: draws the projections; the same seed gives two comparisons the same ones.
        p: order, ≥ 1.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise CSBError(f"a and b have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (N, d) and (M, d)")
    if n_projections < 1 or p < 1:
        raise CSBError(f"n_projections={n_projections}, p={p}; both must be at least 1")
    a, b = _check("a", a).double(), _check("b", b.to(a.device)).double()
    n, m = len(a), len(b)
    cuts = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # levels, times n·m
    i, j = ((cuts - 1) // m).to(a.device), ((cuts - 1) // n).to(a.device)
    weight = (cuts.diff(prepend=torch.zeros(1, dtype=torch.long)).double() / (n * m)).to(a.device)
    theta = torch.randn(n_projections, a.shape[1], generator=generator, device=generator.device, dtype=torch.float64)
    theta = torch.nn.functional.normalize(theta, dim=1).to(a.device)
    costs = [weight @ ((a @ t).sort().values[i] - (b @ t).sort().values[j]).abs() ** p for t in theta]
    return float(torch.stack(costs).mean() ** (1 / p))


def gaussian_moment_errors(samples: Tensor, mean: Tensor, cov: Tensor) -> MomentErrors:
    """How far the samples' mean m̂ and unbiased covariance Ĉ are from the exact m and C.

    mean_scaled = ‖m̂ − m‖/√tr C (sampling error alone: about 1/√n), mean_relative = ‖m̂ − m‖/‖m‖ (∞ where m = 0),
    cov_relative = ‖Ĉ − C‖_F/‖C‖_F. Raises CSBError for other shapes or non-finite values.

    Args:
        samples: (n, d), n ≥ 2.
        mean, cov: (d,) and (d, d).
    """
    d = mean.numel()
    if samples.ndim != 2 or len(samples) < 2 or samples.shape[1] != d or mean.ndim != 1 or cov.shape != (d, d):
        shapes = f"samples, mean and cov have shapes {tuple(samples.shape)}, {tuple(mean.shape)}, {tuple(cov.shape)}"
        raise CSBError(f"{shapes}; expected (n, d) with n ≥ 2, (d,) and (d, d)")
    x = _check("samples", samples).double()
    m, c = _check("mean", mean.to(x.device)).double(), _check("cov", cov.to(x.device)).double()
    shift = float((x.mean(0) - m).norm())
    cov_error = float((x.T.cov().reshape(d, d) - c).norm())
    scales = float(c.trace().sqrt()), float(m.norm()), float(c.norm())
    return MomentErrors(*map(_ratio, (shift, shift, cov_error), scales))


class EnsembleScores:
    """The scores above over many observations, a chunk at a time: memory grows by a few numbers an observation.

    Any split into chunks gives the numbers of one :meth:`update` with everything, and of the functions of this module.

    Args:
        mask: boolean of ``shape``, or None for every coordinate. The PSNRs are over all pixels whatever the mask.
        data_range: as in :func:`psnr`.
    """

    def __init__(self, mask: Tensor | None = None, data_range: float = 1.0) -> None:
        _decibel(torch.ones(()), data_range)
        self._mask, self._data_range = mask, data_range
        self._rows: list[Tensor] = []
        self._n: int | None = None

    def update(self, samples: Tensor, truth: Tensor) -> None:
        """Add B observations: samples (B, n, *shape), truth (B, *shape). Raises CSBError as :func:`spread_skill`."""
        x, y, keep = _ensembles(samples, truth, self._mask)
        if self._n not in (None, x.shape[1]):
            raise CSBError(f"samples hold n={x.shape[1]} draws, earlier chunks {self._n}; use one n for all chunks")
        inside = (_spread_skill_terms, _crps_term, _energy_term, _std_error_sums)
        scores = _each(lambda s, t: torch.cat([function(s, t) for function in inside]), x, y, keep)
        self._rows.append(torch.cat([scores, _each(_spread_skill_terms, x, y, torch.ones_like(keep))], dim=1))
        self._n = x.shape[1]

    def compute(self) -> dict[str, float]:
        """Every score. ``psnr_mean``/``psnr_sample``: of the ensemble mean and of single samples. Needs an update."""
        if not self._rows or self._n is None:
            raise CSBError("no observation was added; call update(samples, truth) before compute()")
        rows = torch.cat(self._rows)
        _, skill, crps, energy, *sums, _, _ = rows.mean(0).tolist()
        mse_mean = rows[:, -1]
        mse_sample = mse_mean + (1 - 1 / self._n) * rows[:, -2]  # mean_i (x_i − y)² = (x̄ − y)² + (1 − 1/n)·variance
        psnrs = [float(_decibel(mse.mean(), self._data_range)) for mse in (mse_mean, mse_sample)]
        return {
            "n_observations": float(len(rows)),
            "n_samples": float(self._n),
            "psnr_mean": psnrs[0],
            "psnr_sample": psnrs[1],
            "psnr_mean_per_image": float(_decibel(mse_mean, self._data_range).mean()),
            **_spread_skill(rows[:, :2], self._n)._asdict(),
            "rmse": math.sqrt(skill),
            "crps": crps,
            "energy_score": energy,
            "std_error_pearson": _pearson(*sums),
        }
