"""Factors of, and solutions with, covariances that may be singular: no spread in a direction is a spread as any other.

Where the matrix is positive definite beyond rounding both are Cholesky's and LU's, to the last bit.
"""

import torch
from torch import Tensor


def _eigen(S: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; NaN, not an error, where S is not finite."""
    finite = torch.isfinite(S).all(dim=-1).all(dim=-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, S, 0))
    return torch.where(finite[..., 0], values, torch.nan), vectors


def _unit(S: Tensor) -> Tensor:
    """Standard deviations (…, d, 1), 1 in the place of 0: rounding is a matter of correlations, not of units."""
    unit = S.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()[..., None]
    return torch.where(unit > 0, unit, 1)


def psd_cholesky(S: Tensor) -> Tensor:
    """L (…, d, d), lower triangular, with L Lᵀ = S for S symmetric and positive semi-definite up to rounding.

    Eigenvalues below 0 are taken for 0. NaN where S is not finite.
    """
    factor, failed = torch.linalg.cholesky_ex(S)
    if not bool(failed.any()):
        return factor
    unit = _unit(S)
    values, vectors = _eigen(S / (unit * unit.mT))
    # R of QR makes the eigenvectors' root triangular: whether rounding let Cholesky through then changes no draw.
    upper = torch.linalg.qr(values.clamp_min(0).sqrt()[..., None] * vectors.mT).R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1, 1)[..., None, :]
    return torch.where((failed > 0)[..., None, None], unit * upper.mT * sign, factor)


def psd_solve(S: Tensor, right: Tensor) -> Tensor:
    """X (…, d, n) with S X = right, for S as in :func:`psd_cholesky` and columns of ``right`` in its range.

    Where S is singular to rounding, one of the solutions: directions that S does not know get 0. NaN where S is not
    finite.
    """
    unit, rounding = _unit(S), S.shape[-1] * torch.finfo(S.dtype).eps
    correlations = S / (unit * unit.mT)
    factor, failed = torch.linalg.cholesky_ex(correlations)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    if bool(((failed == 0) & (pivots > rounding).all(dim=-1)).all()):  # positive definite beyond rounding
        return torch.linalg.solve(S, right)
    values, vectors = _eigen(correlations)
    known = values > rounding * values.amax(dim=-1, keepdim=True)
    inverse = torch.where(known, 1 / torch.where(known, values, 1), 0 * values)
    return vectors @ (inverse[..., None] * (vectors.mT @ (right / unit))) / unit
