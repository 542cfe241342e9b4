"""Encoders of observations by name: what a network is told of y, computed once for all steps and samples."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from csb.errors import CSBError
from csb.networks.base import build_named


class Encoder(nn.Module, ABC):
    """A function of an encoded observation c, trained together with the network that it is part of.

    Its options are keyword-only arguments of its constructor, after these two, checked as a network's are.

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
        c = c.flatten(1)
        for layer in self.children():
            c = layer(c)
        return c


ENCODERS: dict[str, type[Encoder]] = {"vector": VectorEncoder}


def build_encoder(spec: str | dict[str, Any], c_shape: tuple[int, ...], width: int) -> Encoder:
    """Make an encoder of a name, or of {"name": one of ENCODERS, **options}.

    CSBError for an unknown name, wrong options, or a context of another shape than (B, width).
    """
    spec = {"name": spec} if isinstance(spec, str) else spec
    encoder = build_named("encoder", ENCODERS, spec, "network.options.encoder", c_shape, width)
    if not type(encoder).__module__.startswith("csb."):  # a user's own; csb's are not run, which takes time on "meta"
        with torch.no_grad():
            found = encoder.eval()(torch.zeros(2, *c_shape))
        if tuple(found.shape) != (2, width):
            raise CSBError(
                f"encoder {spec['name']} gives contexts of shape {tuple(found.shape[1:])}; expected ({width},)"
            )
    return encoder.train()
