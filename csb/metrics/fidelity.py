"""How close an image is to the truth: PSNR and SSIM."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from csb.errors import CSBError, is_number
from csb.metrics.inputs import ensembles, finite, posterior_mean

SMALLEST = 6  # pixels a side that the reflected border of the 11×11 window needs


class SSIMScores(NamedTuple):
    """See :func:`ssim_scores`."""

    ssim_mean: float
    ssim_sample: float


def psnr(estimate: Tensor, truth: Tensor, data_range: float = 1.0, *, per_image: bool = False) -> float:
    """Peak signal-to-noise ratio in dB over all pixels; +∞ where the estimate is exact.

    Args:
        estimate, truth: (B, *shape).
        data_range: the largest minus the smallest value a pixel can have, > 0.
        per_image: False: 10·log₁₀(range²/MSE) of the mean squared error over all pixels and images, the convention of
            every table here. True: the average over images of each image's PSNR, which is never smaller (Jensen).

    CSBError where shapes differ, the input is empty or not finite, or data_range ≤ 0.
    """
    estimate, truth = _pair(estimate, truth)
    mse = (estimate - truth).square().flatten(1).mean(1).cpu()
    return float(decibel(mse, data_range).mean() if per_image else decibel(mse.mean(), data_range))


def decibel(mse: Tensor, data_range: float) -> Tensor:
    """10·log₁₀(range²/MSE). CSBError unless data_range is positive and finite."""
    if not is_number(data_range) or not 0 < data_range < math.inf:
        raise CSBError(f"data_range={data_range!r} is not positive; give the largest minus the smallest pixel value")
    return 10 * torch.log10(data_range**2 / mse)


def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each of the images (B, C, H, W): (B,), float64, in [−1, 1], 1 for an exact estimate.

    Wang et al. 2004, eq. 13: the mean over pixels and channels of
    (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂)), moments in an 11×11 Gaussian window of
    standard deviation 1.5, reflected at the border; c₁ = 0.01², c₂ = 0.03², for pixels in [0, 1].
    CSBError where shapes differ, sides are below 6 pixels, or values are not finite.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    estimate, truth = _pair(estimate, truth)
    if truth.ndim != 4 or min(truth.shape[2:]) < SMALLEST:
        raise CSBError(f"images have shape {tuple(truth.shape)}; expected (B, C, H, W) with H, W ≥ {SMALLEST}")
    found = structural_similarity_index_measure(estimate, truth, data_range=1.0, reduction="none")
    return torch.as_tensor(found).reshape(len(truth)).cpu()


def ssim_scores(samples: Tensor, truth: Tensor, log_weights: Tensor | None = None) -> SSIMScores:
    """Average :func:`ssim` over observations, of the posterior mean and of single samples, under their weights.

    samples (B, n, C, H, W), truth (B, C, H, W) and log_weights as in :mod:`csb.metrics.ensemble`.
    """
    w = ensembles(samples, truth, None, log_weights)[3].cpu()
    of_mean = ssim(posterior_mean(samples, log_weights), truth).mean()
    of_samples = [v @ ssim(x, y.expand_as(x)) for v, x, y in zip(w, samples, truth)]
    return SSIMScores(float(of_mean), float(torch.stack(of_samples).mean()))


def _pair(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if estimate.shape != truth.shape or estimate.ndim < 2:
        shapes = f"estimate has shape {tuple(estimate.shape)}, truth {tuple(truth.shape)}"
        raise CSBError(f"{shapes}; expected one shape (B, *shape)")
    return finite("estimate", estimate).double(), finite("truth", truth.to(estimate.device)).double()
