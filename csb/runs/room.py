"""Whether this machine's memory has room for a run: counted from the configuration, before anything is allocated."""

import math

import torch

from csb.bridge import KernelSpec
from csb.bridge.kernel import heads
from csb.memory import require_memory
from csb.networks import build_network
from csb.problems import FilePairs, Problem
from csb.training.settings import TrainingSettings

_OF_WEIGHTS = 6 * 4  # bytes a weight: itself, its gradient, two moments, its average and a copy in a file
_OF_PAIRS = 3 * 4  # bytes a number of the data: as drawn, encoded, and while it is


def require_room(problem: Problem, T: int, training: TrainingSettings, kernels: tuple[KernelSpec, KernelSpec]) -> None:
    """CSBError where pairs, weights or the trajectory cache take more than this machine has.

    Files of pairs are held against it when they are read.
    """
    transform = problem.new_transform()
    if not isinstance(problem, FilePairs):
        numbers = math.prod(problem.x_shape) + math.prod(problem.y_shape)
        of_pairs = sum(problem.sizes.values()) * numbers * _OF_PAIRS
        require_memory(of_pairs, "the pairs of the problem", "lower n_train")
    z, budget = transform.z_shape, training.cache_bytes
    each = 4 * math.prod(z) * (2 * T + 1)
    require_memory(min(budget, training.trajectories * each), "the cache", "lower training.cache_bytes")
    weights = 0
    for part in kernels:
        with torch.device("meta"):
            count = heads(part.covariance, z, part.rank, part.components)
            network = build_network(part.network, z, transform.c_shape, count)
        weights += sum(p.numel() for p in network.parameters())
    require_memory(weights * _OF_WEIGHTS, f"{weights:.1e} weights", "lower network.options")
