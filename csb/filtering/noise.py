"""Normal numbers that the sample shows to be uncorrelated with what they are independent of."""

import torch
from torch import Tensor

from csb.process import noise_like


def uncorrelated(like: Tensor, given: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """Nearly normal numbers as ``like`` (M, d), of sample mean 0 and covariance I, and uncorrelated with ``given``.

    Standard normal numbers, less their projection on 1 and the columns of given, (M, ·) each, whitened (second-order
    exact sampling, Pham 2001). The gain of a regression on them then has no noise of theirs at first order. Where
    there are too few rows M for that, plain normal numbers.
    """
    rows, noise = len(like), noise_like(like, generator)
    columns = torch.cat([torch.ones_like(noise[:, :1]), *given], dim=1)
    if rows <= columns.shape[1] + like.shape[1]:
        return noise
    basis = torch.linalg.qr(columns).Q
    noise = noise - basis @ (basis.T @ noise)
    factor = torch.linalg.cholesky(noise.T @ noise / (rows - 1))
    return torch.linalg.solve_triangular(factor, noise.T, upper=False).T
