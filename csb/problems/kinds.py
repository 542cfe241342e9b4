r"""Unknowns that are no plain real numbers, in one vector: angles, integers and categories beside real ones.

The bridge's state stays a vector of real numbers. Each kind has states that decode to the same x:

- ``angle``: x and x + P are the same, with the period P the width of its bounds. States are not wrapped, decode wraps
  them to [low, high). The state is (x − centre)/(P/√12) whatever the data, so that a uniform angle has unit variance:
  the mean and deviation of what wraps say nothing of it, and a map with logarithmic tails would break the period.
- ``integer``: decode rounds. Training adds uniform noise in (−½, ½) (dequantisation: Uria, Murray & Larochelle 2013,
  RNADE; Theis, van den Oord & Bethge 2016, A note on the evaluation of generative models), so that a law p of the state
  gives k the mass P(k) = ∫ p(v) dv over its cell (k − ½, k + ½): :meth:`csb.bridge.Bridge.log_prob` is log P(k), a
  density in the real coordinates. Cells at a bound are reflected at their outer end.
- ``category``: one of K values, numbered 0, …, K − 1 and learned as an integer is: neighbours are arbitrary.

Real coordinates, and bounds on one side, are those of :class:`csb.problems.Reflect`.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.bounded import Bounds, Reflect, Support
from csb.problems.operators import Image
from csb.problems.rows import Pairs
from csb.problems.scale import Scale
from csb.problems.standardise import Table, Vector
from csb.problems.transform import TRANSFORMS
from csb.process import Stream, seeded
from csb.schema import OneOf, checked

KINDS = ("real", "angle", "integer", "category")
WHOLE = ("integer", "category")
Kind = Annotated[str, OneOf(KINDS)]
_PLACES = 2**26  # in a cell, that one uniform number tells apart: the rest of its 53 bits chooses an image


def fitting(kinds: tuple[str, ...], x_shape: tuple[int, ...]) -> tuple[str, ...]:
    """The kinds. CSBError unless there is one for each coordinate of a vector x."""
    if tuple(x_shape) != (len(kinds),):
        raise CSBError(f"kinds={list(kinds)} do not fit x of shape {x_shape}; give one for each coordinate of a vector")
    return kinds


def support_of(kinds: tuple[str, ...], box: Support, largest: Sequence[float] = ()) -> Support:
    """The box, with ∓π of angles, 0 and the ``largest`` of categories where it is open; whole for whole numbers."""
    low, high = list(box.low), list(box.high)
    for i, kind in enumerate(kinds):
        if kind == "angle" and math.isinf(low[i]) and math.isinf(high[i]):
            low[i], high[i] = -math.pi, math.pi
        if kind == "category":
            low[i] = 0.0 if math.isinf(low[i]) else low[i]
            high[i] = largest[i] if math.isinf(high[i]) and largest else high[i]
        if kind in WHOLE:
            low[i], high[i] = float(np.ceil(low[i])), float(np.floor(high[i]))
    return Support(tuple(low), tuple(high))


@TRANSFORMS.register
class Mixed(Reflect):
    """Each coordinate by its kind: see the module's docstring.

    Args:
        x_shape, y_shape: (d,), and that of an observation.
        low, high: d bounds, inclusive; both of an angle and of a category (:func:`support_of`), else None for none.
        kinds: one of :data:`KINDS` for each coordinate. CSBError for another number of them.
    """

    name = "mixed"
    is_angle: Tensor
    is_whole: Tensor

    @checked
    def __init__(
        self, x_shape: Vector, y_shape: Vector | Table | Image, low: Bounds, high: Bounds, kinds: tuple[Kind, ...]
    ) -> None:
        super().__init__(x_shape, y_shape, low, high)
        self.kinds = fitting(kinds, x_shape)
        for i, kind in enumerate(kinds):
            if kind in ("angle", "category") and None in (low[i], high[i]):
                raise CSBError(f"coordinate {i} of x is of kind {kind} and has one bound; give both or none")
        for name, of in (("is_angle", ("angle",)), ("is_whole", WHOLE)):
            self.register_buffer(name, torch.tensor([kind in of for kind in kinds]), persistent=False)
        self.lower -= self.is_whole / 2  # the outer ends of the cells
        self.upper += self.is_whole / 2

    def _values(self, pairs: Pairs) -> list[Tensor]:
        x, *rest = super()._values(pairs)
        return [x + self._noise(x, seeded(Stream.DEQUANTISED)), *rest]

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in [−½, ½) where x is whole, else 0."""
        drawn = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        return (drawn - 0.5) * self.is_whole

    def _fitted(self, key: str, values: Tensor, mean: Tensor, std: Tensor, is_vector: bool) -> Scale:
        found = super()._fitted(key, values, mean, std, is_vector)
        if key == "y":
            return found
        zero, width = torch.zeros_like(mean), self.upper - self.lower
        fixed = Scale(self.lower + width / 2, width / math.sqrt(12), zero, zero)
        return Scale(*(torch.where(self.is_angle, one, other) for one, other in zip(fixed, found)))

    def dequantised(self, z: Tensor, generator: torch.Generator, c: Tensor | None = None) -> Tensor:
        scale = self.scale("x")
        v = scale.decode(z.double()).round() + self._noise(z, generator)
        return torch.where(self.is_whole, scale.encode(v).to(z.dtype), z)

    def _image(self, z: Tensor, bound: Tensor) -> Tensor:
        low, high = self._state_bounds()
        return torch.where(self.is_angle, z + (low + high - 2 * bound), super()._image(z, bound))

    def _back(self, v: Tensor) -> Tensor:
        low, high = self._sides(v)
        turned = low + (v - low).remainder(high - low)
        turned = torch.where((v >= low) & (v < high), v, torch.where(turned < high, turned, low))  # of rounding: high
        folded = super()._back(v)
        whole = folded.round().clamp(low + 0.5, high - 0.5) + 0.0  # no −0
        return torch.where(self.is_angle, turned, torch.where(self.is_whole, whole, folded))

    def lift(self, x: Tensor, uniform: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As that of Reflect, at a point of the cell of a whole number, which the leading bits of ``uniform`` choose.

        Of x that no state decodes to, as 1.5 for an integer, the second is −∞.
        """
        place = (uniform * _PLACES).floor()
        within = x + ((place + 0.5) / _PLACES - 0.5).to(x.dtype)
        z, log_scale = super().lift(
            torch.where(self.is_whole, within, x), torch.where(self.is_whole, uniform * _PLACES - place, uniform)
        )
        missed = self._outside(x) | (self.is_whole & (x != x.round()))
        return z, torch.where(missed.any(dim=1), -torch.inf, log_scale)
