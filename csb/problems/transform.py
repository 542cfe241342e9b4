"""The maps between data (x, y) and the bridge's state and condition (z, c). They stand at the bridge's edge only.

A transform is plain data: :meth:`Transform.spec` holds its name, shapes and small constants, its state_dict the
fitted tensors. :func:`build_transform` on the spec, then ``load_state_dict``, restores it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from csb.dtypes import Float32Module
from csb.problems.rows import Rows
from csb.problems.specs import Registry, build, to_spec


class Support(NamedTuple):
    """The box low ≤ x ≤ high of vectors x of d numbers, or of images by their channels; ∓∞ where there is no bound."""

    low: tuple[float, ...]
    high: tuple[float, ...]

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

    Points of the box stay where they are, bit for bit. The law of the result has no atom, at a bound or elsewhere,
    where that of x has none; clamping would put the mass beyond a bound onto it.
    """
    width = high - low
    twice = low + width - ((x - low).remainder(2 * width) - width).abs()
    once = torch.where(x < low, 2 * low - x, 2 * high - x)
    inside = (x >= low) & (x <= high)
    return torch.where(inside, x, torch.where(width.isfinite(), twice, once)).clamp(low, high)


class Transform(Float32Module, ABC):
    """x ↔ z given y, and y → c.

    Attributes:
        x_shape, y_shape: shapes of one data point and one observation.
        z_shape, c_shape: shapes of one bridge state and one condition.
        any_units: whether pixels may have any unit, that of the training pairs; else they lie in [0, 1].
    """

    name: ClassVar[str]
    any_units: ClassVar[bool] = False
    works_in = (torch.float32, torch.float64)

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.x_shape = self.z_shape = tuple(x_shape)
        self.y_shape = self.c_shape = tuple(y_shape)

    @abstractmethod
    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *x_shape) → z (B, *z_shape); y (B, *y_shape) where the state depends on it (a moving hole)."""

    @abstractmethod
    def encode_y(self, y: Tensor) -> Tensor:
        """y (B, *y_shape) → c (B, *c_shape)."""

    @abstractmethod
    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """z (B, *z_shape) and its observations y (B, *y_shape), one for each row → x (B, *x_shape)."""

    def fit(self, rows: Rows) -> Self:
        """The transform itself, its tensors set by training pairs where it has any."""
        return self

    def unknown(self, y: Tensor) -> Tensor | None:
        """The coordinates of x that y (B, *y_shape) leaves open, boolean (B, *x_shape); None where it leaves all."""
        return None

    def dtype_of(self, key: str) -> torch.dtype:
        """The dtype of "x" or "y" as data: float64 where float32 is too coarse for its distance from 0."""
        return torch.float32

    def x_scale(self) -> Tensor:
        """The spread of x in training, float64, broadcastable to x_shape: the unit of scores. 1 for pixels."""
        return torch.ones((), dtype=torch.float64)

    def y_range(self) -> tuple[Tensor, Tensor] | None:
        """Between which encoded observations lay in training, broadcastable to c_shape; None where it is not known."""
        return None

    def is_far(self, y: Tensor) -> Tensor:
        """Which of the observations (B, *y_shape) lie outside the range of training by more than half of it: (B,)."""
        if (known := self.y_range()) is None:
            return torch.zeros(len(y), dtype=torch.bool, device=y.device)
        low, high = known
        margin = ((high - low) / 2).clamp_min(1)
        c = self.encode_y(y)
        return ((c < low - margin) | (c > high + margin)).flatten(1).any(1)

    def preimage(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """States to train on, (B, *z_shape), drawn among those that decode to the same x as z. By default z itself.

        A transform that maps several states to one x may so give the bridge a smoother law to learn. The generator
        lives on z's device.
        """
        return z

    def log_jacobian(self, x: Tensor) -> Tensor:
        """log |det dz/dx| at x (B, *x_shape), (B,), float64; −∞ where no state decodes to x.

        NotImplementedError where the samples have no density.
        """
        raise NotImplementedError(
            f"transform={self.name} gives x no density: its decode is not smooth and one-to-one, as where it clamps "
            f"pixels to [0, 1]; compare samples instead"
        )

    def lift(self, x: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """A state z that decodes to x (B, *x_shape), and (B,), float64, log |det dz/dx| − log q(z).

        q is the chance with which z is drawn among several such states, by the uniform numbers (B, *z_shape); 1 where
        there is one. For any density p of z, E[p(z) |det dz/dx|/q(z)] is that of x. NotImplementedError as
        :meth:`log_jacobian`.
        """
        scale = self.log_jacobian(x)
        return self.encode_x(x), scale

    def spec(self) -> dict[str, Any]:
        return to_spec(self)


TRANSFORMS: Registry[Transform] = Registry()
register_transform = TRANSFORMS.register


@register_transform
class Identity(Transform):
    """z = x and c = y."""

    name = "identity"

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x

    def encode_y(self, y: Tensor) -> Tensor:
        return y

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return z

    def log_jacobian(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)


@register_transform
class PixelRange(Transform):
    """Images x, and y of any shape, in [0, 1] to [−1, 1]: z = 2x − 1, c = 2y − 1; decode clamps to [0, 1]."""

    name = "pixel_range"

    def y_range(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(-1.0), torch.tensor(1.0)

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return 2 * x - 1

    def encode_y(self, y: Tensor) -> Tensor:
        return 2 * y - 1

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return ((z + 1) / 2).clamp(0, 1)


def build_transform(spec: Mapping[str, Any]) -> Transform:
    """The transform of a spec, its fitted tensors still to be loaded. CSBError for a bad name or argument."""
    return build("transform", TRANSFORMS, spec)
