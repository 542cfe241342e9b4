r"""Maps of numbers to unit scale, fitted to the training pairs, whatever the tails of a coordinate do.

Where mean and standard deviation agree with the median and the interquartile range (over 1.349, which is 1 for N(0, 1))
within a factor of two, a coordinate v becomes (v − mean)/std. A few rows far out, heavy tails or values over several
decades move mean and std away from the bulk, which then would share a small part of the unit scale. There the
coordinate becomes

    z = g((h(v) − m)/s),    h(v) = v or asinh(v/ε),    g(u) = u for |u| ≤ a,  ±(a + log(1 + |u| − a)) beyond,

with the median m and the widest of the ranges between the quantiles p and 1 − p, p = .25, .1, .05, each over that of
N(0, 1), as s. h with ε at the lower end of |v| is a logarithm with a sign; g gives logarithmic tails. Both are
increasing, with continuous slopes, so that y loses nothing, and x has a density with their Jacobian. Which h: the one
whose seven quantiles from .05 to .95 are nearest to those of N(0, 1), (v − mean)/std among the candidates. Of y, which
a network only reads, skewed coordinates take part too: those where that brings the quantiles at least three times
nearer (mean square, of more than .03).
"""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

ROWS, VALUES = 20_000, 2**22  # that quantiles are taken of, at most; of images, of a channel
TAIL = 4.0  # a, in units of s
_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_RARE = (0.02, 0.01, 0.005, 0.002, 0.001)  # p of coordinates whose bulk is a single value
_SMALL = (0.5, 0.1, 0.01)  # quantiles of |v| ≠ 0 at which a logarithm may begin
_SKEWED, _NEARER = 0.03, 3.0  # distance of quantiles from those of N(0, 1), and how many times nearer h brings them
_FAR = 20.0  # s, from which a value that repeats is taken for a code


class Moments:
    """Mean and standard deviation of each coordinate of (N, d), or channel of (N, C, H, W), in one pass, in float64.

    Where values may be ``missing``, NaN is left out, and ``gaps`` tells whether there was any.

    Blocks are merged as Chan, Golub & LeVeque 1979 do it, which loses no digits where the mean is far from 0.
    """

    def __init__(self, missing: bool = False) -> None:
        self.count: Any = 0
        self.missing, self.gaps = missing, False
        self.mean = self._square = torch.zeros((), dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Adds a block (n, …)."""
        if not len(values):
            return
        values, axes = values.double(), [0, *range(2, values.ndim)]
        count: Any = values.numel() // values.shape[1]
        mean, wide = values.mean(axes), (-1, *[1] * (values.ndim - 2))
        if self.missing and bool(mean.isnan().any()):
            self.gaps = True
            count = (~values.isnan()).sum(axes).double()
            mean = values.nansum(axes) / count.clamp_min(1)  # of a block without values: any, with the weight 0
        square = (values - mean.view(wide)).square().nansum(axes)
        share, gap = count / (self.count + count), mean - self.mean
        self._square = self._square + square + gap.square() * (self.count * share)
        self.mean = self.mean + gap * share
        self.count += count

    @property
    def std(self) -> Tensor:
        """√(Σ (v − mean)²/N)."""
        return (self._square / self.count).sqrt()


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
        if v.device.type == "cpu" and bool(self.plain.all()):  # a GPU would wait for the answer
            return (v - self.mean) / self.std
        size = torch.where(self.log > 0, self.log, 1.0)
        u = (torch.where(self.log > 0, torch.asinh(v / size), v) - self.mean) / self.std
        beyond = self._beyond(u)
        return torch.where(beyond > 0, u.sign() * (self.tail + beyond.log1p()), u)

    def decode(self, z: Tensor) -> Tensor:
        """z → v: the inverse of :meth:`encode`."""
        if bool(self.plain.all()):
            return self.mean + self.std * z
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
    def fit(cls, values: Tensor, mean: Tensor, std: Tensor, skewed: bool = False) -> Self:
        """Of each column of values (n, d), a sample of the rows, from mean and std (d,) of all rows; float64.

        ``skewed``: whether a skewed column whose moments fit its bulk may have another map too.
        """
        found = [_column(present(v), float(m), float(s), skewed) for v, m, s in zip(values.unbind(1), mean, std)]
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


def _column(values: Tensor, mean: float, std: float, skewed: bool) -> tuple[float, float, float, float]:
    """(mean, std, log, tail) of one coordinate."""
    plain = (mean, std, 0.0, 0.0)
    centre, wide = _bulk(values, mean, std)
    fits = (centre, wide) == (mean, std)
    if fits and not skewed:
        return plain
    q = quantiles(values, _LEVELS)
    candidates = [plain, (centre, wide, 0.0, TAIL)]
    for epsilon in quantiles(values[values != 0].abs(), _SMALL).tolist():
        logged = torch.asinh(q / epsilon)
        if (log_wide := _spread(torch.asinh(values / epsilon), logged)) > 0:
            candidates.append((float(logged[3]), log_wide, epsilon, TAIL))
    normal = torch.special.ndtri(torch.tensor(_LEVELS, dtype=torch.float64))

    def distance(candidate: tuple[float, float, float, float]) -> float:
        scale = Scale(*torch.tensor(candidate, dtype=torch.float64))
        return float((scale.encode(q) - normal).square().mean())

    best = min(candidates, key=distance)
    if fits and (distance(plain) < _SKEWED or distance(plain) < _NEARER * distance(best)):
        return plain
    return best


def present(values: Tensor) -> Tensor:
    """Those of values (n,) that are not missing."""
    return values[~values.isnan()]


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
    """Vectors (n, d) as they are; pixels (n', C) of images (n, C, H, W), rows (n', d) of (n, L, d); float64."""
    if values.ndim == 3:
        values = values.flatten(0, 1)
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
        v = present(values[:, column])
        q = quantiles(v, _LEVELS)
        far = _FAR * _spread(v, q)
        for end in (v.min(), v.max()):
            if bool((end - q[3]).abs() > far) and int((v == end).sum()) > 1:
                found.append((column, float(end)))
    return found
