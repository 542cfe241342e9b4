"""Members in coordinates of mean 0 and covariance I, one for each direction in which they vary."""

import torch
from torch import Tensor

_LEAST = 1e-12  # share of a coordinate's variance that those before it must leave, for it to count


def spread(rows: Tensor) -> Tensor:
    """Standard deviations of the coordinates of rows (…, M, d): (…, d), 0 where they differ by rounding alone."""
    std = rows.std(-2)
    return torch.where(std > 8 * torch.finfo(rows.dtype).eps * rows.abs().amax(-2), std, 0)


def _independent(cov: Tensor) -> list[int]:
    """The coordinates of a covariance (d, d) that those before them do not determine, in order."""
    rest, found = cov.clone(), []
    for i in range(len(cov)):
        if float(rest[i, i]) > _LEAST * float(cov[i, i]):
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
