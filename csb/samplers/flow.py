"""Samplers of a flow: dz/dt = v(z, t, y) from N(0, I) at t = 0 to p(z_0 | y) at t = 1, in N even steps.

See :mod:`csb.networks.diffusion` for the velocity. It is finite at both ends, and the start is N(0, I) exactly.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from csb.errors import CSBError, is_one_of, require_int
from csb.networks.diffusion import ConditionalModel, FlowNetwork
from csb.process import Noise
from csb.process.grid import MOST_STEPS
from csb.samplers.conditional import ConditionalSampler


class FlowSampler(ConditionalSampler):
    """A sampler of a conditional velocity.

    Args:
        model: the velocity.
        N: steps, at least 1.
        batch_size: see :class:`csb.samplers.conditional.ConditionalSampler`.
    """

    kind = "flow"

    def __init__(self, model: ConditionalModel, N: int, batch_size: int = 1024) -> None:
        super().__init__(model, batch_size)
        require_int("N", N, 1, MOST_STEPS)
        self.times = torch.linspace(0, 1, N + 1, dtype=torch.float64)

    @property
    def N(self) -> int:
        """The number of steps."""
        return len(self.times) - 1


class FlowEuler(FlowSampler):
    """Euler's rule: order one, N network calls."""

    name = "flow_euler"

    @property
    def evaluations(self) -> int:
        return self.N

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.N):
            z = z + self.evaluate(z, self.times[i], contexts) / self.N
            yield z


class FlowHeun(FlowSampler):
    """Heun's rule: order two, 2N network calls."""

    name = "flow_heun"

    @property
    def evaluations(self) -> int:
        return 2 * self.N

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.N):
            here = self.evaluate(z, self.times[i], contexts)
            there = self.evaluate(z + here / self.N, self.times[i + 1], contexts)
            z = z + (here + there) / (2 * self.N)
            yield z


FLOW: dict[str, type[FlowSampler]] = {"euler": FlowEuler, "heun": FlowHeun}


def flow_sampler(model: FlowNetwork, method: str, N: int, **options: Any) -> FlowSampler:
    """A sampler by name.

    Args:
        model: from :func:`csb.run.amortized.load_baseline`.
        method: one of :data:`FLOW`: euler takes N network calls a sample, heun 2N.
        N: steps.
        **options: batch_size.

    Raises:
        CSBError: an unknown name, or a value out of range.
    """
    if not is_one_of(method, FLOW):
        raise CSBError(f"method {method!r} of a flow is unknown; choose one of {', '.join(FLOW)}")
    return FLOW[method](model, N, **options)
