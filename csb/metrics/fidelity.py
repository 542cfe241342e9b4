"""How close an image is to the truth: PSNR and SSIM."""

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.metrics.inputs import ensembles, finite, posterior_mean

SMALLEST = 6  # pixels a side that the reflected border of the 11×11 window needs


def psnr(estimate: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [0, 1]; +∞ where the estimate is exact.

    Of the mean squared error over all pixels and images of estimate and truth, (B, *shape) each. CSBError where shapes
    differ, or values are not finite.
    """
    estimate, truth = _pair(estimate, truth)
    return float(decibel((estimate - truth).square().mean().cpu()))


def _pair(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    estimate, truth = finite("estimate", estimate).double(), finite("truth", truth).double()
    if estimate.shape != truth.shape or estimate.ndim < 2:
        shapes = f"estimate has shape {tuple(estimate.shape)}, truth {tuple(truth.shape)}"
        raise CSBError(f"{shapes}; expected one shape (B, *shape)")
    return estimate, truth.to(estimate.device)


def decibel(mse: Tensor) -> Tensor:
    """−10·log₁₀ MSE."""
    return -10 * torch.log10(mse)


def ssim(estimate: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each of the images (B, C, H, W): (B,), float64, in [−1, 1], 1 for an exact estimate.

    Wang et al. 2004, eq. 13: the mean over pixels and channels of
    (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂)), moments in an 11×11 Gaussian window of
    standard deviation 1.5, reflected at the border; c₁ = 0.01², c₂ = 0.03², for pixels in [0, 1].
    CSBError where shapes differ, sides are below :data:`SMALLEST` pixels, or values are not finite.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    estimate, truth = _pair(estimate, truth)
    if truth.ndim != 4 or min(truth.shape[2:]) < SMALLEST:
        raise CSBError(f"images have shape {tuple(truth.shape)}; expected (B, C, H, W) with H, W ≥ {SMALLEST}")
    found = structural_similarity_index_measure(estimate, truth, data_range=1.0, reduction="none")
    return torch.as_tensor(found).reshape(len(truth)).cpu()


def ssim_scores(samples: Tensor, truth: Tensor, log_weights: Tensor | None = None) -> dict[str, float]:
    """Average :func:`ssim` over observations: "ssim_mean" of the posterior mean, "ssim_sample" of weighted samples.

    samples (B, n, C, H, W), truth (B, C, H, W) and log_weights as in :mod:`csb.metrics.ensemble`.
    """
    samples, truth = finite("samples", samples), finite("truth", truth)
    w = ensembles(samples, truth, None, log_weights)[3].cpu()
    of_mean = ssim(posterior_mean(samples, log_weights), truth).mean()
    of_samples = [v @ ssim(x, y.expand_as(x)) for v, x, y in zip(w, samples, truth)]
    return {"ssim_mean": float(of_mean), "ssim_sample": float(torch.stack(of_samples).mean())}
