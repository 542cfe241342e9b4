"""What every drift network looks like from outside, its encoder of observations, and the networks of vectors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from csb.dtypes import Float32Module, float32_layers, off_meta
from csb.errors import CSBError, is_one_of
from csb.process.schedule import Steps
from csb.schema import arguments_of, shown

MOST_WIDTH = 2**16
Width = Annotated[int, Field(ge=1, le=MOST_WIDTH)]  # of any layer


class Network(Float32Module, ABC):
    """A function of (state z, step k, observation c) with ``heads`` outputs of the state's shape.

    The observation is encoded once and its context reused at every step and for every sample of it. A network's options
    are keyword-only arguments of its constructor, after these three, which :func:`csb.networks.build_network` checks by
    their annotations.

    Args:
        z_shape: shape of one state.
        c_shape: shape of one encoded observation.
        heads: outputs of the state's shape: the mean, then what the kernel's covariance takes.
    """

    def __init__(self, z_shape: tuple[int, ...], c_shape: tuple[int, ...], heads: int) -> None:
        super().__init__()
        self.z_shape, self.c_shape, self.heads = tuple(z_shape), tuple(c_shape), heads

    @abstractmethod
    def encode(self, c: Tensor) -> Tensor:
        """c (B, *c_shape) to a context (B, …)."""

    @abstractmethod
    def forward(self, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """z (B, *z_shape), time k/T in [0, 1] of shape (B,) or (1,), context (B, …) to (B, heads, *z_shape)."""


NETWORKS: dict[str, type[Network]] = {}  # by their names, which csb.networks enters; nothing else is built from files
Made = TypeVar("Made", bound=nn.Module)


def build_named(
    kind: str, registry: Mapping[str, type[Made]], spec: Mapping[str, Any], group: str, *shapes: Any
) -> Made:
    """Make the registered class of the name in {"name": …, **options}, of shapes and options.

    CSBError, where ``kind`` is what the registry holds and ``group`` the options, for an unknown name, or options that
    are unknown, missing or out of the range that the class declares.
    """
    name, options = spec.get("name"), {key: value for key, value in spec.items() if key != "name"}
    if not is_one_of(name, registry):
        raise CSBError(
            f"{kind} {shown(name)} is unknown; choose one of {', '.join(registry)}; one of your own is known after "
            f"import=its_module, or in csb.load(…, networks={{{shown(name)}: My{kind.capitalize()}}})"
        )
    arguments_of(registry[name].__init__, keyword_only=True).read(options, group)
    return registry[name](*shapes, **options)


def build_network(spec: dict[str, Any], z_shape: tuple[int, ...], c_shape: tuple[int, ...], heads: int) -> Network:
    """Make a float32 network from plain data: {"name": one of NETWORKS, **options}; lists stand for tuples.

    CSBError for an unknown name, or options that are unknown, missing or out of the range that the network declares.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    with float32_layers():
        return build_named("network", NETWORKS, options, "network.options", z_shape, c_shape, heads)


def is_own(cls: type) -> bool:
    """Whether a class is a user's."""
    return not cls.__module__.startswith("csb.")


class Encoder(nn.Module, ABC):
    """What a network is told of y: a function of an encoded observation c, trained together with the network.

    It is computed once for all steps and samples. Its options are keyword-only arguments of its constructor, after
    these two, checked as a network's are.

    Args:
        c_shape: shape of one encoded observation, which has the shape of y.
        width: numbers of the context.
    """

    def __init__(self, c_shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.c_shape, self.width = tuple(c_shape), width

    @abstractmethod
    def forward(self, c: Tensor) -> Tensor:
        """c (B, *c_shape) to a context (B, width)."""


class VectorEncoder(Encoder):
    """Two layers on the flattened observation."""

    def __init__(self, c_shape: tuple[int, ...], width: int) -> None:
        super().__init__(c_shape, width)
        layers = nn.Linear(math.prod(c_shape), width), nn.SiLU(), nn.Linear(width, width)
        for number, layer in enumerate(layers):  # whose names in files are 0 and 2
            self.add_module(str(number), layer)

    def forward(self, c: Tensor) -> Tensor:
        entry, activation, exit_ = self.children()
        return exit_(activation(entry(c.flatten(1))))


ENCODERS: dict[str, type[Encoder]] = {"vector": VectorEncoder}


def build_encoder(spec: str | dict[str, Any], c_shape: tuple[int, ...], width: int) -> Encoder:
    """Make an encoder of a name, or of {"name": one of ENCODERS, **options}.

    CSBError for an unknown name, wrong options, or a context of another shape than (B, width).
    """
    spec = {"name": spec} if isinstance(spec, str) else spec
    encoder = build_named("encoder", ENCODERS, spec, "network.options.encoder", c_shape, width)
    if is_own(type(encoder)):  # csb's are not run, which takes time on "meta"
        with torch.no_grad():
            found = encoder.eval()(torch.zeros(2, *c_shape))
        if tuple(found.shape) != (2, width):
            raise CSBError(
                f"encoder {spec['name']} gives contexts of shape {tuple(found.shape[1:])}; expected ({width},)"
            )
    return encoder.train()


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
    """Sinusoidal features of 1000·k/T (Vaswani et al. 2017; Ho et al. 2020), then a two-layer MLP: (B,) to (B, dim)."""

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = 32
        with off_meta():
            longest = torch.log(torch.tensor(1e4, dtype=torch.float32))
            frequencies = torch.exp(-torch.arange(half, dtype=torch.float64) * (longest / half))
        self.register_buffer("frequencies", (1000 * frequencies).float(), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        phase = time[:, None] * self.frequencies
        return self.mlp(torch.cat([phase.sin(), phase.cos()], dim=1))


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
