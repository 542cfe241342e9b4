"""What batches are drawn from: the pairs of a training as the bridge sees them, and the trajectory cache."""

import copy
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from csb.bridge import Bridge, Direction, autocast
from csb.bridge.objectives import Objective
from csb.bridge.transitions import Transition
from csb.errors import CSBError
from csb.problems import Pairs, Rows, Transform
from csb.process import Noise, seeded
from csb.training.ranks import ALONE, Ranks

_NOTHING = 0.1  # of the observations with gaps, the share that shows nothing
_OWNER_BYTES = 8  # of the index of a trajectory's pair
_KEPT = (lambda z, c: z, lambda c: c)  # encodes what is encoded already
_ENCODED = 8192  # pairs at a time: what encoding takes beside its result would be several times that of all pairs
_CHUNK = 1024  # trajectories of a network call, of all processes together


class EncodedPairs:
    """N pairs of states z and conditions c. In memory they are encoded once; else each batch, when it is read.

    Args:
        source: of the pairs (x, y).
        z_shape: of one state.
        encode_x, encode_y: x and y → z, and y → c.
        transform: draws, of the states that stand for the same x, the one to train on; None where there is one.
        missing: the chance that an observation to train on has gaps, see :func:`hidden`.
    """

    def __init__(
        self,
        source: Rows,
        z_shape: tuple[int, ...],
        encode_x: Callable[[Tensor, Tensor], Tensor],
        encode_y: Callable[[Tensor], Tensor],
        transform: Transform | None = None,
        missing: float = 0.0,
    ) -> None:
        self.z_shape, self.transform, self.in_memory = tuple(z_shape), transform, source.in_memory
        self.missing = missing
        self.source, self.encode_x, self.encode_y = source, encode_x, encode_y
        if self.in_memory and (encode_x, encode_y) != _KEPT:
            starts = range(0, len(source), _ENCODED)
            parts = [self.plain(slice(start, min(start + _ENCODED, len(source)))) for start in starts]
            self.source = Rows.of(Pairs(*(torch.cat(part) for part in zip(*parts))))
            self.encode_x, self.encode_y = _KEPT

    @classmethod
    def of(
        cls, z: Tensor, c: Tensor | None = None, transform: Transform | None = None, missing: float = 0.0
    ) -> "EncodedPairs":
        """Take z (N, *z_shape) and c (N, *c_shape) that are encoded; without c there are no conditions: c (N, 0)."""
        pairs = Pairs(z, z.new_empty(len(z), 0) if c is None else c)
        return cls(Rows.of(pairs), tuple(z.shape[1:]), *_KEPT, transform, missing)

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> "EncodedPairs":
        """Copy pairs in memory to a device; what they are asked for, and the generator, live there."""
        transform = None if self.transform is None else copy.deepcopy(self.transform).to(device)
        z, c = self.head(len(self))
        return EncodedPairs.of(z.to(device), c.to(device), transform, self.missing)

    def plain(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return z (B, *z_shape) and c (B, *c_shape) of the pairs of these numbers (B,), int64; z as x is encoded."""
        x, y, _ = self.source.read(indices)  # in memory these are z and c already
        return self.encode_x(x, y), self.encode_y(y)

    def conditions(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the c of :meth:`plain` alone; with a generator as :meth:`to_train_on`."""
        c = self.encode_y(self.source.read_y(indices))
        return hidden(c, self.missing, generator) if generator is not None else c

    def to_train_on(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Do as :meth:`plain`, with states to train on, and gaps in c.

        The generator, where z lies, draws where there is a choice.
        """
        z, c = self.plain(indices)
        z = z if self.transform is None else self.transform.preimage(z, generator, c)
        return z, hidden(c, self.missing, generator)

    def head(self, n: int) -> tuple[Tensor, Tensor]:
        """Return :meth:`plain` of the first n pairs; of all where there are fewer."""
        return self.plain(slice(0, min(n, len(self))))


def encoded(transform: Transform, source: Rows, missing: float = 0.0, fitted_to: bool = False) -> EncodedPairs:
    """Encode the pairs of a source by a copy of a fitted transform, which may move to another device.

    ``fitted_to``: whether these are the pairs that it was fitted to.
    """
    own = copy.deepcopy(transform.left_out() if fitted_to else transform).cpu().requires_grad_(False)
    return EncodedPairs(source, own.z_shape, own.encode_x, own.encode_y, own, missing)


def hidden(c: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Return observations c (B, *c_shape) with NaN in place of values, so that a training sees gaps of any pattern.

    Each of the B has gaps with the given chance. Then a share, uniform in [0, 1], of its values is hidden, each by
    itself, or each row of a series or set (L, d); but one in ten shows nothing, which leaves the prior to be learned.
    No random number is drawn where the chance is 0.
    """
    if not chance:
        return c

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float32, device=c.device, generator=generator)

    share = torch.where(uniform(len(c)) < _NOTHING, 1.0, uniform(len(c)))
    share = torch.where(uniform(len(c)) < chance, share, 0.0)
    rows = uniform(*c.shape[:2], 1) if c.ndim == 3 else uniform(*c.shape)
    return c.masked_fill(rows < share.view(-1, *[1] * (c.ndim - 1)), torch.nan)


class Cache(NamedTuple):
    """N trajectories of the frozen kernels, in memory."""

    states: Tensor  # (T + 1, N, *z_shape), by k; (2, N, *z_shape), x_0 and x_T, where end points are all that is kept
    targets: Tensor | None  # (T, N, *z_shape), that of step k at k − 1; None where the state itself is the target
    owner: Tensor  # (N,), the pair whose observation goes with the trajectory: y is stored once, in the data
    gaps: Tensor | None = None  # (N, *c_shape), the observations as the kernels saw them, where values were hidden

    def conditions(self, pairs: EncodedPairs, paths: Tensor) -> Tensor:
        """Return the observations of trajectories (B,), int64, as the kernels saw them; ``pairs`` are the cache's."""
        return pairs.conditions(self.owner[paths]) if self.gaps is None else self.gaps[paths]

    @property
    def tensors(self) -> list[Tensor]:
        return [part for part in self if part is not None]


def bytes_per_trajectory(
    maps: Transform, T: int, objective: Objective, missing: float, dtype: torch.dtype = torch.float32
) -> int:
    """Count the states, the targets where the objective needs them, and the observation's index, or a copy with gaps.

    The copy comes with the index where a chance of ``missing`` values is set.
    """
    kept = {"states": T + 1, "targets": 2 * T + 1, "ends": 2}[objective.caches]
    gaps = torch.float32.itemsize * math.prod(maps.c_shape) if missing else 0
    return dtype.itemsize * math.prod(maps.z_shape) * kept + gaps + _OWNER_BYTES


def capacity(each: int, wanted: int, budget: int, group: str = "training") -> int:
    """Return how many trajectories of ``each`` bytes fit a byte budget, at most ``wanted``; CSBError for none."""
    if budget < each:
        raise CSBError(f"{group}.cache_bytes={budget} cannot hold one trajectory of {each} bytes; raise it")
    return min(wanted, budget // each)


def fill(
    bridge: Bridge,
    source: Direction,
    objective: Objective,
    pairs: EncodedPairs,
    size: int,
    seed: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
) -> Cache:
    """Run the frozen kernels of ``source`` on ``size`` random pairs, on the bridge's device.

    A pure function of the kernels, the data and the seed: a resumed run fills the same cache again. Of several
    processes each draws the random numbers of all trajectories and runs the kernels on its part of each chunk.

    Args:
        source: "forward" starts at the data, "backward" at N(0, I).
        pairs: of which the conditions and, forward, the first states are.
        size: trajectories, at most what :func:`capacity` allows.
        seed: (seed, half-step, round, 0, stream).
        dtype: in which states and targets are kept. They have about unit scale: float16 keeps 11 bits, bfloat16 8.
        ranks: the processes that share the work; each gets the whole cache.
    """
    generator, choice = seeded(*seed, device=bridge.device), seeded(*seed, 2)
    owner = torch.randint(len(pairs), (size,), generator=seeded(*seed, 1))
    T, kernel = bridge.grid.T, bridge.kernel(source)
    row_of = {0: 0, T: 1} if objective.caches == "ends" else {k: k for k in range(T + 1)}  # k → row of ``states``
    new = torch.empty if ranks.size == 1 else torch.zeros  # of several, 0 where the others compute
    states = new((len(row_of), size, *pairs.z_shape), dtype=dtype)
    targets = new((T, size, *pairs.z_shape), dtype=dtype) if objective.caches == "targets" else None
    seen: list[Tensor] = []
    with torch.no_grad(), autocast(bridge.precision, bridge.device):
        for rows in torch.arange(size).split(_CHUNK):
            part, first = ranks.part(len(rows)), int(rows[0])
            where = slice(first + part.start, first + part.stop)
            if source == "backward":
                shape, like = (len(rows), *pairs.z_shape), {"dtype": torch.float32, "device": bridge.device}
                start = torch.randn(shape, **like, generator=generator)
                c = pairs.conditions(owner[rows], choice)
            else:
                start, c = pairs.to_train_on(owner[rows], choice)
            seen += [c] if pairs.missing else []
            if part.start == part.stop:  # of the last chunk alone, so that no later noise is missed
                continue
            start, noise = start[part].to(bridge.device), _Part(generator, len(rows), bridge.device, part)
            context = bridge.contexts(source, c[part].to(bridge.device), _CHUNK)
            k, ahead = (0, 1) if source == "forward" else (T, -1)
            states[row_of[k], where] = start.cpu()
            laws: deque[Transition] = deque(maxlen=1)
            for end in bridge.walk(source, start, context, noise, _CHUNK, after=laws.append):
                step, k = max(k, k + ahead), k + ahead
                if k in row_of:
                    states[row_of[k], where] = end.cpu()
                if targets is not None:
                    number, mean = torch.tensor([step], device=end.device), laws.pop().mean
                    targets[step - 1, where] = objective.cached_target(kernel, number, start, end, mean, context).cpu()
                start = end
    for tensor in (states, *([] if targets is None else [targets])):
        ranks.all_reduce(tensor)
    return Cache(states, targets, owner, torch.cat(seen) if seen else None)


class _Part(Noise):
    """The noise of a part of the observations, out of that drawn for all of them."""

    def __init__(self, generator: torch.Generator, observations: int, device: torch.device, part: slice) -> None:
        super().__init__(generator, observations, device)
        self.part = part

    def normal(self, n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        rows = slice(n * self.part.start, n * self.part.stop)
        return super().normal(n, *shape, dtype=dtype)[rows]
