"""Whether this machine's memory has room for a run: counted from the configuration, before anything is allocated."""

import math
from typing import TYPE_CHECKING

import torch

from csb.bridge.kernel import heads
from csb.memory import require_memory
from csb.networks import build_network
from csb.problems import FilePairs

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
        of_pairs = sum(run.problem.sizes.values()) * numbers * _OF_PAIRS
        require_memory(of_pairs, "the pairs of the problem", "lower n_train")
    z, budget = transform.z_shape, run.ipf.cache_bytes
    each = 4 * math.prod(z) * (2 * run.grid.T + 1)
    require_memory(min(budget, run.ipf.trajectories * each), "the cache", "lower ipf.cache_bytes")
    weights = 0
    for part in (run.backward, run.forward):
        with torch.device("meta"):
            count = heads(part.covariance, z, part.rank, part.components)
            network = build_network(part.network, z, transform.c_shape, count)
        weights += sum(p.numel() for p in network.parameters())
    require_memory(weights * _OF_WEIGHTS, f"{weights:.1e} weights", "lower network.options")
