"""The trajectory cache: states of the frozen kernels' paths, from which a half-step draws its batches."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from csb.bridge import Bridge, Direction, autocast
from csb.bridge.objectives import Objective
from csb.errors import CSBError
from csb.process import Noise, seeded


@dataclass(frozen=True)
class Cache:
    """N trajectories.

    Attributes:
        states: (T + 1, N, *z_shape), states by k; (2, N, *z_shape), x_0 and x_T, where end points are all that is kept.
        targets: (T, N, *z_shape), the target of step k at k − 1; None where the state itself is the target.
        owner: (N,), the pair whose observation goes with the trajectory: y is stored once, in the data.
    """

    states: Tensor
    targets: Tensor | None
    owner: Tensor


def bytes_per_trajectory(z_shape: tuple[int, ...], T: int, objective: Objective) -> int:
    """float32 states, the targets where the objective needs them, and the index of the observation."""
    kept = {"states": T + 1, "targets": 2 * T + 1, "ends": 2}[objective.caches]
    return 4 * math.prod(z_shape) * kept + 8


def capacity(
    z_shape: tuple[int, ...], T: int, objective: Objective, wanted: int, budget: int, group: str = "ipf"
) -> int:
    """Trajectories that fit the byte budget of a group, at most ``wanted``. CSBError where not even one does."""
    each = bytes_per_trajectory(z_shape, T, objective)
    if budget < each:
        raise CSBError(f"{group}.cache_bytes={budget} cannot hold one trajectory of {each} bytes; raise it")
    return min(wanted, budget // each)


def fill(
    bridge: Bridge,
    source: Direction,
    objective: Objective,
    z: Tensor,
    c: Tensor,
    size: int,
    seed: tuple[int, ...],
    chunk: int = 1024,
) -> Cache:
    """Runs the frozen kernels of ``source`` on ``size`` random pairs.

    A pure function of the kernels, the data and the seed: a resumed run fills the same cache again.

    Args:
        bridge: on the device that fills.
        source: "forward" starts at the data z, "backward" at N(0, I).
        objective: sets the targets.
        z, c: encoded pairs (N, …), on the CPU.
        size: trajectories, at most what :func:`capacity` allows.
        seed: (seed, half-step, round, rank).
        chunk: trajectories a network call.
    """
    generator = seeded(*seed, device=bridge.device)
    owner = torch.randint(len(z), (size,), generator=seeded(*seed, 1))
    T, kernel = bridge.grid.T, bridge.kernel(source)
    rows_of = {0: 0, T: 1} if objective.caches == "ends" else {k: k for k in range(T + 1)}  # k → row of ``states``
    states = torch.empty((len(rows_of), size, *z.shape[1:]))
    targets = torch.empty((T, size, *z.shape[1:])) if objective.caches == "targets" else None
    with torch.no_grad(), autocast(bridge.precision, bridge.device):
        for rows in torch.arange(size).split(chunk):
            where = slice(int(rows[0]), int(rows[-1]) + 1)
            start = z[owner[where]].to(bridge.device)
            if source == "backward":
                start = torch.randn(start.shape, device=start.device, generator=generator)
            code = bridge.codes(source, c[owner[where]].to(bridge.device), chunk)
            k, ahead = (0, 1) if source == "forward" else (T, -1)
            states[rows_of[k], where] = start.cpu()
            noise = Noise(generator, len(start), bridge.device)
            for end, mean in bridge.walk(source, start, code, 1, noise, chunk):
                step, k = (k + 1 if ahead == 1 else k), k + ahead
                if k in rows_of:
                    states[rows_of[k], where] = end.cpu()
                if targets is not None:
                    number = torch.tensor([step], device=end.device)
                    targets[step - 1, where] = objective.cached_target(kernel, number, start, end, mean, code).cpu()
                start = end
    return Cache(states, targets, owner)
