"""Moments of (weighted) posterior samples against exact ones, or against those of other samples."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.metrics.inputs import cloud_weights, finite, pairs_share, ratio


class MomentErrors(NamedTuple):
    """See :func:`moment_errors`. ``skew`` and ``kurtosis`` are None where the reference does not tell them."""

    mean_scaled: float
    mean_relative: float
    cov_relative: float
    skew: float | None = None
    kurtosis: float | None = None


def sample_moments(samples: Tensor, log_weights: Tensor | None = None) -> dict[str, Tensor]:
    """Moments of a sample, with the keys of :attr:`csb.problems.base.Posterior.moments`, float64.

    "mean" (d,); "cov" (d, d), unbiased: Σw(x − m)(x − m)ᵀ/(1 − Σw²), 0 where one sample has all the weight; "skew" and
    "kurtosis" (d,): Σw z³ and Σw z⁴ of z = (x − m)/√Σw(x − m)², 0 for a coordinate that is constant.
    Raises CSBError for another shape, non-finite values, or log-weights that are NaN or not of sum 1.

    Args:
        samples: (n, d), n ≥ 2.
        log_weights: (n,) of sum 1 after exp, or None for equal weights.
    """
    if samples.ndim != 2 or len(samples) < 2:
        raise CSBError(f"samples have shape {tuple(samples.shape)}; expected (n, d) with n ≥ 2")
    x = finite("samples", samples).double()
    w = cloud_weights("log_weights", log_weights, x)
    mean = w @ x
    centred = x - mean
    std = (w @ centred.square()).sqrt()
    z = torch.where(std > 0, centred / std.clamp_min(torch.finfo(std.dtype).tiny), 0.0)
    cov = pairs_share(w) * (centred * w[:, None]).T @ centred
    return {"mean": mean, "cov": cov, "skew": w @ z**3, "kurtosis": w @ z**4}


def moment_errors(samples: Tensor, reference: Mapping[str, Tensor], log_weights: Tensor | None = None) -> MomentErrors:
    """How far the moments of a sample, as :func:`sample_moments` gives them, are from the reference's m, C, …

    mean_scaled = ‖m̂ − m‖/√tr C (sampling error alone: about 1/√n), mean_relative = ‖m̂ − m‖/‖m‖ (∞ where m = 0),
    cov_relative = ‖Ĉ − C‖_F/‖C‖_F; skew and kurtosis: root mean square over coordinates of the difference.
    Raises CSBError as :func:`sample_moments`, and for a reference without mean and covariance or of another shape.

    Args:
        samples: (n, d), n ≥ 2.
        reference: "mean" (d,), "cov" (d, d) and, where known, "skew" and "kurtosis" (d,): the moments of an exact
            posterior, or the :func:`sample_moments` of exact samples.
        log_weights: (n,) of sum 1 after exp, or None for equal weights.
    """
    found = sample_moments(samples, log_weights)
    exact = {key: _moment(key, reference, found[key]) for key in found if key in ("mean", "cov") or key in reference}
    errors = {key: float((found[key] - exact[key]).norm()) for key in exact}
    per_coordinate = {key: errors[key] / len(found["mean"]) ** 0.5 for key in ("skew", "kurtosis") if key in errors}
    scale = float(exact["cov"].trace().sqrt())
    return MomentErrors(
        ratio(errors["mean"], scale),
        ratio(errors["mean"], float(exact["mean"].norm())),
        ratio(errors["cov"], float(exact["cov"].norm())),
        **per_coordinate,
    )


def _moment(key: str, reference: Mapping[str, Tensor], found: Tensor) -> Tensor:
    shape = tuple(found.shape)
    if key not in reference:
        raise CSBError(f"the reference has the moments {sorted(reference)}, not {key}; give {key} of shape {shape}")
    if tuple(reference[key].shape) != shape:
        raise CSBError(f"{key} has shape {tuple(reference[key].shape)}; expected {shape}, as the samples give it")
    return finite(key, reference[key].to(found.device)).double()
