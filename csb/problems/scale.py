r"""The scale of a coordinate, whatever its tails do, and the finest scale of p(x | y), whatever the coordinates.

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

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from csb.errors import CSBError

ROWS, VALUES = 20_000, 2**22  # that quantiles are taken of, at most; of images, of a channel
TAIL = 4.0  # a, in units of s
COARSE = 1e3  # |location|/spread from which the spacing of float32 is seen in narrow posteriors
_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_RARE = (0.02, 0.01, 0.005, 0.002, 0.001)  # p of coordinates whose bulk is a single value
_SMALL = (0.5, 0.1, 0.01)  # quantiles of |v| ≠ 0 at which a logarithm may begin
_FAR = 20.0  # s, from which a value that repeats is taken for a code
_PROBES, _POOL, _POOL_BYTES = 256, 100_000, 256 * 2**20
_SHARE = 0.1  # of probes whose structure is at least this fine
FEWEST = 50  # pairs that show a finest scale


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
        """Of each column.

        Args:
            values: (n, d), float64: a sample of the rows.
            mean, std: (d,), float64: of all rows.
        """
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
    for column, v in enumerate(values.unbind(1)):
        if bool(scale.plain[column]):
            continue
        q = quantiles(v, _LEVELS)
        far = _FAR * _spread(v, q)
        for end in (v.min(), v.max()):
            if bool((end - q[3]).abs() > far) and int((v == end).sum()) > 1:
                found.append((column, float(end)))
    return found


def is_coarse(location: Tensor, spread: Tensor) -> Tensor:
    """Which numbers are so far from 0, for their spread, that float32 is too coarse for them."""
    return location.abs() > COARSE * spread


def pool(z_shape: tuple[int, ...], c_shape: tuple[int, ...]) -> int:
    """How many pairs the scale is read off at most: 100,000, and 256 MiB as float32."""
    size = 4 * (torch.Size(z_shape).numel() + torch.Size(c_shape).numel())
    return max(FEWEST, min(_POOL, _POOL_BYTES // size))


def finest_scale(z: Tensor, c: Tensor, generator: torch.Generator) -> float:
    """The standard deviation of z given c in its narrowest direction, at the finest tenth of places.

    Around a probe, its nearest neighbours among all pairs (z, c) are regressed linearly on c, where they suffice; the
    narrowest principal direction of what is left has the standard deviation that the last steps of a bridge must
    resolve: the width of a crescent, of the narrow part of a mixture, or of observation noise. Where the data are
    sparse the neighbours lie far apart and the number says how finely the data themselves are known.

    Args:
        z: (N, d), of about unit scale.
        c: (N, m), of about unit scale.
        generator: draws the probes.

    Raises:
        CSBError: fewer than 50 pairs.
    """
    most = pool(tuple(z.shape[1:]), tuple(c.shape[1:]))
    z, c = z[:most].flatten(1).double(), c[:most].flatten(1).double()
    if len(z) < FEWEST:
        raise CSBError(f"{len(z)} pairs are too few to see the data's finest scale; give schedule.power or more pairs")
    d, m = z.shape[1], c.shape[1]
    count = min(len(z), max(8 * d, 2 * (d + m)) + m + 1)
    both = torch.cat([z, c], 1).float()
    probes = both[torch.randint(len(both), (_PROBES,), generator=generator)]
    near = torch.cat([torch.cdist(part, both).topk(count, largest=False).indices for part in probes.split(32)])
    constant = torch.ones(*near.shape, 1, dtype=torch.float64)
    inputs = torch.cat([constant, c[near]], 2)
    if count <= m + 1 + 2 * d:  # too few pairs for a regression on a c this long
        inputs, m = constant, 0
    left = z[near] - inputs @ torch.linalg.lstsq(inputs, z[near]).solution
    widths = torch.linalg.svdvals(left)[:, -1] / (count - m - 1) ** 0.5
    return float(widths.quantile(_SHARE))
