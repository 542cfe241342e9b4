"""The maps between data (x, y) and the bridge's state and condition (z, c). They stand at the bridge's edge only.

A transform is plain data: :meth:`Transform.spec` holds its name, shapes and small constants, its state_dict the
fitted tensors. :func:`build_transform` on the spec, then ``load_state_dict``, restores it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as nnf

from csb.dtypes import Float32Module
from csb.errors import CSBError
from csb.problems.operators import Box, Image, InpaintBox
from csb.problems.parts import parts_of
from csb.problems.rows import Rows
from csb.schema import Count, Registry, build, checked, to_spec


class Transform(Float32Module, ABC):
    """x ↔ z given y, and y → c.

    Attributes:
        x_shape, y_shape: shapes of one data point and one observation.
        z_shape, c_shape: shapes of one bridge state and one condition.
        has_gaps: whether, once it is fitted, values of the training's observations are missing, which are NaN.
        parts: of a y of named parts, their shapes by name (:mod:`csb.problems.parts`); None for other y.
        informed: once it is fitted, how many numbers of a state, which come first, y tells of; the others are white
            noise. None: all.
        any_units: whether pixels may have any unit, that of the training pairs; else they lie in [0, 1].
    """

    name: ClassVar[str]
    any_units: bool = False
    has_gaps: bool = False
    informed: int | None = None
    parts: dict[str, tuple[int, ...]] | None = None
    works_in = (torch.float32, torch.float64)

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.x_shape = self.z_shape = tuple(x_shape)
        self.y_shape = self.c_shape = tuple(y_shape)

    @abstractmethod
    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *x_shape) → z (B, *z_shape); y (B, *y_shape) where the state depends on it (a moving hole)."""

    @abstractmethod
    def encode_y(self, y: Tensor) -> Tensor:
        """y (B, *y_shape) → c (B, *c_shape)."""

    @abstractmethod
    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """z (B, *z_shape) and its observations y (B, *y_shape), one for each row → x (B, *x_shape)."""

    def fit(self, rows: Rows) -> Self:
        """The transform itself, its tensors set by training pairs where it has any."""
        return self

    def unknown(self, y: Tensor) -> Tensor | None:
        """The coordinates of x that y (B, *y_shape) leaves open, boolean (B, *x_shape); None where it leaves all."""
        return None

    def dtype_of(self, key: str) -> torch.dtype:
        """The dtype of "x" or "y" as data: float64 where float32 is too coarse for its distance from 0."""
        return torch.float32

    def x_scale(self) -> Tensor:
        """The spread of x in training, float64, broadcastable to x_shape: the unit of scores. 1 for pixels."""
        return torch.ones((), dtype=torch.float64)

    def y_range(self) -> tuple[Tensor, Tensor] | None:
        """Between which encoded observations lay in training, broadcastable to c_shape; None where it is not known."""
        return None

    def is_far(self, y: Tensor) -> Tensor:
        """Which observations (B, *y_shape) lie outside the range of training by more than half of it, and 1: (B,)."""
        if (known := self.y_range()) is None:
            return torch.zeros(len(y), dtype=torch.bool, device=y.device)
        low, high = known
        margin = ((high - low) / 2).clamp_min(1)
        c = self.encode_y(y)
        return ((c < low - margin) | (c > high + margin)).flatten(1).any(1)

    def left_out(self) -> Self:
        """A copy that encodes the pairs it was fitted to as others would be: they may be too well known to it."""
        return self

    def preimage(self, z: Tensor, generator: torch.Generator, c: Tensor | None = None) -> Tensor:
        """States to train on, (B, *z_shape), drawn among those that decode to the same x as z. By default z itself.

        So the bridge may have a smoother law to learn. The generator lives on z's device; c (B, *c_shape) where the
        state depends on it.
        """
        return z

    def dequantised(self, z: Tensor, generator: torch.Generator, c: Tensor | None = None) -> Tensor:
        """z (B, *z_shape) with uniform noise where x takes whole numbers only; elsewhere, and by default, z itself."""
        return z

    def log_jacobian(self, x: Tensor) -> Tensor:
        """log |det dz/dx| at x (B, *x_shape), (B,), float64; −∞ where no state decodes to x.

        NotImplementedError where the samples have no density.
        """
        raise NotImplementedError(
            f"transform={self.name} gives x no density: its decode is not smooth and one-to-one, as where it clamps "
            f"pixels to [0, 1]; compare samples instead"
        )

    def lift(self, x: Tensor, uniform: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A state z that decodes to x (B, *x_shape), and (B,), float64, log |det dz/dx| − log q(z).

        q is the chance with which z is drawn among several such states, by the uniform numbers (B, *z_shape); 1 where
        there is one. For any density p of z, E[p(z) |det dz/dx|/q(z)] is that of x. y (B', *y_shape), one for
        B/B' x that follow each other, where the state depends on it. NotImplementedError as :meth:`log_jacobian`.
        """
        scale = self.log_jacobian(x)
        return self.encode_x(x), scale

    @property
    def has_rows(self) -> bool:
        """Whether y, or a part of it, is a series or set (L, d), which may be filled up."""
        return 2 in map(len, self.parts.values() if self.parts else [self.y_shape])

    def spec(self) -> dict[str, Any]:
        """{"name": …, **arguments} as plain data, with the parts of y where it has any."""
        return to_spec(self) | ({"parts": {k: list(v) for k, v in self.parts.items()}} if self.parts else {})


TRANSFORMS: Registry[Transform] = Registry()


def build_transform(spec: Mapping[str, Any]) -> Transform:
    """The transform of a spec, its fitted tensors still to be loaded. CSBError for a bad name or argument."""
    found = build("transform", TRANSFORMS, {key: value for key, value in spec.items() if key != "parts"})
    found.parts = parts_of(spec.get("parts"), found.y_shape)
    return found


@TRANSFORMS.register
class Identity(Transform):
    """z = x and c = y."""

    name = "identity"

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x

    def encode_y(self, y: Tensor) -> Tensor:
        return y

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return z

    def log_jacobian(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)


@TRANSFORMS.register
class PixelRange(Transform):
    """Images x, and y of any shape, in [0, 1] to [−1, 1]: z = 2x − 1, c = 2y − 1; decode clamps to [0, 1]."""

    name = "pixel_range"

    def y_range(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(-1.0), torch.tensor(1.0)

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return 2 * x - 1

    def encode_y(self, y: Tensor) -> Tensor:
        return 2 * y - 1

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return ((z + 1) / 2).clamp(0, 1)


class _Cropped(PixelRange):
    """Noise-free inpainting: the state is the pixels of a hole alone, for y leaves the others no freedom.

    z = 2·crop(x) − 1; decode pastes clamp((z + 1)/2, 0, 1) into the image of y.
    """

    @abstractmethod
    def _hole(self, y: Tensor | None) -> Any:
        """What selects the pixels of the hole in a batch of images."""

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return 2 * x[self._hole(y)] - 1

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        x = y[:, : self.x_shape[0]].clone()
        x[self._hole(y)] = super().decode(z, y).to(x)
        return x


@TRANSFORMS.register
class Hole(_Cropped):
    """A hole in images (C, H, W) that is always the same box; c = 2y − 1 at the known pixels and 0 in the hole."""

    name = "hole"
    known: Tensor

    @checked
    def __init__(self, x_shape: Image, box: Box) -> None:
        super().__init__(x_shape, x_shape)
        self.box, self.z_shape = box, (x_shape[0], box[2], box[3])
        self.register_buffer("known", InpaintBox(x_shape, box).mask)

    def unknown(self, y: Tensor) -> Tensor:
        return (self.known == 0).to(y.device).expand(len(y), *self.x_shape)

    def _hole(self, y: Tensor | None) -> Any:
        top, left, height, width = self.box
        return ..., slice(top, top + height), slice(left, left + width)

    def encode_y(self, y: Tensor) -> Tensor:
        return (2 * y - 1) * self.known


@TRANSFORMS.register
class MovingHole(_Cropped):
    """A square hole that may be anywhere in images (C, H, W): the bridge sees them from there, one for all positions.

    An observation y (C + 1, H, W) is the image with 0 in the hole, and a last channel that is 1 at the known pixels and
    0 in the hole; CSBError where that does not show exactly one such hole. With s = ``hole`` < min(H, W), its side in
    pixels, c (C, 2H − s, 2W − s) is 2y − 1 at the known pixels and 0 in the hole and outside the image, shifted so that
    the hole stands in the middle: the canvas holds the whole image. Known pixels of a digit are never 0 in c, as 0.5 is
    no multiple of 1/255.
    """

    name = "moving_hole"

    @checked
    def __init__(self, x_shape: Image, hole: Count) -> None:
        if hole >= min(x_shape[1:]):
            raise CSBError(f"hole={hole} does not move in an image of shape {tuple(x_shape)}; give one that is smaller")
        C, H, W = x_shape
        super().__init__(x_shape, (C + 1, H, W))
        self.z_shape, self.c_shape = (C, hole, hole), (C, 2 * H - hole, 2 * W - hole)
        self.hole = hole

    def observe(self, x: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """x (B, *x_shape) seen with holes whose corners are top, left (B,), int64: y (B, *y_shape)."""
        known = ~self._box(top, left)[:, None]
        return torch.cat([x * known, known.to(x)], dim=1)

    def corners(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """top, left (B,), int64, of the holes of observations y (B, *y_shape). CSBError where there is not one hole."""
        known = y[:, -1]
        top, left = ((known == 0).any(dim).int().argmax(1) for dim in (2, 1))
        wrong = ((known != (~self._box(top, left)).to(y)).flatten(1).any(1)).nonzero()
        if len(wrong):
            raise CSBError(
                f"the last channel of observation {int(wrong[0])} does not show one hole of {self.hole}×{self.hole} "
                "pixels; give 0 in the hole and 1 elsewhere"
            )
        return top, left

    def unknown(self, y: Tensor) -> Tensor:
        return (y[:, -1:] == 0).expand(-1, self.x_shape[0], -1, -1)

    def _box(self, top: Tensor, left: Tensor) -> Tensor:
        """The hole's pixels, boolean (B, H, W)."""

        def inside(size: int, start: Tensor) -> Tensor:
            place = torch.arange(size, device=start.device) - start[:, None]
            return (place >= 0) & (place < self.hole)

        _, H, W = self.x_shape
        return inside(H, top)[:, :, None] & inside(W, left)[:, None]

    def _index(self, top: Tensor, left: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """What selects height × width pixels from top, left in every channel of a batch of images."""
        sizes = (len(top), self.x_shape[0], height, width)
        each, channels, down, right = (torch.arange(size, device=top.device) for size in sizes)
        rows, columns = top[:, None] + down, left[:, None] + right
        return each[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None], columns[:, None, None]

    def _hole(self, y: Tensor | None) -> Any:
        assert y is not None, "the state of a moving hole depends on where it is"
        return self._index(*self.corners(y), self.hole, self.hole)

    def encode_y(self, y: Tensor) -> Tensor:
        top, left = self.corners(y)
        down, right = (size - self.hole for size in self.x_shape[1:])
        around = nnf.pad((2 * y[:, :-1] - 1) * y[:, -1:], (right, right, down, down))
        return around[self._index(top, left, *self.c_shape[1:])]
