"""Linear operators A with their adjoints, ⟨A x, y⟩ = ⟨x, A* y⟩, and singular values: batched over dim 0."""

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from csb.errors import CSBError
from csb.problems.svd import SVD, Map, dense, factors, probed
from csb.process import seeded
from csb.schema import Count, OneOf, Spread, Whole, checked

EDGES = ("zero", "periodic")  # of a blur
_REACH = 10  # standard deviations to which the kernel of a blur is summed
Box = tuple[int, int, int, int]  # (top, left, height, width), pixels
Shape = tuple[Count, ...]
Image = tuple[Count, Count, Count]  # (C, H, W)


def check_batch(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """CSBError unless value is (B, *shape)."""
    if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
        raise CSBError(f"{name} has shape {tuple(value.shape)}; expected a batch (B, {', '.join(map(str, shape))})")


class Operator(ABC):
    """A: (B, *x_shape) → (B, *y_shape), linear. Differentiable, on the device and in the dtype of its argument."""

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
        self.x_shape, self.y_shape = x_shape, y_shape

    def __call__(self, x: Tensor) -> Tensor:
        """A x, (B, *y_shape). CSBError for another shape than (B, *x_shape)."""
        check_batch("x", x, self.x_shape)
        return self._apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """A* y, (B, *x_shape). CSBError for another shape than (B, *y_shape)."""
        check_batch("y", y, self.y_shape)
        return self._adjoint(y)

    @cached_property
    def svd(self) -> SVD:
        """A = U diag(s) Vᵀ. CSBError where x or y is too large for a matrix and the structure of A is not used."""
        return self._svd()

    def _svd(self) -> SVD:
        return probed(self._apply, self.x_shape, self.y_shape)

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...


class Matrix(Operator):
    """x ↦ A x; A is (dy, dx), kept in the precision given.

    Args:
        A: the matrix.
        x_shape, y_shape: of dx numbers, which A takes flattened, and of dy; None for vectors.
    """

    def __init__(
        self, A: Tensor, x_shape: tuple[int, ...] | None = None, y_shape: tuple[int, ...] | None = None
    ) -> None:
        if A.ndim != 2:
            raise CSBError(f"A has shape {tuple(A.shape)}; expected a matrix (dy, dx)")
        super().__init__(x_shape or (A.shape[1],), y_shape or (A.shape[0],))
        self.A = A

    def _apply(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.A.to(x).T).unflatten(1, self.y_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y.flatten(1) @ self.A.to(y)).unflatten(1, self.x_shape)

    def _svd(self) -> SVD:
        return dense(self.A, self.x_shape, self.y_shape)


class RandomProjection(Matrix):
    """m ≤ d random numbers of x: y = A x, A (m, d) on x flattened, fixed by the seed.

    Its rows are "orthonormal" (the first m of a Haar-distributed orthogonal matrix: A A* = I) or "gaussian" (N(0, 1/d),
    of unit length on average).
    """

    @checked
    def __init__(
        self,
        x_shape: Shape,
        m: Count,
        rows: Annotated[str, OneOf(("orthonormal", "gaussian"))] = "orthonormal",
        seed: Whole = 0,
    ) -> None:
        d = torch.Size(x_shape).numel()
        if m > d:
            raise CSBError(f"m={m} is outside 1..{d}, the numbers of one x of shape {x_shape}; take fewer projections")
        if rows == "orthonormal":
            A = random_orthogonal(d, seeded(seed), m).T
        else:
            A = torch.randn(m, d, generator=seeded(seed), dtype=torch.float64) / d**0.5
        super().__init__(A, x_shape)


class InpaintBox(Operator):
    """Sets the pixels of a box (top, left, height, width) of x (C, H, W) to 0; a projection, its own adjoint."""

    @checked
    def __init__(self, x_shape: Image, box: Box) -> None:
        (top, left, height, width), (_, H, W) = box, x_shape
        if min(top, left) < 0 or min(height, width) < 1 or top + height > H or left + width > W:
            raise CSBError(f"box={box} does not lie in an image of {H}×{W} pixels; give (top, left, height, width)")
        super().__init__(x_shape, x_shape)
        self.box = box
        self.mask = torch.ones(x_shape, dtype=torch.float32)  # 1 = observed
        self.mask[:, top : top + height, left : left + width] = 0

    def _apply(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y)

    def _svd(self) -> SVD:
        """s = 1 at each known pixel; U = V puts numbers there."""
        mask = self.mask.flatten()
        pixels = (lambda c: c.unflatten(1, self.x_shape), lambda x: x.flatten(1))
        return SVD(torch.ones(len(mask), dtype=torch.float64), *pixels, *pixels).only(mask.nonzero()[:, 0])


class AveragePool(Operator):
    """Means over factor × factor blocks of pixels of x (C, H, W), H and W multiples of the factor; A A* = I/factor²."""

    @checked
    def __init__(self, x_shape: Image, factor: Count) -> None:
        if x_shape[1] % factor or x_shape[2] % factor:
            raise CSBError(f"factor={factor} does not divide the height and width of images of shape {x_shape}")
        super().__init__(x_shape, (x_shape[0], x_shape[1] // factor, x_shape[2] // factor))
        self.factor = factor

    def _apply(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def _adjoint(self, y: Tensor) -> Tensor:
        f = self.factor
        return y.repeat_interleave(f, dim=-2).repeat_interleave(f, dim=-1) / f**2

    def _svd(self) -> SVD:
        """s = 1/factor for each block; V gives a block its constant of unit length, 1/factor, and U is the identity."""
        f, blocks = self.factor, torch.Size(self.y_shape).numel()
        return SVD(
            torch.full((blocks,), 1 / f, dtype=torch.float64),
            v=lambda c: f * self._adjoint(c.unflatten(1, self.y_shape)),
            vt=lambda x: f * self._apply(x).flatten(1),
            u=lambda c: c.unflatten(1, self.y_shape),
            ut=lambda y: y.flatten(1),
        )


class ChannelMix(Operator):
    """One weighted sum of the channels of x (C, H, W) at each pixel, weights w ≠ 0: y (1, H, W); A A* = |w|² I."""

    @checked
    def __init__(self, x_shape: Image, weights: tuple[float, ...]) -> None:
        if len(weights) != x_shape[0] or not any(weights):
            raise CSBError(f"weights={weights} do not mix {x_shape[0]} channels; give one for each, and not only 0")
        super().__init__(x_shape, (1, *x_shape[1:]))
        self.weights = torch.tensor(weights, dtype=torch.float64)[:, None, None]

    def _apply(self, x: Tensor) -> Tensor:
        return (x * self.weights.to(x)).sum(1, keepdim=True)

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self.weights.to(y)

    def _svd(self) -> SVD:
        """s = |w| for each pixel; V gives a pixel the colour w/|w|, and U is the identity."""
        norm = self.weights.norm()
        return SVD(
            norm.expand(self.x_shape[1] * self.x_shape[2]),
            v=lambda c: self._adjoint(c.unflatten(1, self.y_shape)) / norm.to(c),
            vt=lambda x: self._apply(x).flatten(1) / norm.to(x),
            u=lambda c: c.unflatten(1, self.y_shape),
            ut=lambda y: y.flatten(1),
        )


def gaussian_matrix(n: int, std: float, edge: str = "zero") -> Tensor:
    """K (n, n), float64; std in pixels, edge one of :data:`EDGES`."""
    reach = n + math.ceil(_REACH * std)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    g = torch.exp(-0.5 * (offsets / std) ** 2)
    g = g / g.sum()
    index = torch.arange(n)
    if edge == "zero":
        return g[index[:, None] - index + reach]
    wrapped = torch.zeros(n, dtype=torch.float64).index_add(0, offsets.long() % n, g)
    return wrapped[(index[:, None] - index) % n]


class Blur(Operator):
    r"""Gaussian blur of x (C, H, W) as two small matrices: x ↦ K_H x K_Wᵀ, channel by channel; self-adjoint.

    K_{ij} = g(i − j), g(t) ∝ exp(−t²/(2σ²)), σ = ``std`` pixels, of sum 1 over all integers t. Beyond the edge is 0
    ("zero": K is Toeplitz, and rows near the edge sum to less than 1) or the image again ("periodic": K is circulant, g
    summed over its periods). g falls so fast in frequency, like exp(−σ²ω²/2), that for σ = 2 the smallest of the
    singular values of 28×28 pixels is 5e-16 of the largest.
    """

    @checked
    def __init__(self, x_shape: Image, std: Spread, edge: Annotated[str, OneOf(EDGES)] = "zero") -> None:
        super().__init__(x_shape, x_shape)
        self.std, self.edge = std, edge
        self.rows, self.columns = (gaussian_matrix(n, std, edge) for n in x_shape[1:])

    def _apply(self, x: Tensor) -> Tensor:
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.rows.to(y).T @ y @ self.columns.to(y)

    def _svd(self) -> SVD:
        """Channel by channel, the decompositions of the two small matrices give the large one."""
        channels, (U_r, s_r, V_r), (U_c, s_c, V_c) = self.x_shape[0], factors(self.rows), factors(self.columns)
        inner = (channels, len(s_r), len(s_c))

        def maps(left: Tensor, right: Tensor) -> tuple[Map, Map]:
            return (
                lambda c: left.to(c) @ c.unflatten(1, inner) @ right.to(c).T,
                lambda x: (left.to(x).T @ x @ right.to(x)).flatten(1),
            )

        return SVD(torch.outer(s_r, s_c).flatten().repeat(channels), *maps(V_r, V_c), *maps(U_r, U_c))


def random_orthogonal(n: int, generator: torch.Generator, columns: int | None = None) -> Tensor:
    """A Haar-distributed orthogonal matrix (n, n), or columns (n, columns) of one, float64.

    Mezzadri 2007: QR with a positive diagonal of R.
    """
    q, r = torch.linalg.qr(torch.randn(n, columns or n, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()
