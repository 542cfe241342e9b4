"""Members whitened by their own moments, and noise that the sample shows to be uncorrelated with them."""

import torch
from torch import Tensor

from csb.process import noise_like

_LEAST_SHARE = 1e-12  # of a coordinate's variance that those before it must leave, for it to count
_LEAST_LENGTH = 1e-10  # of a column of length 1, which the others before it must leave


def spread(rows: Tensor) -> Tensor:
    """Standard deviations of the coordinates of rows (…, M, d): (…, d), 0 where they differ by rounding alone."""
    std = rows.std(-2)
    return torch.where(std > 8 * torch.finfo(rows.dtype).eps * rows.abs().amax(-2), std, 0)


def _independent(cov: Tensor) -> list[int]:
    """The coordinates of a covariance (d, d) that those before them do not determine, in order."""
    rest, found = cov.clone(), []
    for i in range(len(cov)):
        if float(rest[i, i]) > _LEAST_SHARE * float(cov[i, i]):
            found.append(i)
            rest = rest - torch.outer(rest[:, i], rest[:, i]) / rest[i, i]
    return found


class Whitening:
    """v = L⁻¹(x − m)_J, with the mean m of rows (M, d) and the covariance L Lᵀ of their coordinates J.

    J, r of them, are those that the ones before do not determine: all where the rows vary in every direction. Of the
    others the inverse knows the mean given v, which is their value.
    """

    def __init__(self, rows: Tensor) -> None:
        std, self.mean = spread(rows), rows.mean(0)
        cov = torch.where(std > 0, rows - self.mean, 0).T.cov().reshape(rows.shape[1], -1)
        self.kept = _independent(cov)
        self.factor = torch.linalg.cholesky(cov[self.kept][:, self.kept])
        self.back = torch.linalg.solve_triangular(self.factor, cov[self.kept], upper=False)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, d) → (B, r)."""
        return torch.linalg.solve_triangular(self.factor, (x - self.mean)[:, self.kept].T, upper=False).T

    def inverse(self, v: Tensor) -> Tensor:
        """(B, r) → (B, d)."""
        return self.mean + v @ self.back


def _basis(columns: Tensor) -> Tensor:
    """Orthonormal columns that span those of (M, p), of which some may depend on others."""
    columns = columns / columns.norm(dim=0).clamp_min(torch.finfo(columns.dtype).tiny)
    Q, R = torch.linalg.qr(columns)
    if bool((R.diagonal().abs() > _LEAST_LENGTH).all()):
        return Q
    U, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return U[:, s > _LEAST_LENGTH * s[0]]


def uncorrelated(like: Tensor, given: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """Nearly normal numbers as ``like`` (M, d), of sample mean 0 and covariance I, and uncorrelated with ``given``.

    Standard normal numbers, less their projection on 1 and the columns of given, (M, ·) each, whitened (second-order
    exact sampling, Pham 2001): the gain of a regression on them has no noise of theirs at first order. Plain normal
    numbers where there are too few rows M for that.
    """
    rows, noise = len(like), noise_like(like, generator)
    columns = torch.cat([torch.ones_like(noise[:, :1]), *given], dim=1)
    if rows <= columns.shape[1] + like.shape[1]:
        return noise
    basis = _basis(columns)
    noise = noise - basis @ (basis.T @ noise)
    factor = torch.linalg.cholesky_ex(noise.T @ noise / (rows - 1)).L  # fails for NaN alone, which comes through
    return torch.linalg.solve_triangular(factor, noise.T, upper=False).T
