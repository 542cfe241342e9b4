"""A UNet on patches for images."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from csb.networks.base import MOST_WIDTH, Width, exit_init, zero_init
from csb.networks.images import ConvBlock, ImageNetwork, group_norm

Multiplier = Annotated[int, Field(ge=1, le=64)]


class Attention(nn.Module):
    """Self-attention over all positions, residual: lets far strokes of the image agree."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = group_norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        b, c, height, width = h.shape
        qkv = self.qkv(self.norm(h)).reshape(b, 3, self.heads, c // self.heads, height * width).transpose(3, 4)
        mixed = nnf.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return h + self.out(mixed.transpose(2, 3).reshape(b, c, height, width))


class UNet(ImageNetwork):
    """A UNet (Ronneberger et al. 2015; Ho et al. 2020) on patches, with FiLM for time and observation.

    Args:
        channels: width of the finest level.
        multipliers: width of each level over ``channels``; each level halves the previous one's map (rounded up).
        blocks: residual blocks a level on the way down (one more on the way up).
        attention: self-attention at the coarsest level.
        patch, margin, skip: as of :class:`csb.networks.images.ImageNetwork`.
    """

    def __init__(
        self,
        *shapes: Any,
        channels: Annotated[int, Field(ge=8, le=MOST_WIDTH, multiple_of=8)] = 48,
        multipliers: Annotated[tuple[Multiplier, ...], Field(min_length=1, max_length=8)] = (1, 2),
        blocks: Annotated[int, Field(ge=1, le=64)] = 1,
        patch: Width = 2,
        margin: Annotated[int, Field(ge=0, le=MOST_WIDTH)] = 0,
        attention: bool = True,
        skip: bool = False,
    ) -> None:
        embedding = 4 * channels
        super().__init__(*shapes, patch=patch, margin=margin, channels=channels, embedding=embedding, skip=skip)
        z_channels = self.z_shape[0]
        self.entry = nn.Conv2d(z_channels * patch**2, channels, 3, padding=1)
        width = self._levels(channels, [channels * m for m in multipliers], blocks, embedding)
        self.attend = Attention(channels * multipliers[-1]) if attention else nn.Identity()
        self.gains = self.new_gains()
        self.exit_norm = group_norm(width)
        self.exit = exit_init(nn.Conv2d(width, self.heads * z_channels * patch**2, 3, padding=1), self.heads)

    def _levels(self, width: int, widths: list[int], blocks: int, embedding: int) -> int:
        """The way down from maps of a width, the middle and the way up; returns the width at the end."""
        self.blocks, self.levels = blocks, len(widths)
        self.down, self.shrink, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        stack = [width]
        for level, target in enumerate(widths):
            for _ in range(blocks):
                self.down.append(ConvBlock(width, target, embedding))
                stack.append(width := target)
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                stack.append(width)
        self.middle = nn.ModuleList([ConvBlock(width, width, embedding) for _ in range(2)])
        for level, target in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(ConvBlock(width + stack.pop(), target, embedding))
                width = target
            if level:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        return width

    def trunk(self, patches: Tensor, near: Tensor, embedding: Tensor) -> Tensor:
        h = self._body(self.entry(patches) + near, embedding)
        return self.exit(nnf.silu(self.exit_norm(h)))

    def _body(self, h: Tensor, embedding: Tensor) -> Tensor:
        stack, down, up = [h], iter(self.down), iter(self.up)
        for level in range(self.levels):
            for _ in range(self.blocks):
                stack.append(h := next(down)(h, embedding))
            if level < self.levels - 1:
                stack.append(h := self.shrink[level](h))
        h = self.middle[1](self.attend(self.middle[0](h, embedding)), embedding)
        for level in range(self.levels):
            for _ in range(self.blocks + 1):
                h = next(up)(torch.cat([h, stack.pop()], dim=1), embedding)
            if level < self.levels - 1:
                h = self.grow[level](nnf.interpolate(h, size=stack[-1].shape[2:], mode="nearest"))
        return h
