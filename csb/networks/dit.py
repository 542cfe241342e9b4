"""A Diffusion Transformer on patches for images."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from csb.dtypes import off_meta
from csb.errors import CSBError
from csb.networks.base import MOST_WIDTH, Width, exit_init, zero_init
from csb.networks.images import ImageNetwork


def positions(rows: range, columns: range, width: int) -> Tensor:
    """Sines and cosines of both indices of each patch (Vaswani et al. 2017), (rows·columns, width), float32.

    The first half of the numbers, sines then cosines, tells of the row and the second of the column, at the frequencies
    10⁻⁴ⁱᐟⁿ, i = 0, …, n − 1, with n = width/4.
    """
    at = torch.cartesian_prod(*(torch.tensor(axis, dtype=torch.float64) for axis in (rows, columns)))
    frequencies = 1e-4 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    phase = at[:, :, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=2).flatten(1).float()


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens (B, n, width) with mean 0 and variance 1 each, then scaled by 1 + scale and shifted, (B, 1, width)."""
    return nnf.layer_norm(h, h.shape[2:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Self-attention, then an MLP, each residual, with shift, scale and gate linear in the embedding (adaLN-Zero).

    The gates start at 0, and so the block as the identity.
    """

    def __init__(self, width: int, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.modulation = zero_init(nn.Linear(width, 6 * width))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Tokens h (B, n, width) and the embedding (B, width) to tokens."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(embedding)[:, None].chunk(6, dim=2)
        qkv = self.qkv(modulated(h, shift, scale)).unflatten(2, (3, self.attention_heads, -1))
        mixed = nnf.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        h = h + gate * self.mix(mixed.transpose(1, 2).flatten(2))
        return h + mlp_gate * self.mlp(modulated(h, mlp_shift, mlp_scale))


class DiT(ImageNetwork):
    """A Diffusion Transformer (Peebles & Xie 2023, adaLN-Zero): the patches are tokens, all of which see each other.

    The encoder's map of the observation is added to the tokens, its vector to the embedding of the time.

    Args:
        width: numbers of a token.
        depth: blocks.
        attention_heads: of each block, which share the width.
        patch, margin, skip: as of :class:`csb.networks.images.ImageNetwork`. The cost of attention grows with the
            square of the number of patches.

    CSBError for a width that the heads do not divide.
    """

    positions: Tensor

    def __init__(
        self,
        *shapes: Any,
        width: Annotated[int, Field(ge=32, le=MOST_WIDTH, multiple_of=32)] = 192,
        depth: Annotated[int, Field(ge=1, le=1000)] = 6,
        attention_heads: Width = 3,
        patch: Width = 2,
        margin: Annotated[int, Field(ge=0, le=MOST_WIDTH)] = 0,
        skip: bool = False,
    ) -> None:
        if width % attention_heads:
            raise CSBError(
                f"network.options.attention_heads={attention_heads} do not divide width={width}; change one of them"
            )
        channels = width // 4  # two convolutions of all of the width would cost as much as two blocks
        super().__init__(*shapes, patch=patch, margin=margin, channels=channels, embedding=width, skip=skip)
        numbers = self.z_shape[0] * patch**2
        self.entry, self.near = nn.Linear(numbers, width), nn.Linear(channels, width)
        with off_meta():
            table = positions(self.rows, self.columns, width)
        self.register_buffer("positions", table, persistent=False)
        self.blocks = nn.ModuleList(Block(width, attention_heads) for _ in range(depth))
        self.modulation = zero_init(nn.Linear(width, 2 * width))
        self.gains = self.new_gains()
        self.exit = exit_init(nn.Linear(width, self.heads * numbers), self.heads)

    def trunk(self, patches: Tensor, near: Tensor, embedding: Tensor) -> Tensor:
        h = self.entry(patches.flatten(2).mT) + self.near(near.flatten(2).mT) + self.positions
        for block in self.blocks:
            h = block(h, embedding)
        out = self.exit(modulated(h, *self.modulation(embedding)[:, None].chunk(2, dim=2)))
        return out.mT.unflatten(2, patches.shape[2:])
