"""Samplers of a flow: dz/dt = v(z, t, y) from N(0, I) at t = 0 to p(z_0 | y) at t = 1, in N even steps.

See :mod:`csb.networks.diffusion` for the velocity. It is finite at both ends, and the start is N(0, I) exactly.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from csb.errors import CSBError, is_one_of, require_int
from csb.networks.diffusion import ConditionalModel, FlowNetwork
from csb.process import Noise
from csb.process.grid import MOST_STEPS
from csb.samplers.amortized import AmortizedSampler


class FlowSampler(AmortizedSampler):
    """A sampler of a conditional velocity, in N steps."""

    takes = ConditionalModel
    kind = "flow"
    calls: ClassVar[int]  # a step

    def __init__(self, model: ConditionalModel, N: int, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.N = require_int("N", N, 1, MOST_STEPS)
        self.times = torch.linspace(0, 1, N + 1, dtype=torch.float64)

    @property
    def evaluations(self) -> int:
        return self.calls * self.N

    def velocity(self, z: Tensor, i: int, contexts: Tensor) -> Tensor:
        """v at the i-th of the N + 1 times."""
        level = self.times[i].to(self.device)
        return self.call(lambda z, c: self.model(z, level, c), contexts, z)


class FlowEuler(FlowSampler):
    """Euler's rule: order one, N network calls."""

    name = "flow_euler"
    calls = 1

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.N):
            z = z + self.velocity(z, i, contexts) / self.N
            yield z


class FlowHeun(FlowSampler):
    """Heun's rule: order two, 2N network calls."""

    name = "flow_heun"
    calls = 2

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.N):
            here = self.velocity(z, i, contexts)
            there = self.velocity(z + here / self.N, i + 1, contexts)
            z = z + (here + there) / (2 * self.N)
            yield z


FLOW: dict[str, type[FlowSampler]] = {"euler": FlowEuler, "heun": FlowHeun}


def flow_sampler(model: FlowNetwork, method: str, N: int, **settings: Any) -> FlowSampler:
    """A sampler by name, one of :data:`FLOW`, of a model from :func:`csb.runs.amortized.load_baseline` in N steps.

    euler takes N network calls a sample, heun 2N. CSBError for an unknown name.
    """
    if not is_one_of(method, FLOW):
        raise CSBError(f"method {method!r} of a flow is unknown; choose one of {', '.join(FLOW)}")
    return FLOW[method](model, N, **settings)
