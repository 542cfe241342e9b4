"""Linear operators A with their adjoints: batched over dim 0, ⟨A x, y⟩ = ⟨x, A* y⟩."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from csb.errors import CSBError

Box = tuple[int, int, int, int]


def check_box(box: Box, shape: tuple[int, ...]) -> None:
    """CSBError unless the box (top, left, height, width), in pixels, lies in an image of shape (C, H, W)."""
    if len(shape) != 3:
        raise CSBError(f"x_shape={shape} is not an image; expected (channels, height, width)")
    top, left, height, width = box
    if min(top, left) < 0 or min(height, width) < 1 or top + height > shape[1] or left + width > shape[2]:
        raise CSBError(
            f"box={box} does not lie in an image of {shape[1]}×{shape[2]} pixels; give (top, left, height, width)"
        )


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

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...


class Matrix(Operator):
    """x ↦ A x for vectors; A is (dy, dx), kept in the precision given."""

    def __init__(self, A: Tensor) -> None:
        if A.ndim != 2:
            raise CSBError(f"A has shape {tuple(A.shape)}; expected a matrix (dy, dx)")
        super().__init__((A.shape[1],), (A.shape[0],))
        self.A = A

    def _apply(self, x: Tensor) -> Tensor:
        return x @ self.A.to(x).T

    def _adjoint(self, y: Tensor) -> Tensor:
        return y @ self.A.to(y)


class InpaintBox(Operator):
    """Sets the pixels of a box to 0 and keeps the others; an orthogonal projection, its own adjoint.

    Args:
        x_shape: (C, H, W).
        box: (top, left, height, width), pixels.
    """

    def __init__(self, x_shape: tuple[int, ...], box: Box) -> None:
        check_box(box, x_shape)
        super().__init__(x_shape, x_shape)
        self.box = box
        self.mask = torch.ones(x_shape)  # 1 = observed
        top, left, height, width = box
        self.mask[:, top : top + height, left : left + width] = 0

    def _apply(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y)


class AveragePool(Operator):
    """Means over factor × factor blocks of pixels; A A* = I/factor².

    Args:
        x_shape: (C, H, W), H and W multiples of the factor.
        factor: at least 1.
    """

    def __init__(self, x_shape: tuple[int, ...], factor: int) -> None:
        if len(x_shape) != 3 or factor < 1 or x_shape[1] % factor or x_shape[2] % factor:
            raise CSBError(f"factor={factor} does not divide the height and width of images of shape {x_shape}")
        super().__init__(x_shape, (x_shape[0], x_shape[1] // factor, x_shape[2] // factor))
        self.factor = factor

    def _apply(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def _adjoint(self, y: Tensor) -> Tensor:
        f = self.factor
        return y.repeat_interleave(f, dim=-2).repeat_interleave(f, dim=-1) / f**2


def random_orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """A Haar-distributed orthogonal matrix (n, n), float64 (Mezzadri 2007: QR with a positive diagonal of R)."""
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()
