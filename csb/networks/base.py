"""What every drift network looks like from outside, and the networks of vectors."""

import math
from abc import ABC, abstractmethod
from itertools import zip_longest
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from csb.dtypes import Float32Module, float32_layers, off_meta
from csb.errors import CSBError
from csb.networks.encoders import build_encoder, build_named, masked_shape, with_mask
from csb.process.schedule import Steps
from csb.schema import shown

MOST_WIDTH = 2**16
Width = Annotated[int, Field(ge=1, le=MOST_WIDTH)]  # of any layer


class Network(Float32Module, ABC):
    """A function of (state z, step k, observation c) with ``heads`` outputs of the state's shape.

    The observation is encoded once and its context reused at every step and for every sample of it. A network's options
    are keyword-only arguments of its constructor, after these three, which :func:`csb.networks.build_network` checks by
    their annotations; ``missing``, which that function also takes, is an option of all.

    Args:
        z_shape: shape of one state.
        c_shape: shape of one encoded observation.
        heads: outputs of the state's shape: the mean, then what the kernel's covariance takes.

    Attributes:
        missing: whether values of an observation may be missing, which are NaN. ``c_shape`` is then that of values and
            mask, see :func:`with_mask`.
    """

    missing: bool = False

    def __init__(self, z_shape: tuple[int, ...], c_shape: tuple[int, ...], heads: int) -> None:
        super().__init__()
        self.z_shape, self.c_shape, self.heads = tuple(z_shape), tuple(c_shape), heads

    def context(self, c: Tensor) -> Tensor:
        """Encode observations as the transform gives them, with NaN where values are missing, to a context (B, …)."""
        return self.encode(with_mask(c) if self.missing else c)

    @abstractmethod
    def encode(self, c: Tensor) -> Tensor:
        """c (B, *c_shape) to a context (B, …)."""

    @abstractmethod
    def forward(self, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """z (B, *z_shape), time k/T in [0, 1] of shape (B,) or (1,), context (B, …) to (B, heads, *z_shape)."""


NETWORKS: dict[str, type[Network]] = {}  # by their names, which csb.networks enters; nothing else is built from files


def build_network(
    spec: dict[str, Any], z_shape: tuple[int, ...], c_shape: tuple[int, ...], heads: int, times: int = 1
) -> Network:
    """Make a float32 network from plain data: {"name": one of NETWORKS, **options}; lists stand for tuples.

    With {"missing": true} among them, it takes observations of which values are missing. With several ``times`` its
    time is (B, times) or (1, times), which a network with a :class:`TimeEmbedding` as its ``time`` can take.

    CSBError for an unknown name, options that are unknown, missing or out of the range that the network declares, or
    several times where it embeds none.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    if not isinstance(missing := options.pop("missing", False), bool):
        raise CSBError(f"network.options.missing={shown(missing)} is not possible; give true or false")
    shape = masked_shape(tuple(c_shape)) if missing else c_shape
    with float32_layers():
        network = build_named("network", NETWORKS, options, "network.options", z_shape, shape, heads)
        if times > 1:
            if not isinstance(embedding := getattr(network, "time", None), TimeEmbedding):
                raise CSBError(
                    f"network={spec['name']} does not embed its time, and {times} times are asked of it; choose mlp, "
                    f"unet or dit"
                )
            network.time = TimeEmbedding(embedding.dim, times)
    network.missing = missing
    return network


Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def zero_init(layer: Layer) -> Layer:
    """The layer with zero weights."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def exit_init(layer: Layer, heads: int) -> Layer:
    """The last layer of a network, its outputs ordered by head.

    The first two heads (mean and log-variance) start at 0. Further heads start small, random and without a constant:
    at 0 the likelihood of a low-rank covariance has a saddle point, and a constant would be a pattern over patches.
    """
    first = 2 * layer.weight.shape[0] // heads if heads > 2 else layer.weight.shape[0]
    with torch.no_grad():
        layer.weight.mul_(0.1)[:first] = 0
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


class TimeEmbedding(nn.Module):
    """Sinusoidal features of 1000·k/T (Vaswani et al. 2017; Ho et al. 2020), then a two-layer MLP: (B,) to (B, dim).

    Of several times, (B, times) to (B, dim), features of 10 times each: these are for networks whose derivative in time
    is fitted, which high frequencies swamp (Song & Dhariwal 2023).
    """

    frequencies: Tensor

    def __init__(self, dim: int, times: int = 1) -> None:
        super().__init__()
        self.dim, half = dim, 32
        with off_meta():
            longest = torch.log(torch.tensor(1e4, dtype=torch.float32))
            frequencies = torch.exp(-torch.arange(half, dtype=torch.float64) * (longest / half))
        self.register_buffer("frequencies", ((1000 if times == 1 else 10) * frequencies).float(), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half * times, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        phase = time[..., None] * self.frequencies
        return self.mlp(torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(1))


class ResidualBlock(nn.Module):
    """h + W₂ SiLU(W₁ norm(h)·(1 + a) + b), with (a, b) linear in the embedding (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), zero_init(nn.Linear(width, width))
        self.film = nn.Linear(embedding, 2 * width)

    def forward(self, h: Tensor, embedding: Tensor, rows: Tensor | None, gain: Tensor | None = None) -> Tensor:
        """h (B, width); embedding (U, embedding), of which rows (B,) takes each row's; None: of all rows, or one.

        ``gain`` (B, width), if any, is added to a.
        """
        film = self.film(embedding)
        if rows is not None:
            film = film.index_select(0, rows)  # whose backward pass takes a fifth of that of film[rows]
        scale, shift = film.chunk(2, dim=1)
        if gain is not None:
            scale = scale + gain.to(scale.dtype)
        inner = torch.addcmul(shift, self.inner(self.norm(h)), 1 + scale)
        return h + self.outer(nn.functional.silu(inner))


class MLP(Network):
    """A residual MLP on the sum of embedded state and observation context.

    The context (B, width) is the encoder's. With ``film`` it also scales the features of each block, so that products
    of state and observation need not be made of sums; the context is then (B, width·(1 + depth)), the code and these
    gains, which are linear in SiLU(code). The first and last layers stay in float32 under autocast: near the data a
    step is finer than bfloat16 resolves a state.

    Args:
        informed: how many numbers of a state, which come first, the network reads and gives outputs for; the outputs of
            the others are 0. None: all.
    """

    def __init__(
        self,
        *shapes: Any,
        width: Width = 256,
        depth: Annotated[int, Field(ge=1, le=1000)] = 4,
        encoder: str | dict[str, Any] = "vector",
        film: bool = False,
        informed: Width | None = None,
    ) -> None:
        super().__init__(*shapes)
        whole, heads = math.prod(self.z_shape), self.heads
        z_dim = min(informed or whole, whole)
        self.padding = whole - z_dim
        self.encoder = build_encoder(encoder, self.c_shape, width)
        self.entry = nn.Linear(z_dim, width)
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList([ResidualBlock(width, width) for _ in range(depth)])
        self.exit = nn.Sequential(nn.LayerNorm(width), exit_init(nn.Linear(width, heads * z_dim), heads))
        self.gains = nn.Linear(width, width * depth, bias=False) if film else None

    def encode(self, c: Tensor) -> Tensor:
        with torch.autocast(c.device.type, enabled=False):
            code = self.encoder(c)
            return code if self.gains is None else torch.cat([code, self.gains(nn.functional.silu(code))], dim=1)

    def forward(self, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
        code, *gains = context.split(self.entry.out_features, dim=1)
        with torch.autocast(z.device.type, enabled=False):
            h = self.entry(z.flatten(1)[:, : self.entry.in_features]) + code
        rows = None
        if len(time) > 1 and time.ndim == 1 and not time.is_cuda:  # at most T differ; a GPU would wait to know how many
            time, rows = torch.unique(time, return_inverse=True)
        embedding = nn.functional.silu(self.time(time))
        for block, gain in zip_longest(self.blocks, gains):
            h = block(h, embedding, rows, gain)
        with torch.autocast(z.device.type, enabled=False):
            out = nn.functional.pad(self.exit(h).unflatten(1, (self.heads, -1)), (0, self.padding))
            return out.unflatten(2, self.z_shape)


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
