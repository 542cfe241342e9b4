"""A bridge from plain data: names and numbers, resolved in the registries and nowhere else."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from csb.bridge.bridge import Bridge
from csb.bridge.kernel import COVARIANCES, MOST, Kernel, heads
from csb.bridge.parametrisation import PARAMETRISATIONS, Direction
from csb.errors import CSBError, is_number, is_one_of, require_int
from csb.networks import build_network
from csb.problems.transform import build_transform
from csb.process import Grid, initialised


@dataclass(frozen=True)
class KernelSpec:
    """One direction's kernels.

    Attributes:
        network: {"name": one of csb.networks.NETWORKS, **options}.
        parametrisation: one of csb.bridge.parametrisation.PARAMETRISATIONS.
        covariance: one of csb.bridge.kernel.COVARIANCES.
        rank: directions of covariance="low_rank"; unused otherwise.
        components: Gaussians of covariance="mixture"; unused otherwise.
        variance_floor: ≥ 0, see :class:`csb.bridge.kernel.Kernel`.
    """

    network: dict[str, Any]
    parametrisation: str = "v"
    covariance: str = "diagonal"
    rank: int = 8
    variance_floor: float = 1e-6
    components: int = 8

    def __post_init__(self) -> None:
        if not is_one_of(self.parametrisation, PARAMETRISATIONS):
            raise CSBError(
                f"parametrisation {self.parametrisation!r} is unknown; choose one of {', '.join(PARAMETRISATIONS)}"
            )
        if not is_one_of(self.covariance, COVARIANCES):
            raise CSBError(f"covariance {self.covariance!r} is unknown; choose one of {', '.join(COVARIANCES)}")
        if not is_number(self.variance_floor) or not 0 <= self.variance_floor <= 1:
            raise CSBError(f"variance_floor={self.variance_floor!r} is negative or above 1; choose a number in [0, 1]")
        for name in ("rank", "components"):
            require_int(name, getattr(self, name), 0, MOST)


@dataclass(frozen=True)
class BridgeSpec:
    """All that is needed to make a bridge, but its weights. ``alpha_bar`` is the grid (T + 1 numbers)."""

    alpha_bar: list[float]
    transform: dict[str, Any]
    backward: KernelSpec
    forward: KernelSpec
    precision: str = "32-true"

    def plain(self) -> dict[str, Any]:
        """As dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)


def build_bridge(spec: BridgeSpec, seed: int = 0) -> Bridge:
    """A bridge with initial weights that are a function of the seed; torch's global generator is left as it was."""
    grid = Grid(torch.tensor(spec.alpha_bar, dtype=torch.float64))
    transform = build_transform(spec.transform)

    def kernel(direction: Direction, part: KernelSpec) -> Kernel:
        count = heads(part.covariance, transform.z_shape, part.rank, part.components)
        network = build_network(part.network, transform.z_shape, transform.c_shape, count)
        return Kernel(
            network, grid, direction, part.parametrisation, part.covariance, part.variance_floor, part.components
        )

    with initialised(seed):
        backward, forward = kernel("backward", spec.backward), kernel("forward", spec.forward)
    bridge = Bridge(grid, backward, forward, transform, spec.precision)
    bridge.spec = spec
    return bridge
