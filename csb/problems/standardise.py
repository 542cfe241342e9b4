r"""Transforms to unit scale, fitted to the training pairs, whatever the tails of a coordinate do.

Where mean and standard deviation agree with the median and the interquartile range (over 1.349, which is 1 for N(0, 1))
within a factor of two, a coordinate v becomes (v − mean)/std. A few rows far out, heavy tails or values over several
decades move mean and std away from the bulk, which then would share a small part of the unit scale. There the
coordinate becomes

    z = g((h(v) − m)/s),    h(v) = v or asinh(v/ε),    g(u) = u for |u| ≤ a,  ±(a + log(1 + |u| − a)) beyond,

with the median m and the widest of the ranges between the quantiles p and 1 − p, p = .25, .1, .05, each over that of
N(0, 1), as s. h with ε at the lower end of |v| is a logarithm with a sign; g gives logarithmic tails. Both are
increasing, with continuous slopes, so that y loses nothing, and x has a density with their Jacobian. Which h: the one
whose seven quantiles from .05 to .95 are nearest to those of N(0, 1), (v − mean)/std among the candidates.
"""

import logging
import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.operators import Image
from csb.problems.rows import COARSE, NAMES, Moments, Pairs, Rows, pool
from csb.problems.transform import TRANSFORMS, Transform
from csb.schema import Count, checked

ROWS, VALUES = 20_000, 2**22  # that quantiles are taken of, at most; of images, of a channel
TAIL = 4.0  # a, in units of s
Vector = tuple[Count]
_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_RARE = (0.02, 0.01, 0.005, 0.002, 0.001)  # p of coordinates whose bulk is a single value
_SMALL = (0.5, 0.1, 0.01)  # quantiles of |v| ≠ 0 at which a logarithm may begin
_FAR = 20.0  # s, from which a value that repeats is taken for a code
_PARTS = {"mean": 0.0, "std": 1.0, "log": 0.0, "tail": 0.0}  # of a scale, and what files of before do not hold
_EDGE = 0.001  # quantile at which the range of the observations ends
logger = logging.getLogger(__name__)


class Scale(NamedTuple):
    """The map of each coordinate of a vector (d,), or channel of an image, to unit scale, and back.

    Attributes:
        mean, std: m and s, in units of h.
        log: ε; 0 where h(v) = v.
        tail: a; 0 where g(u) = u.
    """

    mean: Tensor
    std: Tensor
    log: Tensor
    tail: Tensor

    @property
    def plain(self) -> Tensor:
        """Where the map is (v − mean)/std."""
        return (self.log == 0) & (self.tail == 0)

    def encode(self, v: Tensor) -> Tensor:
        """v → z, in the wider of the dtypes of v and the scale."""
        size = torch.where(self.log > 0, self.log, 1.0)
        u = (torch.where(self.log > 0, torch.asinh(v / size), v) - self.mean) / self.std
        beyond = self._beyond(u)
        return torch.where(beyond > 0, u.sign() * (self.tail + beyond.log1p()), u)

    def decode(self, z: Tensor) -> Tensor:
        """z → v: the inverse of :meth:`encode`."""
        u = torch.where(self._beyond(z) > 0, z.sign() * (self.tail + self._beyond(z).expm1()), z)
        v = self.mean + self.std * u
        return torch.where(self.log > 0, self.log * torch.where(self.log > 0, v, 0.0).sinh(), v)

    def log_slope(self, v: Tensor) -> Tensor:
        """log |dz/dv| at v, float64, broadcastable to v."""
        size = torch.where(self.log > 0, self.log, 1.0).double()
        part = v.double() / size
        slope = torch.where(self.log > 0, -size.log() - 0.5 * torch.log1p(part.square()), 0.0)
        u = (torch.where(self.log > 0, torch.asinh(part), v.double()) - self.mean) / self.std
        return slope - self._beyond(u).log1p() - self.std.double().log()

    def _beyond(self, u: Tensor) -> Tensor:
        """How far u lies in the tails; 0 elsewhere."""
        return torch.where(self.tail > 0, (u.abs() - self.tail).clamp_min(0), 0.0)

    @classmethod
    def fit(cls, values: Tensor, mean: Tensor, std: Tensor) -> Self:
        """Of each column of values (n, d), a sample of the rows, from mean and std (d,) of all rows; float64."""
        found = [_column(v, float(m), float(s)) for v, m, s in zip(values.unbind(1), mean, std)]
        return cls(*torch.tensor(found, dtype=torch.float64).unbind(1))


def bulk(values: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Where the bulk of each column lies and how wide it is, (d,) each: mean and std where they fit it.

    For maps that must be linear; the arguments are those of :meth:`Scale.fit`.
    """
    found = [_bulk(v, float(m), float(s)) for v, m, s in zip(values.unbind(1), mean, std)]
    centre, spread = torch.tensor(found, dtype=torch.float64).unbind(1)
    return centre, spread


def _bulk(values: Tensor, mean: float, std: float) -> tuple[float, float]:
    q = quantiles(values, _LEVELS)
    centre, quartile = float(q[3]), float(q[4] - q[2]) / _width(0.25)
    spread = quartile or _spread(values, q)
    if not spread or (spread / 2 <= std <= 2 * spread and abs(mean - centre) <= 2 * spread):
        return mean, std
    return centre, _spread(values, q)


def _column(values: Tensor, mean: float, std: float) -> tuple[float, float, float, float]:
    """(mean, std, log, tail) of one coordinate."""
    centre, wide = _bulk(values, mean, std)
    if (centre, wide) == (mean, std):
        return mean, std, 0.0, 0.0
    q = quantiles(values, _LEVELS)
    candidates = [(mean, std, 0.0, 0.0), (centre, wide, 0.0, TAIL)]
    for epsilon in quantiles(values[values != 0].abs(), _SMALL).tolist():
        logged = torch.asinh(q / epsilon)
        if (log_wide := _spread(torch.asinh(values / epsilon), logged)) > 0:
            candidates.append((float(logged[3]), log_wide, epsilon, TAIL))
    normal = torch.special.ndtri(torch.tensor(_LEVELS, dtype=torch.float64))

    def distance(candidate: tuple[float, float, float, float]) -> float:
        scale = Scale(*torch.tensor(candidate, dtype=torch.float64))
        return float((scale.encode(q) - normal).square().mean())

    return min(candidates, key=distance)


def quantiles(values: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Of values (n,), float64, at levels in [0, 1]: the values themselves, none between two of them."""
    ordered = values.sort().values
    return ordered[[min(int(level * len(ordered)), len(ordered) - 1) for level in levels]]


def _width(p: float) -> float:
    """The range of N(0, 1) between its quantiles p and 1 − p."""
    return -2 * math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * p - 1, dtype=torch.float64)))


def _spread(values: Tensor, q: Tensor) -> float:
    """The widest of three ranges of quantiles; where all are 0, the first of rarer ones that is not."""
    if found := max(float(q[-1 - i] - q[i]) / _width(_LEVELS[i]) for i in range(3)):
        return found
    for p in _RARE:
        low, high = quantiles(values, (p, 1 - p)).tolist()
        if high > low:
            return (high - low) / _width(p)
    return 0.0


def columns(values: Tensor) -> Tensor:
    """Vectors (n, d) as they are, images (n, C, H, W) as columns of pixels (n', C), float64."""
    if values.ndim == 4:
        values = values.transpose(0, 1).flatten(1).T
        values = values[:: max(1, len(values) // VALUES)]
    return values.double()


def codes(values: Tensor, scale: Scale) -> list[tuple[int, float]]:
    """(column, value) where the outermost value of a column (n, d) repeats far outside the bulk.

    Most likely it stands for "missing" or "saturated". A mass within the bulk, such as the zeros of a count, is none.
    """
    found = []
    for column in (~scale.plain).nonzero()[:, 0].tolist():
        v = values[:, column]
        q = quantiles(v, _LEVELS)
        far = _FAR * _spread(v, q)
        for end in (v.min(), v.max()):
            if bool((end - q[3]).abs() > far) and int((v == end).sum()) > 1:
                found.append((column, float(end)))
    return found


@TRANSFORMS.register
class Standardise(Transform):
    """z = (x − mean)/std, c = (y − mean)/std, or the map of the module's docstring where those do not fit the bulk.

    Vectors (d,) are scaled coordinate by coordinate; images (C, H, W) channel by channel. Samples may be anywhere;
    subclasses map x to unbounded coordinates first. Offsets leave, and come back, in float64 where float32 is too
    coarse for them; states and conditions are float32.
    """

    name = "standardise"
    any_units = True
    later = ("x_log", "x_tail", "y_log", "y_tail", "y_low", "y_high")  # tensors that older files do not hold; 0 then
    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor
    y_low: Tensor  # of the observations in training, encoded; both 0 where they are not known
    y_high: Tensor

    @checked
    def __init__(self, x_shape: Vector | Image, y_shape: Vector | Image) -> None:
        super().__init__(x_shape, y_shape)
        for key, shape in zip(NAMES, (self.x_shape, self.y_shape)):
            size = (shape[0], 1, 1) if len(shape) == 3 else shape
            for part, value in _PARTS.items():
                self.register_buffer(f"{key}_{part}", torch.full(size, value, dtype=torch.float32))
        for side in ("low", "high"):
            self.register_buffer(f"y_{side}", torch.zeros(self.y_mean.shape, dtype=torch.float32))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.later:
            state_dict.setdefault(f"{prefix}{name}", torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def scale(self, key: str) -> Scale:
        """The map of "x" (mapped to unbounded coordinates) or "y"."""
        return Scale(*(getattr(self, f"{key}_{part}") for part in _PARTS))

    def x_scale(self) -> Tensor:
        """The width of the bulk."""
        scale = Scale(*(part.double() for part in self.scale("x")))
        one = torch.ones_like(scale.mean)
        wide = (scale.decode(one) - scale.decode(-one)) / 2
        return torch.where(scale.plain, scale.std, wide)

    def dtype_of(self, key: str) -> torch.dtype:
        return torch.float64 if bool(self._coarse(key).any()) else torch.float32

    def _coarse(self, key: str) -> Tensor:
        scale = self.scale(key)
        return torch.where(scale.log > 0, 0.0, scale.mean).abs() > COARSE * scale.std

    def _values(self, key: str, pairs: Pairs) -> Tensor:
        return self._free(pairs.x) if key == "x" else pairs.y

    def fit(self, rows: Rows) -> Self:
        """In one pass over the rows' blocks, and a sample of them for the quantiles.

        CSBError for a coordinate or channel that is constant or holds values that are not finite. Warns of values that
        are most likely codes.
        """
        found = {"x": Moments(), "y": Moments()}
        for block in rows.blocks():
            for key, moments in found.items():
                moments.update(self._values(key, block))
        head = rows.head(min(ROWS, pool(rows.x_shape, rows.y_shape)))
        for key, moments in found.items():
            values = self._values(key, head)
            part = "channel" if values.ndim == 4 else "column"
            mean, std = moments.mean, moments.std
            varies = torch.isfinite(std) & (std > 8 * torch.finfo(values.dtype).eps * mean.abs()) & (std > 0)
            if not bool(varies.all()):
                column = int((~varies).nonzero()[0])
                raise CSBError(
                    f"{part} {column} of {key} is constant or not finite (mean {float(mean[column]):g}, standard "
                    f"deviation {float(std[column]):g}); remove it or fix the data"
                )
            sample = columns(values)
            scale = Scale.fit(sample, mean, std)
            for name, value in zip(_PARTS, scale):
                self.get_buffer(f"{key}_{name}").view(-1).copy_(value)
            for column, value in codes(sample, scale):
                of_column = (self._values(key, block)[:, column] for block in rows.blocks())
                count = sum(int((v.double() == value).reshape(len(v), -1).any(1).sum()) for v in of_column)
                logger.warning(
                    f"{part} {column} of {key} is {value:g} in {count} rows, far outside all other values: most likely "
                    f"outliers that stand for missing values; leave these rows out, or put NaN there and drop them"
                )
        c = self.encode_y(head.y).flatten(2) if head.y.ndim == 4 else self.encode_y(head.y)[..., None]
        for side, extreme, level in (("low", c.amin(2), _EDGE), ("high", c.amax(2), 1 - _EDGE)):
            ends = torch.cat([quantiles(v.double(), (level,)) for v in extreme.unbind(1)])
            self.get_buffer(f"y_{side}").view(-1).copy_(ends)
        return self

    def y_range(self) -> tuple[Tensor, Tensor] | None:
        return (self.y_low, self.y_high) if bool((self.y_low < self.y_high).any()) else None

    def _free(self, x: Tensor) -> Tensor:
        """x to unbounded coordinates of the same shape; of x outside the support some number."""
        return x

    def _back(self, v: Tensor) -> Tensor:
        """Unbounded coordinates to x: the inverse of :meth:`_free`, defined for every v."""
        return v

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.scale("x").encode(self._free(x)).to(self.x_mean.dtype)

    def encode_y(self, y: Tensor) -> Tensor:
        return self.scale("y").encode(y).to(self.y_mean.dtype)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        wide = torch.promote_types(z.dtype, self.dtype_of("x"))
        return self._back(self.scale("x").decode(z.to(wide)))

    def log_jacobian(self, x: Tensor) -> Tensor:
        slope = self.scale("x").log_slope(self._free(x.double()))
        return (self._log_slope(x) + slope).expand(x.shape).flatten(1).sum(1)

    def _log_slope(self, x: Tensor) -> Tensor:
        """log |d free/dx| of each coordinate, broadcastable to x, float64; −∞ where :meth:`_back` never leads."""
        return torch.zeros((), dtype=torch.float64, device=x.device)
