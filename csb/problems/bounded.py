r"""Transforms for x in a box, the support of its prior: samples must not leave it, and must not pile up at its bounds.

- ``standardise`` knows nothing of the box: samples may lie outside.
- ``reflect`` standardises, and on the way back folds what lies outside at the bounds (:func:`fold`). Nothing is
  stretched near a bound. A density that does not vanish at a bound would end there in a jump, which few smooth steps
  cannot follow. As the fold forgets on which side of the bound a state was, training states are put on either side at
  random (:meth:`Reflect.preimage`): the jump becomes a slope.
- ``probit`` runs the bridge over v = Φ⁻¹((x − low)/(high − low)), standardised. A uniform prior becomes N(0, 1), the
  law of the other end of the bridge, and every state decodes to a point of the box. A posterior that does not vanish at
  a bound has a Gaussian tail in v; what is narrow near a bound is stretched. (A logit would give a uniform prior the
  heavier tails of a logistic law.)

Coordinates without bounds are standardised by all three. Images are standardised, and on the way back clamped: pixels
do lie at their bounds, black and white.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.operators import Image
from csb.problems.rows import FEWEST, Rows, finest_scale, pool
from csb.problems.standardise import Standardise, Table, Vector
from csb.problems.transform import TRANSFORMS, Transform
from csb.process import Stream, seeded
from csb.schema import checked

KINDS = ("standardise", "reflect", "probit")
EDGE = 1e-7  # share of the box's width by which probit keeps clear of its bounds: |Φ⁻¹(EDGE)| = 5.2
IMAGE = 0.02  # least chance of a mirror image where densities are estimated
Bounds = tuple[float | None, ...]


class Support(NamedTuple):
    """The box low ≤ x ≤ high of vectors x of d numbers, or of images by their channels; ∓∞ where there is no bound."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def plain(self) -> tuple[Bounds, Bounds]:
        """low and high, None where there is no bound."""
        low, high = (tuple(v if abs(v) < torch.inf else None for v in side) for side in self)
        return low, high

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """low and high, broadcastable to a batch (B, d) or (B, C, H, W), in its dtype and on its device."""
        shape = (-1, *[1] * (like.ndim - 2))
        low, high = (torch.tensor(side, dtype=like.dtype, device=like.device).view(shape) for side in self)
        return low, high

    def contains(self, x: Tensor) -> Tensor:
        """Which of x (B, *x_shape) lie in the closed box, (B,), boolean."""
        low, high = self.tensors(x)
        return ((x >= low) & (x <= high)).flatten(1).all(dim=1)


def fold(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Finite x (B, d) reflected at the bounds as often as it takes: always in the closed box [low, high], (d,) each.

    Points of the box stay where they are, bit for bit. The result has no atom where x has none; clamping would put the
    mass beyond a bound onto it.
    """
    width = high - low
    twice = low + width - ((x - low).remainder(2 * width) - width).abs()
    once = torch.where(x < low, 2 * low - x, 2 * high - x)
    inside = (x >= low) & (x <= high)
    return torch.where(inside, x, torch.where(width.isfinite(), twice, once)).clamp(low, high)


class Boxed(Standardise):
    """x (d,), or images (C, H, W), in a box: low < high, d or C numbers each, None for no bound (JSON has no ∞)."""

    lower: Tensor
    upper: Tensor

    def __init__(self, x_shape: Vector | Image, y_shape: Vector | Table | Image, low: Bounds, high: Bounds) -> None:
        super().__init__(x_shape, y_shape)
        self.low, self.high = low, high
        lower, upper = [-torch.inf if v is None else v for v in low], [torch.inf if v is None else v for v in high]
        if not len(low) == len(high) == x_shape[0] or not all(one < other for one, other in zip(lower, upper)):
            part = "channel" if len(x_shape) == 3 else "coordinate"
            raise CSBError(
                f"low={list(low)} is not below high={list(high)} in each of {x_shape[0]} {part}s; give as many bounds, "
                f"the lower below the upper ones, null where there is none"
            )
        for name, side in (("lower", lower), ("upper", upper)):
            ends = torch.tensor(side, dtype=torch.float64).view(self.x_mean.shape)
            self.register_buffer(name, ends, persistent=False)

    def _sides(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The box in the dtype of a tensor: a bound that is rounded as the data are has them inside."""
        return self.lower.to(like.dtype), self.upper.to(like.dtype)

    def _outside(self, x: Tensor) -> Tensor:
        """Which coordinates lie outside the box."""
        low, high = self._sides(x)
        return (x < low) | (x > high)

    def lift(self, x: Tensor, uniform: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_scale = super().lift(x.clamp(*self._sides(x)), uniform, y)
        return z, torch.where(self._outside(x).any(dim=1), -torch.inf, log_scale)


@TRANSFORMS.register
class Reflect(Boxed):
    r"""Standardised; decode folds x at the bounds of the box. A bound on one side only will do.

    :meth:`preimage` mirrors a state at its nearest bound, at distance δ, with probability Φ(−δ/s). With p(δ) the law of
    the distance, states inside have the density p(δ)·Φ(δ/s) and mirrored ones p(δ)·Φ(−δ/s): one function of the signed
    distance, continuous at the bound, that falls from p to 0 over a width s. Folded, it is p again, exactly. The width
    ``softness`` is the finest scale of the data (:func:`csb.problems.finest_scale`), so that a bound needs no finer
    steps than the rest, and at most an eighth of the box, so that one bound does not feel the other.
    """

    name = "reflect"
    later = (*Standardise.later, "softness")
    softness: Tensor

    @checked
    def __init__(self, x_shape: Vector, y_shape: Vector | Table | Image, low: Bounds, high: Bounds) -> None:
        super().__init__(x_shape, y_shape, low, high)
        self.register_buffer("softness", torch.zeros(self.x_shape, dtype=torch.float32))

    def fit(self, rows: Rows) -> Self:
        super().fit(rows)
        if len(rows) < FEWEST:
            return self  # states stay where they are
        x, y, _ = rows.head(pool(rows.x_shape, rows.y_shape))
        z = self.dequantised(self.encode_x(x), seeded(Stream.DEQUANTISED))
        finest = finest_scale(z, self.encode_y(y), seeded(Stream.REFLECTED_SCALE), self.parts)
        low, high = self._state_bounds()
        width = torch.where(self.scale("x").plain, (self.upper - self.lower).to(low.dtype) / self.x_std, high - low)
        self.softness.copy_((width / 8).clamp(max=finest))
        return self

    def _state_bounds(self) -> tuple[Tensor, Tensor]:
        """The box in units of the state."""
        scale, coarse, own = self.scale("x"), self._coarse("x"), self.x_mean.dtype
        low, high = (
            torch.where(coarse, scale.encode(side).to(own), scale.encode(side.to(own)))  # a GPU need not be asked
            for side in (self.lower, self.upper)
        )
        return low, high

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        plain = self.scale("x").plain
        if not bool(plain.all()):  # mirrored in units of the state, where x is no linear map of it
            z = torch.where(plain, z, fold(z, *self._state_bounds()))
        return super().decode(z, y)

    def _image(self, z: Tensor, bound: Tensor) -> Tensor:
        """The other state that decodes to the same x, beyond this end of :meth:`_state_bounds`."""
        return 2 * bound - z

    def preimage(self, z: Tensor, generator: torch.Generator, c: Tensor | None = None) -> Tensor:
        z = self.dequantised(z, generator)
        low, high = self._state_bounds()
        bound = torch.where(z - low < high - z, low, high)
        chance = torch.special.ndtr(-(z - bound).abs() / self.softness)  # of no softness: 0, and ½ at the bound itself
        mirrored = torch.rand(z.shape, dtype=z.dtype, generator=generator, device=z.device) < chance.nan_to_num(0.5)
        return torch.where(mirrored, self._image(z, bound), z)

    def _back(self, v: Tensor) -> Tensor:
        return fold(v, *self._sides(v))

    def _log_slope(self, x: Tensor) -> Tensor:
        return torch.where(self._outside(x), -torch.inf, super()._log_slope(x))

    def lift(self, x: Tensor, uniform: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z itself or its image beyond a bound, coordinate by coordinate, with the chances of :meth:`preimage`.

        No chance is below :data:`IMAGE`, so that mass beyond a bound is found that training did not put there. States
        farther outside than the box is wide, which fold twice, are left out.
        """
        z, log_scale = super().lift(x, uniform, y)
        low, high = self._state_bounds()
        soft = torch.where(self.softness > 0, self.softness, ((high - low) / 8).clamp(max=0.25))
        first, second = (
            torch.where(bound.isfinite(), torch.special.ndtr(-(z - bound).abs() / soft).clamp_min(IMAGE), 0.0).double()
            for bound in (low, high)
        )
        down, up = uniform < first, uniform > 1 - second
        chance = torch.where(down, first, torch.where(up, second, 1 - first - second))
        z = torch.where(down, self._image(z, low), torch.where(up, self._image(z, high), z))
        return z, log_scale - chance.log().sum(1)


@TRANSFORMS.register
class Probit(Boxed):
    """v = Φ⁻¹(u), u = (x − low)/(high − low) kept in [EDGE, 1 − EDGE], then standardised; float64 within.

    Each coordinate has both bounds or none. Encoding raises CSBError for x outside the box.
    """

    name = "probit"

    @checked
    def __init__(self, x_shape: Vector, y_shape: Vector | Table | Image, low: Bounds, high: Bounds) -> None:
        super().__init__(x_shape, y_shape, low, high)
        if half := [i for i, (a, b) in enumerate(zip(low, high)) if (a is None) != (b is None)]:
            raise CSBError(f"coordinate {half[0]} of x has one bound; probit needs both or none; use transform=reflect")

    @property
    def _box(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lower bounds and widths in float64, 0 and 1 where there are none; and where there are."""
        bounded = self.lower.isfinite()
        low = torch.where(bounded, self.lower, 0.0)
        return low, torch.where(bounded, self.upper - low, 1.0), bounded

    def _free(self, x: Tensor) -> Tensor:
        return torch.where(self._box[2], self._quantile(x).to(x.dtype), x)

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if outside := int(self._outside(x).any(dim=1).sum()):
            raise CSBError(f"{outside} of {len(x)} x lie outside the box; probit maps the prior's support only")
        return super().encode_x(x, y)

    def x_scale(self) -> Tensor:
        """Between bounds half the width, in x, of what lies within one unit of the state's centre."""
        scale, one = self.scale("x"), torch.ones_like(self.x_mean, dtype=torch.float64)
        low, high = (self._back(scale.decode(side * one)) for side in (-1, 1))
        return torch.where(self._box[2], (high - low) / 2, super().x_scale())

    def _quantile(self, x: Tensor) -> Tensor:
        """v in float64, of no use where there are no bounds."""
        low, width, _ = self._box
        return torch.special.ndtri(((x.double() - low) / width).clamp(EDGE, 1 - EDGE))

    def _log_slope(self, x: Tensor) -> Tensor:
        _, width, bounded = self._box
        slope = 0.5 * (self._quantile(x) ** 2 + math.log(2 * math.pi)) - width.log()
        return torch.where(self._outside(x), -torch.inf, torch.where(bounded, slope, 0.0))

    def _back(self, v: Tensor) -> Tensor:
        low, width, bounded = self._box
        inside = (low + width * torch.special.ndtr(v.double())).to(v.dtype)
        return torch.where(bounded, inside, v).clamp(*self._sides(v))


@TRANSFORMS.register
class Clamp(Boxed):
    """Images, standardised channel by channel; decode clamps them to the bounds of each channel."""

    name = "clamp"

    @checked
    def __init__(self, x_shape: Image, y_shape: Vector | Table | Image, low: Bounds, high: Bounds) -> None:
        super().__init__(x_shape, y_shape, low, high)

    def _back(self, v: Tensor) -> Tensor:
        return v.clamp(*self._sides(v))

    def log_jacobian(self, x: Tensor) -> Tensor:
        return Transform.log_jacobian(self, x)  # which says that there is no density


def make_bounded(kind: str, x_shape: tuple[int, ...], y_shape: tuple[int, ...], support: Support) -> Transform:
    """The transform of a name in KINDS for a support, still to be fitted; of images that which clamps."""
    if kind == "standardise":
        return Standardise(x_shape, y_shape)
    of = Clamp if len(x_shape) == 3 else Reflect if kind == "reflect" else Probit
    return of(x_shape, y_shape, *support.plain)
