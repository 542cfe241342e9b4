"""Noise-free inpainting of a square hole that may be anywhere: the observation says where."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from csb.errors import CSBError
from csb.problems.operators import Image
from csb.problems.specs import checked
from csb.problems.transform import PixelRange, register_transform
from csb.schema import Count


@register_transform
class MovingHole(PixelRange):
    """The bridge runs over the hole, and sees the image from there: one bridge for all positions.

    An observation y (C + 1, H, W) is the image with 0 in the hole, and a last channel that is 1 at the known pixels and
    0 in the hole. z = 2·crop(x at the hole) − 1; c (C, 2H − s, 2W − s), s = ``hole``, is 2y − 1 at the known pixels and
    0 elsewhere, in the hole and outside the image, shifted so that the hole stands in the middle: whatever its position
    the canvas holds the whole image. decode pastes clamp((z + 1)/2, 0, 1) into the image of y. Known pixels of a digit
    are never 0 in c, as 0.5 is no multiple of 1/255: what is known needs no channel of its own.

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
            (torch.arange(size, device=top.device) - start[:, None]).ge(0)
            & (torch.arange(size, device=top.device) - start[:, None]).lt(self.hole)
            for size, start in zip(self.x_shape[1:], (top, left))
        )
        return rows[:, :, None] & columns[:, None, :]

    def _index(self, top: Tensor, left: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What selects height × width pixels from top, left in every channel of a batch of images."""
        B, device = len(top), top.device
        rows = top[:, None] + torch.arange(height, device=device)
        columns = left[:, None] + torch.arange(width, device=device)
        channels = torch.arange(self.x_shape[0], device=device)
        each = torch.arange(B, device=device)[:, None, None, None]
        return each, channels[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            raise CSBError("the state of a moving hole depends on where it is; pass the observations: encode_x(x, y)")
        return 2 * x[self._index(*self.corners(y), self.hole, self.hole)] - 1

    def encode_y(self, y: Tensor) -> Tensor:
        top, left = self.corners(y)
        down, right = (size - self.hole for size in self.x_shape[1:])
        around = nnf.pad((2 * y[:, :-1] - 1) * y[:, -1:], (right, right, down, down))
        return around[self._index(top, left, *self.c_shape[1:])]

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        x = y[:, :-1].clone()
        x[self._index(*self.corners(y), self.hole, self.hole)] = ((z + 1) / 2).clamp(0, 1).to(x)
        return x
