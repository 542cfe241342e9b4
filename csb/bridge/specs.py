"""A bridge from plain data: names and numbers, resolved in the registries and nowhere else."""

from typing import Annotated, Any

import torch
from pydantic import Field

from csb.bridge.bridge import Bridge
from csb.bridge.kernel import COVARIANCES, MOST, Kernel, heads
from csb.bridge.parametrisation import PARAMETRISATIONS, Direction
from csb.dtypes import Precision
from csb.networks import build_network
from csb.problems.transform import build_transform
from csb.process import Grid, initialised
from csb.process.grid import MOST_STEPS
from csb.schema import Described, OneOf, Schema, Share

AlphaBar = Annotated[list[float], Field(min_length=2, max_length=MOST_STEPS + 1)]  # of a grid, T + 1 numbers
Parametrisation = Annotated[str, OneOf(PARAMETRISATIONS)]
Some = Annotated[int, Field(ge=1, le=MOST)]  # directions, Gaussians or channels


class KernelSpec(Schema):
    """One direction's kernels."""

    group = "kernel"

    network: dict[str, Any]
    """{"name": one of csb.networks.NETWORKS, **options}"""
    parametrisation: Parametrisation = "v"
    """how the mean is read from the network (see :mod:`csb.bridge.parametrisation`)"""
    covariance: Annotated[str, OneOf(COVARIANCES)] = "diagonal"
    rank: Some = 8
    """directions of covariance="low_rank"; unused otherwise"""
    variance_floor: Share = 1e-6
    """see :class:`csb.bridge.kernel.Kernel`"""
    components: Some = 8
    """Gaussians of covariance="mixture"; unused otherwise"""


class BridgeSpec(Schema):
    """All that is needed to make a bridge, but its weights."""

    group = "bridge"

    alpha_bar: AlphaBar
    transform: Described
    """{"name": one of csb.problems.TRANSFORMS, **arguments}"""
    backward: KernelSpec
    forward: KernelSpec
    precision: Precision = "32-true"
    """of the network calls in :meth:`csb.bridge.Bridge.sample`"""


def build_bridge(spec: BridgeSpec, seed: int = 0) -> Bridge:
    """Make a bridge with initial weights that are a function of the seed; torch's global generator is left alone."""
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
