"""Normal numbers that the sample shows to be uncorrelated with what they are independent of."""

import torch
from torch import Tensor

from csb.process import noise_like

_LEAST = 1e-10  # of a column of length 1, which the others before it must leave


def _basis(columns: Tensor) -> Tensor:
    """Orthonormal columns that span those of (M, p), of which some may depend on others."""
    columns = columns / columns.norm(dim=0).clamp_min(torch.finfo(columns.dtype).tiny)
    Q, R = torch.linalg.qr(columns)
    if bool((R.diagonal().abs() > _LEAST).all()):
        return Q
    U, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return U[:, s > _LEAST * s[0]]


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
    basis = _basis(columns)
    noise = noise - basis @ (basis.T @ noise)
    factor = torch.linalg.cholesky_ex(noise.T @ noise / (rows - 1)).L  # fails for NaN alone, which comes through
    return torch.linalg.solve_triangular(factor, noise.T, upper=False).T
