"""Members in coordinates of mean 0 and covariance I."""

import torch
from torch import Tensor

from csb.errors import CSBError


class Whitening:
    """v = L⁻¹(x − m), with the mean m and covariance L Lᵀ of rows (M, d).

    CSBError where they span fewer than d dimensions.
    """

    def __init__(self, rows: Tensor) -> None:
        self.mean, cov = rows.mean(0), rows.T.cov().reshape(rows.shape[1], -1)
        floor = 1e-12 * cov.diagonal().mean() * torch.eye(len(cov), dtype=rows.dtype)
        self.factor, failed = torch.linalg.cholesky_ex(cov + floor)
        if int(failed) or not bool(self.factor.diagonal().min() > 0):
            raise CSBError(f"the members span fewer than {len(cov)} dimensions; use more members, or more model noise")

    def __call__(self, x: Tensor) -> Tensor:
        """(B, d) → (B, d)."""
        return torch.linalg.solve_triangular(self.factor, (x - self.mean).T, upper=False).T

    def inverse(self, v: Tensor) -> Tensor:
        """(B, d) → (B, d)."""
        return self.mean + v @ self.factor.T
