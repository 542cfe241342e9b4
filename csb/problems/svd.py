"""The thin singular value decomposition of an operator, by functions: A = U diag(s) Vᵀ.

r numbers s > 0, in no order; V: ℝ^r → x and U: ℝ^r → y have orthonormal columns, so that VVᵀ projects onto what A sees
of x, and x − VVᵀx is what it does not see. Where A has a structure no matrix of the size of x is ever made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from csb.errors import CSBError

LARGEST = 4096  # numbers in x and in y of an operator that is made a dense matrix
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class SVD:
    """See the module's docstring. The maps take batches, in the dtype and on the device of their argument.

    Attributes:
        values: s, (r,), float64, all above 0.
        v: V c, (B, r) → (B, *x_shape).
        vt: Vᵀ x, (B, *x_shape) → (B, r).
        u: U c, (B, r) → (B, *y_shape).
        ut: Uᵀ y, (B, *y_shape) → (B, r).
    """

    values: Tensor
    v: Map
    vt: Map
    u: Map
    ut: Map

    @property
    def rank(self) -> int:
        """r."""
        return len(self.values)

    def seen(self, x: Tensor) -> Tensor:
        """VVᵀ x, (B, *x_shape): the part of x that A sees."""
        return self.v(self.vt(x))


def factors(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, r), s (r,) and V (n, r) of a matrix A (m, n), float64; s above the rounding error of the largest."""
    U, s, Vt = torch.linalg.svd(A.double(), full_matrices=False)
    keep = s > max(A.shape) * torch.finfo(torch.float64).eps * s.max()
    return U[:, keep], s[keep], Vt[keep].T


def dense(A: Tensor, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> SVD:
    """The decomposition of a matrix A (dy, dx) that takes x and gives y, both flattened."""
    U, s, V = factors(A)
    return SVD(
        s,
        v=lambda c: (c @ V.to(c).T).unflatten(1, x_shape),
        vt=lambda x: x.flatten(1) @ V.to(x),
        u=lambda c: (c @ U.to(c).T).unflatten(1, y_shape),
        ut=lambda y: y.flatten(1) @ U.to(y),
    )


def probed(apply: Map, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> SVD:
    """The decomposition of any linear map, from its columns. CSBError where it is too large for a dense matrix."""
    dx, dy = (torch.Size(shape).numel() for shape in (x_shape, y_shape))
    if max(dx, dy) > LARGEST:
        raise CSBError(
            f"an operator from {dx} to {dy} numbers is too large for a dense singular value decomposition (at most "
            f"{LARGEST}); override its _svd with the decomposition that its structure gives"
        )
    columns = apply(torch.eye(dx, dtype=torch.float64).unflatten(1, x_shape))
    return dense(columns.flatten(1).T, x_shape, y_shape)


def separable(rows: Tensor, columns: Tensor, x_shape: tuple[int, ...]) -> SVD:
    """Of x ↦ R x Cᵀ, channel by channel of images (C, H, W): the two small decompositions give the large one.

    Args:
        rows: R (h, H), float64, along the height.
        columns: C (w, W), float64, along the width.
        x_shape: (channels, H, W).
    """
    channels, (U_r, s_r, V_r), (U_c, s_c, V_c) = x_shape[0], factors(rows), factors(columns)
    inner = (channels, len(s_r), len(s_c))

    def spread(c: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return left.to(c) @ c.unflatten(1, inner) @ right.to(c).T

    def gather(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (left.to(x).T @ x @ right.to(x)).flatten(1)

    return SVD(
        torch.outer(s_r, s_c).flatten().repeat(channels),
        v=lambda c: spread(c, V_r, V_c),
        vt=lambda x: gather(x, V_r, V_c),
        u=lambda c: spread(c, U_r, U_c),
        ut=lambda y: gather(y, U_r, U_c),
    )
