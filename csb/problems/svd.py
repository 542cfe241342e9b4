"""The thin singular value decomposition of an operator, by functions: A = U diag(s) Vᵀ.

r numbers s > 0, in no order; V: ℝ^r → x and U: ℝ^r → y have orthonormal columns, so that VVᵀ projects onto what A sees
of x. Where A has a structure no matrix of the size of x is ever made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.process import seeded

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
        return len(self.values)

    def only(self, kept: Tensor) -> "SVD":
        """That of the numbers s at these places alone, int64."""

        def maps(put: Map, take: Map) -> tuple[Map, Map]:
            return (
                lambda c: put(c.new_zeros(len(c), self.rank).index_copy(1, kept.to(c.device), c)),
                lambda x: take(x)[:, kept.to(x.device)],
            )

        return SVD(self.values[kept], *maps(self.v, self.vt), *maps(self.u, self.ut))

    def above(self, share: float) -> "SVD":
        """That of the numbers s alone which are more than this share of the largest."""
        kept = (self.values > share * self.values.amax(0, keepdim=True)).nonzero()[:, 0] if self.rank else self.values
        return self if len(kept) == self.rank else self.only(kept)


def _fits(A: Tensor, digits: int) -> bool:
    """Whether so many binary digits do for every number of A."""
    mantissa = torch.frexp(A).mantissa * 2**digits
    return bool((mantissa == mantissa.round()).all())


def factors(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, r), s (r,) and V (n, r) of a matrix A (m, n), float64; s above the rounding error of the largest.

    That is max(m, n)·ε of it, but at most half the digits; ε is that of A's dtype, or of float32 where a float64 A has
    come from there. CSBError where A is not finite.
    """
    if not bool(torch.isfinite(A).all()):
        raise CSBError(f"a matrix of shape {tuple(A.shape)} has entries that are not finite; an operator needs numbers")
    A = A if A.is_floating_point() else A.double()
    U, s, Vt = torch.linalg.svd(A.double(), full_matrices=False)
    coarse = A.dtype == torch.float64 and _fits(A, 24) and not _fits(A, 20)  # numbers of at most 20 digits are exact
    eps = torch.finfo(torch.float32 if coarse else A.dtype).eps
    keep = s > min(max(A.shape) * eps, eps**0.5) * s.max()
    return U[:, keep], s[keep], Vt[keep].T


def dense(A: Tensor, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> SVD:
    """The decomposition of a matrix A (dy, dx) that takes x and gives y, both flattened."""

    def maps(M: Tensor, shape: tuple[int, ...]) -> tuple[Map, Map]:
        return lambda c: (c @ M.to(c).T).unflatten(1, shape), lambda x: x.flatten(1) @ M.to(x)

    U, s, V = factors(A)
    return SVD(s, *maps(V, x_shape), *maps(U, y_shape))


def probed(apply: Map, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> SVD:
    """The decomposition of any linear map, from its columns, in float64 where it takes that, else in float32.

    Where sums of columns show that it rounds to float32, they are known no better. CSBError where it is too large.
    """
    dx, dy = (torch.Size(shape).numel() for shape in (x_shape, y_shape))
    if max(dx, dy) > LARGEST:
        raise CSBError(
            f"an operator from {dx} to {dy} numbers is too large for a dense singular value decomposition (at most "
            f"{LARGEST}); override its _svd with the decomposition that its structure gives"
        )
    eye = torch.eye(dx, dtype=torch.float64)
    try:
        A = apply(eye.unflatten(1, x_shape)).flatten(1).T
    except RuntimeError:  # torch's, where its matrix is of another dtype
        A = apply(eye.float().unflatten(1, x_shape)).flatten(1).T
    if A.dtype == torch.float64:
        x = torch.randn((1, dx), dtype=torch.float64, generator=seeded(0))
        error = (apply(x.unflatten(1, x_shape)).flatten(1) - x @ A.T).abs()
        A = A.float() if bool((error > 1e-11 * (x.abs() @ A.abs().T)).any()) else A
    return dense(A, x_shape, y_shape)
