"""Where trajectories of the cache are kept, in which type, and how many of them a budget holds."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from csb.bridge.objectives import Objective
from csb.errors import CSBError
from csb.training.spill import Spilled

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OWNER_BYTES = 8  # bytes of the owner of a trajectory


@dataclass(frozen=True)
class Storage:
    """How trajectories are kept.

    Attributes:
        dtype: of states and targets. States have about unit scale: float16 keeps 11 bits of them, bfloat16 8.
        budget: bytes of memory; None for any number.
        folder: of the file that holds what the budget does not; None: all are in memory.
    """

    dtype: torch.dtype = torch.float32
    budget: int | None = None
    folder: Path | None = None

    def inside(self, z_shape: tuple[int, ...], T: int, objective: Objective, size: int) -> int:
        """How many of ``size`` trajectories lie in memory; the owner of each always does."""
        if self.folder is None or self.budget is None:
            return size
        each = bytes_per_trajectory(z_shape, T, objective, self.dtype) - OWNER_BYTES
        return min(size, max(0, self.budget - OWNER_BYTES * size) // each)

    def sizes(self, z_shape: tuple[int, ...], T: int, objective: Objective, size: int) -> tuple[int, int]:
        """Bytes of ``size`` trajectories in memory and on the disk."""
        each = bytes_per_trajectory(z_shape, T, objective, self.dtype)
        outside = (size - self.inside(z_shape, T, objective, size)) * (each - OWNER_BYTES)
        return size * each - outside, outside

    def new(self, rows: int, size: int, shape: tuple[int, ...], inside: int) -> Tensor | Spilled:
        """An empty array (rows, size, *shape). CSBError where the disk has no room for it."""
        if inside == size or self.folder is None:
            return torch.empty((rows, size, *shape), dtype=self.dtype)
        return Spilled(rows, size, shape, self.dtype, inside, self.folder)


def bytes_per_trajectory(
    z_shape: tuple[int, ...], T: int, objective: Objective, dtype: torch.dtype = torch.float32
) -> int:
    """The states, the targets where the objective needs them, and the index of the observation."""
    kept = {"states": T + 1, "targets": 2 * T + 1, "ends": 2}[objective.caches]
    return dtype.itemsize * math.prod(z_shape) * kept + OWNER_BYTES


def capacity(
    z_shape: tuple[int, ...],
    T: int,
    objective: Objective,
    wanted: int,
    budget: int,
    group: str = "ipf",
    dtype: torch.dtype = torch.float32,
    spill: bool = False,
) -> int:
    """Trajectories that fit the byte budget of a group, at most ``wanted``. CSBError where not even one does.

    With ``spill`` they go to the disk beyond it, and the budget bounds their indices alone.
    """
    each = OWNER_BYTES if spill else bytes_per_trajectory(z_shape, T, objective, dtype)
    if budget < each:
        raise CSBError(f"{group}.cache_bytes={budget} cannot hold one trajectory of {each} bytes; raise it")
    return min(wanted, budget // each)
