"""A UNet on patches for images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from csb.errors import CSBError
from csb.networks.base import Network, TimeEmbedding, zero_init


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with group norm, FiLM from the embedding, and a residual path."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = nn.GroupNorm(8, channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm_2, self.conv_2 = nn.GroupNorm(8, channels), zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.film = nn.Linear(embedding, 2 * channels)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        inner = self.conv_1(nnf.silu(self.norm_1(h)))
        inner = self.norm_2(inner) * (1 + scale) + shift
        return self.skip(h) + self.conv_2(nnf.silu(inner))


class Attention(nn.Module):
    """Self-attention over all positions, residual: lets far strokes of the image agree."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        b, c, height, width = h.shape
        qkv = self.qkv(self.norm(h)).reshape(b, 3, self.heads, c // self.heads, height * width).transpose(3, 4)
        mixed = nnf.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return h + self.out(mixed.transpose(2, 3).reshape(b, c, height, width))


class UNet(Network):
    """Space-to-depth patches, then a UNet (Ronneberger et al. 2015; Ho et al. 2020) with FiLM for time and observation.

    State and observation share a canvas, the larger of the two sizes: a smaller state (a hole) is padded into its
    centre, a smaller observation (low resolution) is enlarged to it. The code of an observation is a map of
    ``channels`` on the patch grid.

    Args:
        channels: width of the finest level, a multiple of 8.
        multipliers: width of each level over ``channels``; one level halves the previous one's map (rounded up).
        blocks: residual blocks a level on the way down (one more on the way up).
        patch: side of a patch in pixels; must divide the canvas.
        attention: self-attention at the coarsest level.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        c_shape: tuple[int, ...],
        heads: int,
        *,
        channels: int = 48,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 2,
        patch: int = 2,
        attention: bool = True,
    ) -> None:
        super().__init__(z_shape, c_shape, heads)
        self.patch, self.canvas = patch, self._canvas(patch)
        embedding, widths = 4 * channels, [channels * m for m in multipliers]
        self.time = TimeEmbedding(embedding)
        self.encoder = nn.Sequential(
            nn.Conv2d(c_shape[0] * patch**2, channels, 3, padding=1),
            ConvCode(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.pooled = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.entry = nn.Conv2d(z_shape[0] * patch**2, channels, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        stack, width = [channels], channels
        for level, target in enumerate(widths):
            for _ in range(blocks):
                self.down.append(ConvBlock(width, target, embedding))
                stack.append(width := target)
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                stack.append(width)
        self.middle = nn.ModuleList([ConvBlock(width, width, embedding) for _ in range(2)])
        self.attend = Attention(width) if attention else nn.Identity()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, target in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(ConvBlock(width + stack.pop(), target, embedding))
                width = target
            if level:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.blocks, self.levels = blocks, len(widths)
        self.exit_norm = nn.GroupNorm(8, width)
        self.exit = zero_init(nn.Conv2d(width, heads * z_shape[0] * patch**2, 3, padding=1))

    def _canvas(self, patch: int) -> tuple[int, int]:
        if len(self.z_shape) != 3 or len(self.c_shape) != 3:
            raise CSBError(
                f"network=unet needs images (channels, height, width), got states {self.z_shape} and observations "
                f"{self.c_shape}; use network=mlp for vectors"
            )
        height, width = (max(a, b) for a, b in zip(self.z_shape[1:], self.c_shape[1:]))
        if height % patch or width % patch:
            raise CSBError(f"patch={patch} does not divide the {height}×{width} image; choose a divisor of both sides")
        return height, width

    def encode(self, c: Tensor) -> Tensor:
        if c.shape[2:] != self.canvas:
            c = nnf.interpolate(c, size=self.canvas, mode="nearest")
        return self.encoder(nnf.pixel_unshuffle(c, self.patch))

    def _margins(self) -> tuple[int, int, int, int]:
        height, width = self.canvas[0] - self.z_shape[1], self.canvas[1] - self.z_shape[2]
        return width // 2, width - width // 2, height // 2, height - height // 2

    def forward(self, z: Tensor, time: Tensor, code: Tensor) -> Tensor:
        left, right, top, bottom = self._margins()
        h = self.entry(nnf.pixel_unshuffle(nnf.pad(z, (left, right, top, bottom)), self.patch)) + code
        embedding = nnf.silu(self.time(time) + self.pooled(code.mean(dim=(2, 3))))
        h = nnf.silu(self.exit_norm(self._body(h, embedding)))
        out = nnf.pixel_shuffle(self.exit(h), self.patch)
        out = out[:, :, top : top + self.z_shape[1], left : left + self.z_shape[2]]
        return out.unflatten(1, (self.heads, self.z_shape[0]))

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


class ConvCode(nn.Module):
    """The middle of the observation encoder: a residual pair of convolutions at two dilations (a wider view)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, channels, 3, padding=1)
        self.far = nn.Conv2d(channels, channels, 3, padding=2, dilation=2)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.near(nnf.silu(h))
        return h + self.far(nnf.silu(h))
