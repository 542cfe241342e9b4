"""Observations of named parts, as {"series": (N, L, d), "covariates": (N, k)}: laid side by side in one vector.

Everything else then meets vectors (N, D), in the order of the names: files, caches, digests, missing values. The shapes
of the parts stand in the transform's description, and so in a model's file. Only two look at them: the encoder
(:class:`csb.networks.encoders.PartsEncoder`), and the transform, which scales a series, a set or an image column by
column or channel by channel, as it scales a y that is one of these. So the order of a set and how far it is filled up
change nothing, and pixels may be constant; a course that all series share is left to the encoder.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from csb.errors import CSBError
from csb.numbers import as_numbers
from csb.schema import Name, Schema, Shape

MOST = 100  # parts
Parts = Annotated[dict[Name, Shape], Field(min_length=1, max_length=MOST)]  # shape of each part, in the order of names


class _Read(Schema):
    parts: Parts


def parts_of(given: Any, y_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]] | None:
    """The parts of plain data, in the order of their names; None for None. CSBError where they do not fill y_shape."""
    if given is None:
        return None
    parts = dict(sorted(_Read.read({"parts": given}, "").parts.items()))
    if y_shape != (size := (sum(map(math.prod, parts.values())),)):
        raise CSBError(f"parts={parts} fill a vector of {size[0]} numbers, not y of shape {y_shape}")
    return parts


def views(v: Tensor, parts: Mapping[str, tuple[int, ...]] | None) -> list[Tensor]:
    """Vectors (B, D) as their parts, (B, *shape) each, which share their memory; without parts the tensor itself."""
    if parts is None:
        return [v]
    sizes = [math.prod(shape) for shape in parts.values()]
    return [part.unflatten(1, shape) for part, shape in zip(v.split(sizes, 1), parts.values())]


def numbers_of(name: str, values: Any) -> Tensor:
    """The values of a part on the CPU, whole numbers beyond 2²⁴ as float64: float32 beside them would round them."""
    found = as_numbers(f"{name} of y", values).cpu()
    is_large = not found.is_floating_point() and found.numel() > 0 and int(found.abs().max()) > 2**24
    return found.double() if is_large else found


def joined(given: Mapping[str, Any]) -> tuple[Tensor, dict[str, tuple[int, ...]]]:
    """Arrays (N, …) by their names as vectors (N, D), and the shapes of the parts.

    CSBError for too many parts, names that are no texts, and arrays of other shapes than observations have or of other
    numbers of them.
    """
    if not given or not all(isinstance(name, str) and name for name in given):
        raise CSBError(f"y has the names {list(given)}; give {{name: array, …}}, a text for each part")
    if len(given) > MOST:
        raise CSBError(f"y has {len(given)} parts; give at most {MOST}: numbers (N,) may be one part (N, d)")
    parts = {name: numbers_of(name, given[name]) for name in sorted(given)}
    parts = {name: v[:, None] if v.ndim == 1 else v for name, v in parts.items()}
    count, *_ = (*next(iter(parts.values())).shape, 0)
    for name, v in parts.items():
        if v.ndim not in (2, 3, 4) or len(v) != count or 0 in v.shape:
            raise CSBError(
                f"{name} of y has shape {tuple(v.shape)}; expected vectors (N, d), series or sets (N, L, d) or images "
                f"(N, C, H, W), of as many observations N as {next(iter(parts))} has, {count}"
            )
    return torch.cat([v.flatten(1) for v in parts.values()], 1), {name: tuple(v.shape[1:]) for name, v in parts.items()}
