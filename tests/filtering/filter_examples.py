"""Forecasts with exact analyses: a Gaussian, and a mixture of Gaussians that does not move."""

import torch

from csb.problems.mixture import Mixture
from tests.filtering.kalman import Gaussian, LinearGaussianModel


def gaussian_model(noise_std=0.8):
    """Two coordinates, of which a mixture is seen; the forecast's law stands in ``start``."""
    A = torch.tensor([[0.9, 0.3], [-0.2, 0.8]], dtype=torch.float64)
    H = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    start = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.5, 0.6], [0.6, 0.8]]).double())
    return LinearGaussianModel(A, 0.3 * torch.eye(2, dtype=torch.float64), H, start, noise_std)


OBSERVED = torch.tensor([1.2], dtype=torch.float64)  # 1.2 standard deviations from its mean
BIMODAL = Mixture(
    torch.tensor([0.5, 0.5], dtype=torch.float64),
    torch.tensor([[-2.0, 0.0], [2.0, 0.5]], dtype=torch.float64),
    torch.tensor([[[0.3, 0.1], [0.1, 0.4]], [[0.2, -0.1], [-0.1, 0.5]]], dtype=torch.float64),
)


def errors(x, law):
    """The error of the mean in standard deviations, and of the covariance in the whitened Frobenius norm, per √d."""
    factor = torch.linalg.cholesky(law.cov)
    white = torch.linalg.solve_triangular(factor, (x - law.mean).T, upper=False)
    d = len(law.mean)
    mean = float(white.mean(1).norm()) / d**0.5
    return mean, float((white.cov() - torch.eye(d, dtype=x.dtype)).norm()) / d**0.5
