"""Distances between two (weighted) point clouds: sliced Wasserstein, C2ST, MMD, moments, and weights of modes.

Clouds are (N, d) and (M, d); log-weights are natural logarithms of weights of sum 1, (N,) and (M,), or None for equal
weights. All raise CSBError for other shapes, values that are not finite, or log-weights that are NaN or not of sum 1.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from csb.errors import MOST_DRAWS, CSBError, is_number, require_int
from csb.metrics.classifier import FOLDS, accuracy
from csb.metrics.inputs import cloud_weights, concentration, finite, pairs_share, ratio, systematic
from csb.problems.mixture import Mixture

_FAR, _TINY = 1000.0, 1e-30  # standard deviations from 0, and a standard deviation, that float32 holds well
_PIVOTS = 1000  # points of each cloud that the median distance is taken of
_BLOCK = 4_000_000  # distances held at once


def _clouds(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = finite("a", a).double(), finite("b", b).double()
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise CSBError(f"a and b have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (N, d) and (M, d)")
    return a, b.to(a.device)


def sliced_wasserstein(
    a: Tensor,
    b: Tensor,
    generator: Generator,
    n_projections: int = 128,
    p: float = 2.0,
    *,
    log_weights_a: Tensor | None = None,
    log_weights_b: Tensor | None = None,
) -> float:
    """Sliced p-Wasserstein distance (∫ W_p^p(θ·a, θ·b) dθ)^{1/p} of two point clouds (Bonneel et al. 2015).

    θ is uniform on the sphere, drawn ``n_projections`` ≥ 1 times from ``generator``; each 1-D distance, of order p ≥ 1,
    is exact, for unequal sizes and weights too. N(m, C) against N(m + δ, C): SW_2² = |δ|²/d.
    """
    require_int("n_projections", n_projections, 1, MOST_DRAWS)
    if not is_number(p) or not 1 <= p < math.inf:
        raise CSBError(f"p={p!r} is no order; give a finite number of at least 1")
    a, b = _clouds(a, b)
    w, v = cloud_weights("log_weights_a", log_weights_a, a), cloud_weights("log_weights_b", log_weights_b, b)
    equal = log_weights_a is None and log_weights_b is None
    plan = _coupling(_levels(len(a), a.device), _levels(len(b), a.device)) if equal else None
    theta = torch.randn(n_projections, a.shape[1], generator=generator, device=generator.device, dtype=torch.float64)
    theta = torch.nn.functional.normalize(theta, dim=1).to(a.device)
    costs = []
    for t in theta:
        x, y = (a @ t).sort(), (b @ t).sort()
        i, j, mass = plan or _coupling(w[x.indices].cumsum(0), v[y.indices].cumsum(0))
        costs.append(mass @ (x.values[i] - y.values[j]).abs() ** p)
    return float(torch.stack(costs).mean() ** (1 / p))


def _levels(n: int, device: torch.device) -> Tensor:
    """Cumulated equal weights; i/n rounds as every equal fraction does, so that levels of two clouds coincide."""
    return torch.arange(1, n + 1, dtype=torch.float64, device=device) / n


def _coupling(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal plan between sorted points from their cumulated weights: pairs i, j and the mass that each moves."""
    A, B = A / A[-1], B / B[-1]
    cuts = torch.cat([A, B]).sort().values
    mass = cuts.diff(prepend=cuts.new_zeros(1))
    inside = cuts - mass / 2
    i, j = (torch.searchsorted(C, inside).clamp_max(len(C) - 1) for C in (A, B))
    return i[mass > 0], j[mass > 0], mass[mass > 0]


def c2st(
    a: Tensor,
    b: Tensor,
    seed: int = 1,
    *,
    log_weights_a: Tensor | None = None,
    log_weights_b: Tensor | None = None,
) -> float:
    """Accuracy of a classifier that tells a from b: ½ for one law, 1 for laws apart (Lopez-Paz & Oquab 2017).

    As in sbibm (Lueckmann et al. 2021): z-scores with the mean and standard deviation of ``a`` (a constant coordinate
    is only centred), a network of two hidden layers of 10·d, 5-fold cross-validation (:mod:`csb.metrics.classifier`).
    N = M ≥ 5, as guessing would otherwise be right more often than ½. N(0, I) against N(δ, I): at best Φ(|δ|/2); the
    network learns its points by heart, and falls short of it in many dimensions (|δ| = 1, d = 10, N = 2,000: .60, not
    .69).

    Weighted clouds are resampled first (systematic, to as many points). Copies of one point then stand in training and
    test folds, which raises the accuracy for few effective samples even where the weighted law is exact.

    Args:
        a, b: (N, d), ``a`` the reference.
        seed: of the classifier and the folds.
    """
    require_int("seed", seed, 0, 2**32 - 1)
    a, b = _clouds(a, b)
    if len(a) != len(b) or len(a) < FOLDS:
        raise CSBError(f"a and b have {len(a)} and {len(b)} points; expected as many, at least {FOLDS}; subsample")
    a = _equally_weighted("log_weights_a", a, log_weights_a)
    b = _equally_weighted("log_weights_b", b, log_weights_b)
    a, b = _within_float32(a, b)
    centre, scale = a.mean(0), a.std(0)
    scale = torch.where(scale > 0, scale, 1.0)
    data = torch.cat([(x - centre) / scale for x in (a, b)])
    return accuracy(data, torch.arange(2).repeat_interleave(len(a)).float(), seed)


def _within_float32(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds as float32, on the CPU; z-scores of ``a`` in coordinates that float32 does not hold well."""
    centre, scale = a.mean(0), a.std(0)
    constant = a.amax(0) == a.amin(0)
    centre, scale = torch.where(constant, a[0], centre), torch.where(constant, 1.0, scale)
    held = (centre.abs() < _FAR * scale) & (scale > _TINY) & (scale < 1 / _TINY)
    held |= constant & (centre == 0)
    centre, scale = torch.where(held, 0.0, centre), torch.where(held, 1.0, scale)
    return ((a - centre) / scale).float().cpu(), ((b - centre) / scale).float().cpu()


def _equally_weighted(name: str, x: Tensor, log_weights: Tensor | None) -> Tensor:
    """x itself, or as many points by systematic resampling."""
    return x if log_weights is None else x[systematic(cloud_weights(name, log_weights, x), len(x), 0.5)]


def mmd(
    a: Tensor,
    b: Tensor,
    bandwidth: float | None = None,
    *,
    log_weights_a: Tensor | None = None,
    log_weights_b: Tensor | None = None,
) -> float:
    """Unbiased estimate of the SQUARED maximum mean discrepancy; may fall below 0 for near laws.

    Gretton et al. 2012, eq. 3 (Lemma 6), with weights:
    Σ_{i≠j} w_i w_j k(a_i, a_j)/(1 − Σw²) + Σ_{i≠j} v_i v_j k(b_i, b_j)/(1 − Σv²) − 2 Σ_ij w_i v_j k(a_i, b_j),
    k(x, y) = exp(−‖x − y‖²/(2h²)). A cloud whose weight is all on one point is a point mass: its term is k(x, x) = 1.
    O((N + M)²) time, bounded memory.

    Args:
        a, b: (N, d), (M, d), N, M ≥ 2.
        bandwidth: h > 0; None: the median distance between distinct points of the pooled cloud (their §8), the same
            number of points from either, at most 1,000, by weight. It depends on the data: give it to compare several
            clouds.
    """
    a, b = _clouds(a, b)
    if min(len(a), len(b)) < 2:
        raise CSBError(f"a and b have {len(a)} and {len(b)} points; expected at least 2 of each")
    w, v = cloud_weights("log_weights_a", log_weights_a, a), cloud_weights("log_weights_b", log_weights_b, b)
    h = _median_distance(a, b, w, v) if bandwidth is None else bandwidth
    if not is_number(h) or not 0 < h < math.inf:
        raise CSBError(f"bandwidth={bandwidth!r} is not positive and finite; give a distance, or None for the median")
    within = []
    for x, u in ((a, w), (b, v)):
        alone = concentration(u)
        within.append(1.0 if alone == 1 else (_kernel_mean(x, x, u, u, h) - alone) / (1 - alone))
    return sum(within) - 2 * _kernel_mean(a, b, w, v, h)


def _kernel_mean(a: Tensor, b: Tensor, w: Tensor, v: Tensor, h: float) -> float:
    """Σ_ij w_i v_j k(a_i, b_j), a block of rows at a time."""
    rows = max(1, _BLOCK // len(b))
    return sum(
        float(u @ (_distances(x, b).square() / (-2 * h * h)).exp() @ v) for x, u in zip(a.split(rows), w.split(rows))
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # exactly 0 for equal points


def _median_distance(a: Tensor, b: Tensor, w: Tensor, v: Tensor) -> float:
    """The median distance in the pooled cloud; 1 where all points are one, and any bandwidth gives MMD = 0."""
    n = min(len(a), len(b), _PIVOTS)
    pooled = torch.cat([x[systematic(u, n, 0.5)] for x, u in ((a, w), (b, v))])
    distance = torch.nn.functional.pdist(pooled)
    distance = distance[distance > 0]
    return float(distance.median()) if len(distance) else 1.0


def mode_weight_tv(
    samples: Tensor, weights: Tensor, means: Tensor, covs: Tensor, log_weights: Tensor | None = None
) -> float:
    """Total variation ½ Σ_k |ŵ_k − w_k| of the weights of a mixture's modes, in [0, 1]; 0 where all modes are found.

    ŵ_k is the mean responsibility of component k, whose expectation under the mixture is w_k, overlap or not. n samples
    of the mixture give about Σ_k √(w_k(1 − w_k)/(2πn)) from sampling alone where modes are apart.

    Args:
        samples: (n, d).
        weights, means, covs: of the mixture's K components: (K,), (K, d), (K or 1, d, d).
    """
    x, m, exact, spread = (
        finite(name, values).double().cpu()
        for name, values in (("samples", samples), ("means", means), ("weights", weights), ("covs", covs))
    )
    if x.ndim != 2 or m.ndim != 2 or x.shape[1] != m.shape[1]:
        raise CSBError(f"samples and means have shapes {tuple(x.shape)} and {tuple(m.shape)}; expected (n, d), (K, d)")
    exact = exact / exact.sum()
    belongs = Mixture(exact, m, spread).responsibilities(x)
    w = cloud_weights("log_weights", log_weights, x)
    return 0.5 * float((w @ belongs - exact).abs().sum())


def frechet(a: Tensor, b: Tensor, weights: Tensor | None = None) -> float:
    """‖μ_a − μ_b‖² + tr(C_a + C_b − 2(C_a^½ C_b C_a^½)^½): W_2² of the Gaussians with the moments of two clouds.

    (Dowson & Landau 1982; Heusel et al. 2017, of a network's features.) It rises as clouds become smaller: compare it
    with that of as many real images.

    Args:
        a: (n, d), with ``weights`` (n,) of sum 1, or None for equal ones.
        b: (m, d).
    """
    a, b = _clouds(a, b)
    w = a.new_full((len(a),), 1 / len(a)) if weights is None else weights.to(a)
    mean_a, mean_b = w @ a, b.mean(0)
    cov_a, cov_b = (a - mean_a).T @ (w[:, None] * (a - mean_a)), (b - mean_b).T @ (b - mean_b) / len(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


class MomentErrors(NamedTuple):
    """See :func:`moment_errors`. ``skew`` and ``kurtosis`` are None where the reference does not tell them."""

    mean_scaled: float
    cov_relative: float
    skew: float | None = None
    kurtosis: float | None = None


def sample_moments(samples: Tensor, log_weights: Tensor | None = None) -> dict[str, Tensor]:
    """Moments of samples (n, d), n ≥ 2, with the keys of :attr:`csb.problems.base.Posterior.moments`, float64.

    "mean" (d,); "cov" (d, d), unbiased: Σw(x − m)(x − m)ᵀ/(1 − Σw²), 0 where one sample has all the weight; "skew" and
    "kurtosis" (d,): Σw z³ and Σw z⁴ of z = (x − m)/√Σw(x − m)², 0 for a coordinate that is constant.
    """
    x = finite("samples", samples).double()
    if x.ndim != 2 or len(x) < 2:
        raise CSBError(f"samples have shape {tuple(x.shape)}; expected (n, d) with n ≥ 2")
    w = cloud_weights("log_weights", log_weights, x)
    mean = w @ x
    centred = x - mean
    std = (w @ centred.square()).sqrt()
    z = torch.where(std > 0, centred / std.clamp_min(torch.finfo(std.dtype).tiny), 0.0)
    cov = pairs_share(w) * (centred * w[:, None]).T @ centred
    return {"mean": mean, "cov": cov, "skew": w @ z**3, "kurtosis": w @ z**4}


def moment_errors(samples: Tensor, reference: Mapping[str, Tensor], log_weights: Tensor | None = None) -> MomentErrors:
    """How far the moments of a sample, as :func:`sample_moments` gives them, are from the reference's m, C, …

    mean_scaled = ‖m̂ − m‖/√tr C (sampling error alone: about 1/√n), cov_relative = ‖Ĉ − C‖_F/‖C‖_F; skew and kurtosis:
    root mean square over coordinates of the difference.

    Args:
        samples: (n, d), n ≥ 2.
        reference: "mean" (d,), "cov" (d, d) and, where known, "skew" and "kurtosis" (d,): the moments
            of an exact posterior, or the :func:`sample_moments` of exact samples.
    """
    found = sample_moments(samples, log_weights)
    exact = {key: finite(key, reference[key]).to(found[key]) for key in found if key in reference}
    shapes = {key: tuple(value.shape) for key, value in exact.items()}
    wanted = {key: tuple(found[key].shape) for key in ("mean", "cov", *exact)}
    if shapes != wanted:
        raise CSBError(f"reference has moments of shapes {shapes}; expected {wanted}")
    errors = {key: float((found[key] - exact[key]).norm()) for key in exact}
    per_coordinate = {key: errors[key] / len(found["mean"]) ** 0.5 for key in ("skew", "kurtosis") if key in errors}
    scale = float(exact["cov"].trace().sqrt())
    return MomentErrors(
        ratio(errors["mean"], scale),
        ratio(errors["cov"], float(exact["cov"].norm())),
        **per_coordinate,
    )
