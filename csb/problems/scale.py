"""The finest structure of p(x | y) that pairs show: how small the first step of a grid must be."""

import torch
from torch import Tensor

from csb.errors import CSBError

_PROBES, _POOL, _POOL_BYTES = 256, 100_000, 256 * 2**20
_SHARE = 0.1  # of probes whose structure is at least this fine
FEWEST = 50  # pairs


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
