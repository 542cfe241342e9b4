"""What networks of images share: the observation on the state's canvas, patches, and what is carried past the trunk."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from csb.errors import CSBError
from csb.networks.base import Network, TimeEmbedding, zero_init


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight groups of at least two channels: a group of one number (on a 1×1 map) would always be normalised to 0."""
    return nn.GroupNorm(min(8, channels // 2), channels)


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with group norm and a residual path; FiLM where there is an embedding (width > 0)."""

    def __init__(self, channels_in: int, channels: int, embedding: int = 0) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = group_norm(channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm_2, self.conv_2 = group_norm(channels), zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.film = nn.Linear(embedding, 2 * channels) if embedding else None
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor | None = None) -> Tensor:
        inner = self.norm_2(self.conv_1(nnf.silu(self.norm_1(h))))
        if self.film is not None and embedding is not None:
            scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
            inner = inner * (1 + scale) + shift
        return self.skip(h) + self.conv_2(nnf.silu(inner))


class ImageEncoder(nn.Module):
    """An observation on the patch grid to a map (B, channels, height, width) and a vector (B, width) of the whole."""

    def __init__(self, channels_in: int, channels: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        half = (grid[0] + 1) // 2 * ((grid[1] + 1) // 2)
        self.entry = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.near = ConvBlock(channels, channels)
        self.shrink = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.far = ConvBlock(channels, channels)
        self.whole = nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(channels * half, width))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        near = self.near(self.entry(patches))
        far = self.far(self.shrink(near))
        return near + nnf.interpolate(far, size=near.shape[2:], mode="nearest"), self.whole(far)


class UniformMap(nn.Module):
    """A vector observation (B, d) to a map that is the same everywhere and a vector (B, width)."""

    def __init__(self, dim: int, channels: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.entry = nn.Sequential(nn.Linear(dim, width), nn.SiLU())
        self.near, self.whole = nn.Linear(width, channels), nn.Linear(width, width)

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        h = self.entry(c)
        return self.near(h)[:, :, None, None].expand(-1, -1, *self.grid), self.whole(h)


class ImageNetwork(Network):
    """Images as patches, their channels in depth, and a trunk over these that knows time and observation.

    State and observation share a canvas, the larger of the two sizes; zeros fill patches that its last rows and columns
    do not. The encoder sees the observation on the whole canvas (a smaller one, of low resolution, is enlarged to it);
    the trunk runs over the state's *window* alone: the patches of a centred hole and ``margin`` patches around it, or
    the whole canvas where the state fills it. The context is the encoder's map over that window and a vector of the
    whole, with ``skip`` also the observation's pixels where the state is, flattened to (B, …).

    Args:
        patch: side of a patch in pixels.
        margin: patches around a hole that the trunk also runs over.
        channels: of the encoder's map.
        embedding: numbers of its vector, and of the time's embedding.
        skip: add the state, and the observation where this is an image too, to the first head's output, times gains
            that time and observation set: rough images need not pass the normalised maps.

    CSBError for states that are no images (C, H, W), or observations that are neither images nor vectors.
    """

    gains: nn.Linear | None

    def __init__(self, *shapes: Any, patch: int, margin: int, channels: int, embedding: int, skip: bool) -> None:
        super().__init__(*shapes)
        z_channels, c_shape = self.z_shape[0], self.c_shape
        self.patch, self.channels, self.embedding = patch, channels, embedding
        self.canvas = self._canvas()
        (self.rows, *vertical), (self.columns, *horizontal) = (self._window(axis, margin) for axis in (1, 2))
        self.padding = (*horizontal, *vertical)
        grid = (-(-self.canvas[0] // patch), -(-self.canvas[1] // patch))
        if len(c_shape) == 1:
            self.encoder = UniformMap(c_shape[0], channels, embedding, grid)
        else:
            self.encoder = ImageEncoder(c_shape[0] * patch**2, channels, embedding, grid)
        self.time = TimeEmbedding(embedding)
        self.carried = z_channels + (c_shape[0] if len(c_shape) == 3 else 0) if skip else 0

    @abstractmethod
    def trunk(self, patches: Tensor, near: Tensor, embedding: Tensor) -> Tensor:
        """The outputs' patches, (B, heads·C·patch², h, w) over the window of h × w, ordered by head.

        Args:
            patches: of the state, (B, C·patch², h, w).
            near: the encoder's map there, (B, channels, h, w).
            embedding: of time and the whole observation, (B, embedding), behind a SiLU.
        """

    def new_gains(self) -> nn.Linear | None:
        """The layer of the gains of what is carried past the trunk, 0 at the start; None without ``skip``."""
        return zero_init(nn.Linear(self.embedding, self.z_shape[0] * self.carried)) if self.carried else None

    def _canvas(self) -> tuple[int, int]:
        if len(self.z_shape) != 3 or len(self.c_shape) not in (1, 3):
            raise CSBError(
                f"network={type(self).__name__.lower()} needs images (channels, height, width), got states "
                f"{self.z_shape} and observations {self.c_shape}; use network=mlp for vectors"
            )
        beside = self.c_shape[1:] if len(self.c_shape) == 3 else self.z_shape[1:]
        return max(self.z_shape[1], beside[0]), max(self.z_shape[2], beside[1])

    def _window(self, axis: int, margin: int) -> tuple[range, int, int]:
        """The patches along an axis that hold the centred state and the margin, and the pixels on its either side."""
        size, whole = self.z_shape[axis], self.canvas[axis - 1]
        start = (whole - size) // 2
        first, last = start // self.patch - margin, -(-(start + size) // self.patch) + margin
        patches = range(max(0, first), min(-(-whole // self.patch), last))
        before = start - patches.start * self.patch
        return patches, before, len(patches) * self.patch - size - before

    def encode(self, c: Tensor) -> Tensor:
        if c.ndim == 4 and c.shape[2:] != self.canvas:
            c = nnf.interpolate(c, size=self.canvas, mode="nearest")
        near, whole = self.encoder(self._patches(c) if c.ndim == 4 else c)
        near = near[:, :, self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]
        parts = [near.flatten(1), whole]
        if self.carried > self.z_shape[0]:  # the pixels of c where the state is
            (_, height, width), (before, _, above, _) = self.z_shape, self.padding
            top, left = self.rows.start * self.patch + above, self.columns.start * self.patch + before
            parts.append(c[:, :, top : top + height, left : left + width].flatten(1))
        return torch.cat(parts, dim=1)

    def _patches(self, image: Tensor) -> Tensor:
        """The patches of an image; zeros fill those at its right and lower end."""
        height, width = image.shape[2:]
        return nnf.pixel_unshuffle(nnf.pad(image, (0, -width % self.patch, 0, -height % self.patch)), self.patch)

    def forward(self, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        cells = self.channels * len(self.rows) * len(self.columns)
        near, whole, pixels = context.tensor_split((cells, cells + self.embedding), dim=1)
        near = near.unflatten(1, (self.channels, len(self.rows), len(self.columns)))
        embedding = nnf.silu(self.time(time) + whole)
        patches = nnf.pixel_unshuffle(nnf.pad(z, self.padding), self.patch)
        out = nnf.pixel_shuffle(self.trunk(patches, near, embedding), self.patch)
        out = out[:, :, top : out.shape[2] - bottom, left : out.shape[3] - right]
        out = out.unflatten(1, (self.heads, self.z_shape[0]))
        if self.gains is None:
            return out
        carried = torch.cat([z, pixels.unflatten(1, (-1, *z.shape[2:]))], 1) if pixels.shape[1] else z
        gains = self.gains(embedding).unflatten(1, (self.z_shape[0], self.carried))
        added = torch.einsum("bzc,bchw->bzhw", gains, carried)
        return torch.cat([out[:, :1] + added[:, None], out[:, 1:]], dim=1)
