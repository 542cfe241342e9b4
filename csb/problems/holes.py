"""Noise-free inpainting: the bridge runs over the unknown pixels only, for p(x | y) leaves the others no freedom."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from csb.errors import CSBError
from csb.problems.operators import Box, Image, InpaintBox
from csb.problems.specs import checked
from csb.problems.transform import PixelRange, register_transform
from csb.schema import Count


class _Cropped(PixelRange):
    """z = 2·crop(x) − 1, the pixels of the hole; decode pastes clamp((z + 1)/2, 0, 1) into the image of y."""

    @abstractmethod
    def _hole(self, y: Tensor | None) -> Any:
        """What selects the pixels of the hole in a batch of images."""

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return 2 * x[self._hole(y)] - 1

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        x = y[:, : self.x_shape[0]].clone()
        x[self._hole(y)] = super().decode(z, y).to(x)
        return x


@register_transform
class Hole(_Cropped):
    """A hole that is always in the same place; c = 2y − 1 at the known pixels and 0 in the hole.

    Args:
        x_shape: (C, H, W).
        box: the hole.
    """

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


@register_transform
class MovingHole(_Cropped):
    """A square hole that may be anywhere: the bridge sees the image from there, one bridge for all positions.

    An observation y (C + 1, H, W) is the image with 0 in the hole, and a last channel that is 1 at the known pixels and
    0 in the hole. c (C, 2H − s, 2W − s), s = ``hole``, is 2y − 1 at the known pixels and 0 elsewhere, in the hole and
    outside the image, shifted so that the hole stands in the middle: whatever its position the canvas holds the whole
    image. Known pixels of a digit are never 0 in c, as 0.5 is no multiple of 1/255: what is known needs no channel of
    its own.

    Raises CSBError for observations whose last channel does not show exactly one such hole.

    Args:
        x_shape: (C, H, W).
        hole: the side of the hole in pixels, below the smaller of H and W.
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
        rows, columns = (
            torch.arange(size, device=top.device) - start[:, None] for size, start in zip(self.x_shape[1:], (top, left))
        )
        inside = [(axis >= 0) & (axis < self.hole) for axis in (rows, columns)]
        return inside[0][:, :, None] & inside[1][:, None, :]

    def _index(self, top: Tensor, left: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """What selects height × width pixels from top, left in every channel of a batch of images."""
        rows = top[:, None] + torch.arange(height, device=top.device)
        columns = left[:, None] + torch.arange(width, device=top.device)
        channels = torch.arange(self.x_shape[0], device=top.device)
        each = torch.arange(len(top), device=top.device)[:, None, None, None]
        return each, channels[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]

    def _hole(self, y: Tensor | None) -> Any:
        assert y is not None, "the state of a moving hole depends on where it is"
        return self._index(*self.corners(y), self.hole, self.hole)

    def encode_y(self, y: Tensor) -> Tensor:
        top, left = self.corners(y)
        down, right = (size - self.hole for size in self.x_shape[1:])
        around = nnf.pad((2 * y[:, :-1] - 1) * y[:, -1:], (right, right, down, down))
        return around[self._index(top, left, *self.c_shape[1:])]
