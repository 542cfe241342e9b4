"""Do the rows of observations come in an order? A permutation test on many of them.

Under the hypothesis that rows are exchangeable within each observation, as those of a set are, any order of them is as
likely as the one given. Two statistics are compared with those of random orders: the products of neighbouring rows, for
correlation in time, trends and clusters of variance, and the sums at each place, for a course that all share. Both are
of ranks in the column, less their mean in the observation, and of the squares of these; both have power against most
that makes a series, but a p-value that is not small proves no set.
"""

import torch
from torch import Tensor

from csb.errors import CSBError

PERMUTATIONS = 199
_VALUES, _LONGEST, _WIDEST = 200_000, 200, 32  # numbers of all observations that count, rows of one, and columns


def most(shape: tuple[int, ...]) -> int:
    """How many observations (L, d) count."""
    return max(1, _VALUES // (min(shape[0], _LONGEST) * min(shape[1], _WIDEST)))


def ranks(values: Tensor) -> Tensor:
    """Ranks (n,) of values in (0, 1), the same for equal ones; NaN stays NaN."""
    values = values.contiguous()
    known = values[~values.isnan()].sort().values
    both = sum(torch.searchsorted(known, values, right=right) for right in (False, True))
    return torch.where(values.isnan(), torch.nan, both / (2 * max(1, len(known))))


def order_p_value(y: Tensor, generator: torch.Generator) -> tuple[float, int]:
    """The p-value, in [0.01, 1], of rows in no order, and how many pairs of neighbours tell.

    Args:
        y: observations (N, L, d), of which 200,000 numbers, the first 200 rows and the first 32 columns count; NaN is
            missing.
        generator: of the permutations.

    Raises:
        CSBError: y of another shape.
    """
    if y.ndim != 3 or not y.numel():
        raise CSBError(f"y has shape {tuple(y.shape)}; expected (N, L, d)")
    y = y[: most(tuple(y.shape[1:])), :_LONGEST, :_WIDEST].double()
    there = ~y.isnan().all(2)
    u = torch.stack([ranks(column).view(there.shape) for column in y.flatten(0, 1).unbind(1)], 2)
    u = u - u.nanmean(1, keepdim=True)
    square = u.square()
    f = torch.cat([u, square - square.nanmean(1, keepdim=True)], 2).nan_to_num(0.0)
    f = f / f.square().mean((0, 1)).sqrt().clamp_min(1e-12)
    pairs, places = [], []
    for number in range(PERMUTATIONS + 1):  # the first is the order given; rows that are not there come last
        key = torch.rand(there.shape, generator=generator) if number else torch.arange(y.shape[1]).expand(there.shape)
        moved = f.gather(1, (key + ~there * y.shape[1]).argsort(1)[..., None].expand(f.shape))
        pairs.append(torch.einsum("nld,nle->de", moved[:, :-1], moved[:, 1:]).flatten())
        places.append(moved.sum(0).flatten())
    found = torch.stack([(s - s.mean(0)).square().sum(1) for s in map(torch.stack, (pairs, places))])
    p = (found >= found[:, :1] * (1 - 1e-9)).double().mean(1).min()
    return min(1.0, 2 * float(p)), int((there.sum(1) - 1).clamp_min(0).sum())
