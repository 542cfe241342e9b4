"""The trajectory cache: states of the frozen kernels' paths, from which a half-step draws its batches."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from csb.bridge import Bridge, Direction, autocast
from csb.bridge.objectives import Objective
from csb.bridge.transitions import Transition
from csb.process import Noise, seeded
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.ranks import ALONE, Ranks
from csb.training.spill import Spilled
from csb.training.storage import Storage


@dataclass(frozen=True)
class Cache:
    """N trajectories.

    Attributes:
        states: (T + 1, N, *z_shape), states by k; (2, N, *z_shape), x_0 and x_T, where end points are all that is kept.
        targets: (T, N, *z_shape), the target of step k at k − 1; None where the state itself is the target.
        owner: (N,), the pair whose observation goes with the trajectory: y is stored once, in the data.
    """

    states: Tensor | Spilled
    targets: Tensor | Spilled | None
    owner: Tensor

    def held(self) -> list[Tensor] | None:
        """Its tensors; None where a part lies on the disk."""
        parts = [part for part in (self.states, self.targets) if part is not None]
        return None if any(isinstance(part, Spilled) for part in parts) else [*parts, self.owner]  # type: ignore[list-item]

    def to(self, device: torch.device) -> "Cache":
        """The same, which must be in memory, on a device."""
        assert isinstance(self.states, Tensor)
        assert not isinstance(self.targets, Spilled)
        targets = None if self.targets is None else self.targets.to(device)
        return Cache(self.states.to(device), targets, self.owner.to(device))

    def close(self) -> None:
        """Gives back what it has on the disk; it is of no use then."""
        for part in (self.states, self.targets):
            if isinstance(part, Spilled):
                part.close()


def fill(
    bridge: Bridge,
    source: Direction,
    objective: Objective,
    pairs: EncodedPairs | tuple[Tensor, Tensor],
    size: int,
    seed: tuple[int, ...],
    chunk: int = 1024,
    storage: Storage | None = None,
    ranks: Ranks = ALONE,
) -> Cache:
    """Runs the frozen kernels of ``source`` on ``size`` random pairs.

    A pure function of the kernels, the data and the seed: a resumed run fills the same cache again. Of several
    processes each draws the noise of all trajectories and runs the kernels on its part of each chunk.

    Args:
        bridge: on the device that fills.
        source: "forward" starts at the data, "backward" at N(0, I).
        objective: sets the targets.
        pairs: encoded; or z (N, …) and c (N, …), on the CPU.
        size: trajectories, at most what :func:`capacity` allows.
        seed: (seed, half-step, round, rank).
        chunk: trajectories of a network call, of all processes together.
        storage: where they go; None: float32 in memory.
        ranks: the processes that share the work; each gets the whole cache, in memory.

    Raises:
        CSBError: no room on the disk for what memory does not hold.
    """
    generator, choice = seeded(*seed, device=bridge.device), seeded(*seed, 2)
    pairs, storage = as_pairs(pairs), storage or Storage()
    owner = torch.randint(len(pairs), (size,), generator=seeded(*seed, 1))
    T, kernel, shape = bridge.grid.T, bridge.kernel(source), pairs.z_shape
    rows_of = {0: 0, T: 1} if objective.caches == "ends" else {k: k for k in range(T + 1)}  # k → row of ``states``
    inside = storage.inside(shape, T, objective, size)
    states = storage.new(len(rows_of), size, shape, inside)
    targets = storage.new(T, size, shape, inside) if objective.caches == "targets" else None
    for rows in (states, targets):
        if isinstance(rows, Tensor) and ranks.size > 1:
            rows.zero_()  # where the others compute
    with torch.no_grad(), autocast(bridge.precision, bridge.device):
        for rows in torch.arange(size).split(chunk):
            part, first = ranks.part(len(rows)), int(rows[0])
            where = slice(first + part.start, first + part.stop)
            start, c = _starts(source, pairs, owner[rows], part, generator, choice)
            if part.start == part.stop:  # of the last chunk alone, so that no later noise is missed
                continue
            noise = _Part(generator, len(rows), bridge.device, part)
            context = bridge.contexts(source, c.to(bridge.device), chunk)
            k, ahead = (0, 1) if source == "forward" else (T, -1)
            states[rows_of[k], where] = start.cpu()
            laws: deque[Transition] = deque(maxlen=1)
            for end in bridge.walk(source, start, context, noise, chunk, after=laws.append):
                step, k = (k + 1 if ahead == 1 else k), k + ahead
                if k in rows_of:
                    states[rows_of[k], where] = end.cpu()
                if targets is not None:
                    number, mean = torch.tensor([step], device=end.device), laws.pop().mean
                    targets[step - 1, where] = objective.cached_target(kernel, number, start, end, mean, context).cpu()
                start = end
    for rows in (states, targets):
        if isinstance(rows, Tensor):  # of one process nothing is missing
            ranks.complete(rows)
    return Cache(states, targets, owner)


def _starts(
    source: Direction,
    pairs: EncodedPairs,
    owner: Tensor,
    part: slice,
    generator: torch.Generator,
    choice: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The first states of a part of trajectories, on the generator's device, and their conditions, on the CPU.

    Random numbers are drawn for all of them: ``choice``, on the CPU, draws those of the data.
    """
    if source == "backward":
        shape, device = (len(owner), *pairs.z_shape), generator.device
        start = torch.randn(shape, dtype=torch.float32, device=device, generator=generator)
        return start[part], pairs.conditions(owner[part])
    z, c = pairs.rows(owner, choice)
    return z[part].to(generator.device), c[part]


class _Part(Noise):
    """The noise of a part of the observations, out of that drawn for all of them."""

    def __init__(self, generator: torch.Generator, observations: int, device: torch.device, part: slice) -> None:
        super().__init__(generator, observations, device)
        self.part = part

    def normal(self, n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        rows = slice(n * self.part.start, n * self.part.stop)
        return super().normal(n, *shape, dtype=dtype)[rows]
