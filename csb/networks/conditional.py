r"""Amortized models of p(x | y) that need no bridge: a conditional denoiser (or score), and a flow's velocity.

Both live in the bridge's own state space, z from ``transform.encode_x`` and c from ``transform.encode_y``, and are made
of a network of the bridge's kind: c is encoded once and its context is reused at every step.

- score: with z_k = √ᾱ z_0 + √(1−ᾱ) ε, the network fits v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho 2022), so that
  E[z_0 | z_k, y] = √ᾱ z_k − √(1−ᾱ) v, and ∇log p_k(z_k | y) = (√ᾱ E[z_0 | z_k, y] − z_k)/(1−ᾱ) (Tweedie).
- flow: with z_t = (1−t) ε + t z_0, the network fits E[z_0 − ε | z_t, y], the velocity that carries N(0, I) at t = 0 to
  p(z_0 | y) at t = 1 (Lipman et al. 2023, eq. 23 with σ_min = 0; Liu et al. 2023).
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor

from csb.dtypes import Float32Module
from csb.errors import CSBError, is_one_of
from csb.networks import Affine, Network, build_network
from csb.problems.specs import build
from csb.problems.transform import Transform, build_transform
from csb.process import SCHEDULES, Schedule, expand, initialised

LEAST_STEPS = 100  # of an affine network, whose maps stand for continuous levels here


class ConditionalModel(Float32Module, ABC):
    """A function of (state z, noise level, context of the observation) that amortized samplers integrate.

    Args:
        transform: the map between data (x, y) and (z, c).
        precision: "32-true" or "bf16-mixed", of the network calls while sampling.

    Attributes:
        about: of one that was loaded, the plain data that its file holds beside it.
    """

    kind: ClassVar[str]
    about: dict[str, Any]

    def __init__(self, transform: Transform, precision: str = "32-true") -> None:
        super().__init__()
        self.transform, self.precision = transform, precision

    @property
    def device(self) -> torch.device:
        """Of the first weight or buffer; the CPU where there is none."""
        first = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    @abstractmethod
    def encode(self, c: Tensor) -> Tensor:
        """The context (B, …) of encoded observations c (B, *c_shape)."""

    @abstractmethod
    def forward(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """What the samplers need at z (B, *z_shape), of its shape; the level has shape () or (B,)."""


class ConditionalDenoiser(ConditionalModel):
    """forward(z, ᾱ_k, context) = E[z_0 | z_k = z, y], ᾱ_k in (0, 1)."""

    kind = "score"


class ConditionalVelocity(ConditionalModel):
    """forward(z, t, context) = E[z_0 − ε | z_t = z, y], t in [0, 1]."""

    kind = "flow"


@dataclass(frozen=True)
class ConditionalSpec:
    """All that makes a trained model but its weights.

    Attributes:
        kind: one of :data:`CONDITIONAL`.
        network: {"name": one of csb.networks.NETWORKS, **options}.
        transform: {"name": one of csb.problems.TRANSFORMS, **arguments}; its fitted tensors come with the weights.
        schedule: {"name": one of csb.process.SCHEDULES, **arguments} that a score was trained on; None for a flow.
        precision: see :class:`ConditionalModel`.
    """

    kind: str
    network: dict[str, Any]
    transform: dict[str, Any]
    schedule: dict[str, Any] | None = None
    precision: str = "32-true"

    def plain(self) -> dict[str, Any]:
        """As dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)


def _network(spec: ConditionalSpec, transform: Transform) -> Network:
    """The network of one head. CSBError for one that knows a few levels only."""
    network = build_network(spec.network, transform.z_shape, transform.c_shape, 1)
    if isinstance(network, Affine) and network.steps < LEAST_STEPS:
        raise CSBError(
            f"network=affine has maps for {network.steps} steps and stage={spec.kind} needs every noise level; choose "
            f"network=mlp, or network.options.steps={LEAST_STEPS} at least"
        )
    return network


class ScoreNetwork(ConditionalDenoiser):
    """A trained conditional denoiser; its network's time is the angle arccos(√ᾱ)·2/π in [0, 1].

    Attributes:
        schedule: on which it was trained; a grid for sampling should share its horizon.
    """

    def __init__(self, spec: ConditionalSpec) -> None:
        super().__init__(build_transform(spec.transform), spec.precision)
        if spec.schedule is None:
            raise CSBError("a score needs the schedule that it was trained on; give {name: …, alpha_bar_end: …}")
        self.spec = spec
        self.schedule: Schedule = build("schedule", SCHEDULES, spec.schedule)
        self.network = _network(spec, self.transform)

    def encode(self, c: Tensor) -> Tensor:
        return self.network.encode(c)

    def forward(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        v = self.velocity(z, level, context)
        return expand(level.sqrt(), z) * z - expand((1 - level).sqrt(), z) * v

    def velocity(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """The network's output v ≈ E[√ᾱ ε − √(1−ᾱ) z_0 | z_k, y], (B, *z_shape)."""
        time = (level.sqrt().acos() * (2 / math.pi)).to(z).reshape(-1)
        return self.network(z, time, context).to(z.dtype)[:, 0]


class FlowNetwork(ConditionalVelocity):
    """A trained velocity; its network's time is t."""

    def __init__(self, spec: ConditionalSpec) -> None:
        super().__init__(build_transform(spec.transform), spec.precision)
        self.spec, self.network = spec, _network(spec, self.transform)

    def encode(self, c: Tensor) -> Tensor:
        return self.network.encode(c)

    def forward(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        return self.velocity(z, level, context)

    def velocity(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """The network's output, which is the velocity itself, (B, *z_shape)."""
        return self.network(z, level.to(z).reshape(-1), context).to(z.dtype)[:, 0]


CONDITIONAL: dict[str, type[ScoreNetwork] | type[FlowNetwork]] = {"score": ScoreNetwork, "flow": FlowNetwork}


def build_conditional(spec: ConditionalSpec, seed: int = 0) -> ScoreNetwork | FlowNetwork:
    """A model with initial weights that are a function of the seed. CSBError for unknown names or options."""
    if not is_one_of(spec.kind, CONDITIONAL):
        raise CSBError(f"model {spec.kind!r} is unknown; choose one of {', '.join(CONDITIONAL)}")
    with initialised(seed):
        return CONDITIONAL[spec.kind](spec)
