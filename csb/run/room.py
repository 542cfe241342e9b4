"""Whether this machine's memory has room for a run: counted from the configuration, before anything is allocated."""

import math
from typing import TYPE_CHECKING

import torch

from csb.bridge.kernel import heads
from csb.errors import CSBError
from csb.networks import build_network
from csb.problems import FilePairs
from csb.problems.pairs_file import memory

if TYPE_CHECKING:
    from csb.run.config import RunConfig

_OF_WEIGHTS = 6 * 4  # bytes a weight: itself, its gradient, two moments, its average and a copy in a file
_OF_PAIRS = 3 * 4  # bytes a number of the data: as drawn, encoded, and while it is


def require_room(run: "RunConfig") -> None:
    """CSBError where pairs, weights or the trajectory cache take more than this machine has.

    Files of pairs are held against it when they are read.
    """
    transform = run.problem.new_transform()
    if not isinstance(run.problem, FilePairs):
        numbers = math.prod(run.problem.x_shape) + math.prod(run.problem.y_shape)
        _require("the pairs of the problem", "n_train", sum(run.problem.sizes.values()) * numbers * _OF_PAIRS)
    z, budget = transform.z_shape, run.ipf.cache_bytes
    each = 4 * math.prod(z) * (2 * run.grid.T + 1)
    _require("the cache", "ipf.cache_bytes", min(budget, run.ipf.trajectories * each))
    weights = 0
    for part in (run.backward, run.forward):
        with torch.device("meta"):
            count = heads(part.covariance, z, part.rank, part.components)
            network = build_network(part.network, z, transform.c_shape, count)
        weights += sum(p.numel() for p in network.parameters())
    _require(f"{weights:.1e} weights", "network.options", weights * _OF_WEIGHTS)


def _require(what: str, key: str, needed: int) -> None:
    if needed > memory():
        raise CSBError(
            f"{what} would take about {needed / 2**30:.3g} GiB and this machine has {memory() / 2**30:.1f} GiB of "
            f"memory; lower {key}"
        )
