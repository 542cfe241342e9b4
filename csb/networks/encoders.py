"""Encoders of observations: vectors, images, series, sets, and several of these, to one context for all steps.

An encoder is trained together with its network. Where values may be missing it gets values and mask, as
:func:`with_mask` makes them; series and sets always come with one, as they are filled up to the
longest. Rows of which nothing is there count for nothing, so that a context does not depend on how far it was filled.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from csb.errors import CSBError, is_one_of
from csb.problems.parts import Parts, parts_of, views
from csb.schema import arguments_of, shown

Made = TypeVar("Made", bound=nn.Module)
Depth = Annotated[int, Field(ge=1, le=12)]
_LEAST = 1e-3  # standard deviation of a column within an observation, in units of that of all
Features = Annotated[int, Field(ge=4, le=4096, multiple_of=4)]


def with_mask(c: Tensor) -> Tensor:
    """Return values and mask of observations c (B, *c_shape), in which NaN stands for what is missing.

    Values are 0 and the mask is 0 where a value is missing; elsewhere the mask is 1. The mask follows the values as
    further channels of images (B, C, H, W), and along the last axis of everything else.
    """
    present = ~c.isnan()
    return torch.cat([torch.where(present, c, 0.0), present.to(c)], dim=1 if c.ndim == 4 else -1)


def masked_shape(c_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what :func:`with_mask` returns."""
    axis = 0 if len(c_shape) == 3 else len(c_shape) - 1
    return tuple(2 * size if i == axis else size for i, size in enumerate(c_shape))


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


class ImageEncoder(Encoder):
    """Convolutions of an image (C, H, W), each with stride 2, to a map of at most 8 × 8, and a linear layer on it."""

    def __init__(self, c_shape: tuple[int, ...], width: int) -> None:
        super().__init__(c_shape, width)
        if len(c_shape) != 3:
            raise CSBError(f"encoder=image is for images (C, H, W), not for observations {c_shape}; choose another")
        channels, *size = c_shape
        layers: list[nn.Module] = []
        for out in (32, 64, 64, 64, 64):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            channels, size = out, [(side + 1) // 2 for side in size]
            if max(size) <= 8:
                break
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * math.prod(size), width))

    def forward(self, c: Tensor) -> Tensor:
        return self.layers(c)


class RowsEncoder(Encoder):
    """What encoders of rows (L, d) share: they get (L, 2d), values and mask.

    The context is a map of two layers of the mean and the maximum of the rows' features, of mean and logarithm of the
    standard deviation of each column, and of the logarithm of the number of rows. The columns' figures are there
    because a small spread beside a large mean is a difference that a pool of features resolves badly.

    Args:
        features: numbers of a row.
    """

    def __init__(self, c_shape: tuple[int, ...], width: int, features: int) -> None:
        super().__init__(c_shape, width)
        if len(c_shape) != 2:
            raise CSBError(f"the encoder is for series and sets (L, d), not for observations {c_shape}; choose another")
        size = 2 * features + c_shape[1] + 1
        self.exit = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    @abstractmethod
    def features(self, c: Tensor, scaled: Tensor, present: Tensor) -> Tensor:
        """Rows as they come and with columns of mean 0 and variance 1, (B, L, 2d) and (B, L, d), to (B, L, features).

        ``present`` (B, L, 1) is 1 for the rows of which something is there, else 0.
        """

    def forward(self, c: Tensor) -> Tensor:
        values, mask = c.chunk(2, dim=-1)
        present, count = mask.amax(-1, keepdim=True), mask.sum(1, keepdim=True).clamp_min(1)
        mean = values.sum(1, keepdim=True) / count
        std = (((values - mean) * mask).square().sum(1, keepdim=True) / count + _LEAST**2).sqrt()
        h, number = self.features(c, (values - mean) / std * mask, present), present.sum(1)
        pooled = (h * present).sum(1) / number.clamp_min(1)
        most = h.masked_fill(present == 0, -torch.inf).amax(1).masked_fill(number == 0, 0.0)
        return self.exit(torch.cat([pooled, most, mean[:, 0], std[:, 0].log() / 2 + 1, number.log1p() - 1], 1))


class SetEncoder(RowsEncoder):
    """A set of n rows in no order: DeepSets (Zaheer et al. 2017), a network of each row and a pool of all.

    Args:
        features: numbers of a row.
        depth: layers of the rows' network.
        attention: blocks of self-attention between the rows (Lee et al. 2019); 0 looks at each row alone.
    """

    def __init__(
        self,
        c_shape: tuple[int, ...],
        width: int,
        *,
        features: Features = 64,
        depth: Depth = 2,
        attention: Annotated[int, Field(ge=0, le=12)] = 0,
    ) -> None:
        super().__init__(c_shape, width, features)
        self.entry = nn.Linear(c_shape[-1] // 2 * 3, features)
        self.layers = nn.ModuleList(nn.Linear(features, features) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(attention))
        self.blocks = nn.ModuleList(nn.MultiheadAttention(features, 4, batch_first=True) for _ in range(attention))

    def forward(self, c: Tensor) -> Tensor:
        # in an order of their own, so that sums of the same rows are the same to the last bit
        order = torch.where(c[..., c.shape[-1] // 2] > 0, c[..., 0], torch.inf).argsort(1)
        return super().forward(c.gather(1, order[..., None].expand(c.shape)))

    def features(self, c: Tensor, scaled: Tensor, present: Tensor) -> Tensor:
        h = self.entry(torch.cat([c, scaled], -1))
        for layer in self.layers:
            h = h + layer(nnf.silu(h))
        absent = (present[..., 0] == 0) & (present.sum(1) > 0)  # attention to nothing at all would be NaN
        for norm, block in zip(self.norms, self.blocks):
            inner = norm(h)
            h = h + block(inner, inner, inner, key_padding_mask=absent, need_weights=False)[0]
        return h


class SeriesEncoder(RowsEncoder):
    """A series of L rows: a gated recurrent unit (Cho et al. 2014) along time, and one against it.

    A recurrence can hold what a filter holds, the state of the system given the rows so far, over gaps of any length.

    Args:
        features: numbers of a row, of each direction.
        depth: layers, each of which runs in both directions.
    """

    def __init__(self, c_shape: tuple[int, ...], width: int, *, features: Features = 64, depth: Depth = 1) -> None:
        super().__init__(c_shape, width, 2 * features)
        sizes = [c_shape[-1] // 2 * 3] + (depth - 1) * [2 * features]
        self.along, self.against = (
            nn.ModuleList(nn.GRU(size, features, batch_first=True) for size in sizes) for _ in range(2)
        )

    def features(self, c: Tensor, scaled: Tensor, present: Tensor) -> Tensor:
        h, rows = torch.cat([c, scaled], -1), torch.arange(c.shape[1], device=c.device)
        last = (present[..., 0] * rows).amax(1, keepdim=True).long()
        turned = torch.where(rows <= last, last - rows, rows)[..., None]  # what follows the last row stays there
        for along, against in zip(self.along, self.against):
            back = against(h.gather(1, turned.expand(h.shape)))[0]
            h = torch.cat([along(h)[0], back.gather(1, turned.expand(back.shape))], -1)
        return h


class PartsEncoder(Encoder):
    """An encoder for each named part of an observation (:mod:`csb.problems.parts`), and a layer that mixes contexts.

    Args:
        shapes: of the parts, by name, which fill the vector of the observation.
        encoders: of each part, as :func:`build_encoder` takes them.
    """

    def __init__(
        self, c_shape: tuple[int, ...], width: int, *, shapes: Parts, encoders: dict[str, str | dict[str, Any]]
    ) -> None:
        super().__init__(c_shape, width)
        self.masked = c_shape == (2 * sum(math.prod(shape) for shape in shapes.values()),)
        self.shapes = parts_of(shapes, (c_shape[0] // 2,) if self.masked else c_shape) or {}
        if not self.masked and any(len(shape) == 2 for shape in shapes.values()):
            raise CSBError("encoder parts has series or sets, but y is one array; give csb.fit y by the same names")
        if encoders.keys() != shapes.keys():
            raise CSBError(f"encoder has the parts {', '.join(encoders)} and y {', '.join(shapes)}; give one for each")
        self.parts = nn.ModuleList(
            build_encoder(encoders[name], masked_shape(shape) if self.masked else shape, width)
            for name, shape in self.shapes.items()
        )
        self.exit = nn.Sequential(nn.SiLU(), nn.Linear(len(shapes) * width, width))

    def forward(self, c: Tensor) -> Tensor:
        values, *mask = (views(half, self.shapes) for half in (c.chunk(2, 1) if self.masked else [c]))
        both = [torch.cat(part, 1 if part[0].ndim == 4 else -1) for part in zip(values, *mask)]
        return self.exit(torch.cat([encode(part) for encode, part in zip(self.parts, both)], 1))


ENCODERS: dict[str, type[Encoder]] = {
    "vector": VectorEncoder, "image": ImageEncoder, "series": SeriesEncoder, "set": SetEncoder, "parts": PartsEncoder,
}  # fmt: skip


def automatic_encoder(y_shape: tuple[int, ...]) -> str:
    """Return what suits observations of this shape: "vector" (d,), "series" (L, d) or "image" (C, H, W)."""
    return ("vector", "series", "image")[len(y_shape) - 1]


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
