"""Networks for vectors."""

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from csb.networks.base import Network, TimeEmbedding, Width, build_encoder, exit_init, zero_init
from csb.process.schedule import Steps


class ResidualBlock(nn.Module):
    """h + W₂ SiLU(W₁ norm(h)·(1 + a) + b), with (a, b) linear in the embedding (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), zero_init(nn.Linear(width, width))
        self.film = nn.Linear(embedding, 2 * width)

    def forward(self, h: Tensor, embedding: Tensor, rows: Tensor | None) -> Tensor:
        """h (B, width); embedding (U, embedding), of which rows (B,) takes each row's; None: of all rows, or one."""
        film = self.film(embedding)
        if rows is not None:
            film = film.index_select(0, rows)  # whose backward pass takes a fifth of that of film[rows]
        scale, shift = film.chunk(2, dim=1)
        inner = torch.addcmul(shift, self.inner(self.norm(h)), 1 + scale)
        return h + self.outer(nn.functional.silu(inner))


class MLP(Network):
    """A residual MLP on the sum of embedded state and observation context.

    The context (B, width) is the encoder's. The first and last layers stay in float32 under autocast: near the data a
    step is finer than bfloat16 resolves a state.
    """

    def __init__(self, *shapes: Any, width: Width = 256, depth: Annotated[int, Field(ge=1, le=1000)] = 4,
                 encoder: str | dict[str, Any] = "vector") -> None:  # fmt: skip
        super().__init__(*shapes)
        z_dim, heads = math.prod(self.z_shape), self.heads
        self.encoder = build_encoder(encoder, self.c_shape, width)
        self.entry = nn.Linear(z_dim, width)
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList([ResidualBlock(width, width) for _ in range(depth)])
        self.exit = nn.Sequential(nn.LayerNorm(width), exit_init(nn.Linear(width, heads * z_dim), heads))

    def encode(self, c: Tensor) -> Tensor:
        with torch.autocast(c.device.type, enabled=False):
            return self.encoder(c)

    def forward(self, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            h = self.entry(z.flatten(1)) + context
        rows = None
        if len(time) > 1 and not time.is_cuda:  # at most T differ; a GPU would wait to know how many
            time, rows = torch.unique(time, return_inverse=True)
        embedding = nn.functional.silu(self.time(time))
        for block in self.blocks:
            h = block(h, embedding, rows)
        with torch.autocast(z.device.type, enabled=False):
            return self.exit(h).unflatten(1, (self.heads, *self.z_shape))


class Affine(Network):
    """One affine map of (z, c) a step: the exact function class of linear-Gaussian problems.

    The covariance's heads are constants a step, at the start as of :func:`csb.networks.exit_init`. The context is the
    flattened observation itself.
    """

    def __init__(self, *shapes: Any, steps: Steps) -> None:
        super().__init__(*shapes)
        z_dim, c_dim = math.prod(self.z_shape), math.prod(self.c_shape)
        self.steps = steps
        self.weight = nn.Parameter(torch.zeros(steps + 1, z_dim, z_dim + c_dim, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(steps + 1, z_dim, dtype=torch.float32))
        spread = torch.zeros(steps + 1, self.heads - 1, z_dim, dtype=torch.float32)
        nn.init.normal_(spread[:, 1:], std=0.01)
        self.spread = nn.Parameter(spread)

    def encode(self, c: Tensor) -> Tensor:
        return c.flatten(1)

    def forward(self, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
        k = (time * self.steps).round().long().expand(len(z))
        both = torch.cat([z.flatten(1), context], dim=1)
        mean = torch.einsum("bij,bj->bi", self.weight[k], both) + self.bias[k]
        return torch.cat([mean[:, None], self.spread[k]], dim=1).unflatten(2, self.z_shape)
