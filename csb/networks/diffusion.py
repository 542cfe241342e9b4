r"""Networks of a noise level: the denoiser of the prior; conditional score, flow and one-call models; a classifier.

All but the last are one drift network, asked for a *velocity* at a state z_k and a level, with or without the context
of an observation:

- diffusion: with z_k = √ᾱ_k z_0 + √(1−ᾱ_k) ε, the network fits v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans & Ho 2022), so that
  E[z_0 | z_k] = √ᾱ z_k − √(1−ᾱ) v, and ∇log p_k(z_k) = (√ᾱ E[z_0 | z_k] − z_k)/(1−ᾱ) (Tweedie). Its time is the angle
  arccos(√ᾱ)·2/π in [0, 1]. The level is ᾱ itself and not a step's number: one network serves every grid and horizon.
- flow: with z_t = (1−t) ε + t z_0, the network fits E[z_0 − ε | z_t, y], the velocity that carries N(0, I) at t = 0 to
  p(z_0 | y) at t = 1 (Lipman et al. 2023, eq. 23 with σ_min = 0; Liu et al. 2023). Its time is t.
- mean flow: along the flow's path, the network fits the *mean velocity* u(z_t, t, s, y) = 1/(s−t) ∫_t^s v dτ over
  [t, s], which carries z_t to z_s in one call, z_s = z_t + (s−t) u; u(z, t, t) = v (Geng et al. 2025; there time runs
  from data to noise). Its times are t and s − t.
- consistency: the end of that path, f(z_t, t, y) = z_1 (Song et al. 2023), is z_t + (1−t) u(z_t, t, 1), with the
  boundary condition f(z, 1) = z. One network serves both.

A :class:`Denoiser` knows the *unconditional* law. Its states are z = (x − shift)/scale, with one scale for all
coordinates, so that an operator's A A* stays what it is. A :class:`ConditionalModel` lives in the bridge's own state
space, z from ``transform.encode_x`` and c from ``transform.encode_y``.
"""

import math
from abc import ABC, abstractmethod
from itertools import chain, pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from csb.dtypes import Float32Module, Precision
from csb.errors import CSBError
from csb.networks import Affine, Network, build_network
from csb.problems.mixture import Mixture
from csb.problems.transform import Transform, build_transform
from csb.process import SCHEDULES, Schedule, expand, initialised
from csb.schema import Described, OneOf, Positive, Schema, Shape, build

LEAST_STEPS = 100  # of an affine network, whose maps stand for continuous levels here


def _angle(alpha_bar: Tensor) -> Tensor:
    return alpha_bar.sqrt().acos() * (2 / math.pi)


def _velocity(network: Network, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
    return network(z, time.to(z).reshape(-1, *time.shape[1:]), context).to(z.dtype)[:, 0]


def _denoised(z: Tensor, alpha_bar: Tensor, velocity: Tensor) -> Tensor:
    return expand(alpha_bar.sqrt(), z) * z - expand((1 - alpha_bar).sqrt(), z) * velocity


class Denoiser(Float32Module, ABC):
    """E[z_0 | z_k].

    Args:
        shift, scale: (*x_shape) and > 0, of the map z = (x − shift)/scale.
        alpha_bar_end: the least ᾱ that it was trained at; 0 for one that knows them all.
    """

    shift: Tensor
    about: dict[str, Any]  # of one that was loaded, the plain data that its file holds beside it

    def __init__(self, shift: Tensor, scale: float, alpha_bar_end: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("shift", shift.detach().clone().float())
        self.scale, self.alpha_bar_end = float(scale), float(alpha_bar_end)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return tuple(self.shift.shape)

    def encode(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        return self.shift + self.scale * z

    @abstractmethod
    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        """E[z_0 | z_k = z], (B, *x_shape), differentiable in z; ᾱ_k of shape () or (B,), in (0, 1)."""


class MixtureDenoiser(Denoiser):
    """The exact denoiser of a Gaussian mixture at scale 1, in float64 on the CPU, at one noise level."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__(torch.zeros(mixture.means.shape[1], dtype=torch.float32), 1.0)
        self.mixture = mixture

    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        return self.mixture.denoise(z, float(alpha_bar))


class StationaryDenoiser(Denoiser):
    """The exact denoiser of a stationary Gaussian field on a torus, at scale 1: Wiener's filter.

    It multiplies each Fourier coefficient by √ᾱ S/(ᾱ S + 1 − ᾱ), in float64.

    Args:
        spectrum: S, (H, W), the variances of the coefficients in the order of torch.fft, with mean 1.
        x_shape: (C, H, W).
    """

    spectrum: Tensor

    def __init__(self, spectrum: Tensor, x_shape: tuple[int, ...]) -> None:
        super().__init__(torch.zeros(x_shape, dtype=torch.float32), 1.0)
        self.register_buffer("spectrum", spectrum.double(), persistent=False)

    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        a = expand(alpha_bar.double(), z) if alpha_bar.ndim else alpha_bar.double()
        gain = a.sqrt() * self.spectrum / (a * self.spectrum + 1 - a)
        return torch.fft.ifft2(gain * torch.fft.fft2(z.double())).real.to(z.dtype)


class DenoiserSpec(Schema):
    """All that makes a trained denoiser but its weights and its shift; see :class:`Denoiser`."""

    network: dict[str, Any]
    """{"name": one of csb.networks.NETWORKS, **options}"""
    x_shape: Shape
    scale: Positive
    alpha_bar_end: Annotated[float, Field(ge=0, lt=1)] = 0.0


class NetworkDenoiser(Denoiser):
    """A trained denoiser: a drift network with a constant in place of the observation."""

    def __init__(self, spec: DenoiserSpec) -> None:
        super().__init__(torch.zeros(spec.x_shape, dtype=torch.float32), spec.scale, spec.alpha_bar_end)
        self.spec = spec
        self.network = build_network(spec.network, spec.x_shape, (1,), 1)

    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        return _denoised(z, alpha_bar, self.velocity(z, alpha_bar))

    def velocity(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        """The network's output v ≈ E[√ᾱ ε − √(1−ᾱ) z_0 | z_k], (B, *x_shape)."""
        context = self.network.encode(torch.zeros((1, 1), dtype=z.dtype, device=z.device)).expand(len(z), -1)
        return _velocity(self.network, z, _angle(alpha_bar), context)


def build_denoiser(spec: DenoiserSpec, seed: int = 0) -> NetworkDenoiser:
    """Make a denoiser, its initial weights a function of the seed."""
    with initialised(seed):
        return NetworkDenoiser(spec)


class ConditionalModel(Float32Module, ABC):
    """A function of (state z, noise level, context of the observation) that amortized samplers call.

    forward(z, level, context) is of the shape of z (B, *z_shape), at a level of shape () or (B,): by ``kind``
    E[z_0 | z_k = z, y] at ᾱ_k in (0, 1) for a "score", E[z_0 − ε | z_t = z, y] at t in [0, 1] for a "flow", the mean
    velocity at levels (1, 2) or (B, 2), t ≤ s in [0, 1], for a "meanflow", the end of the path at t for a
    "consistency"; for a "student" see :mod:`csb.bridge.student`.

    Args:
        transform: the map between data (x, y) and (z, c).
        precision: of the network calls while sampling.
    """

    kind: ClassVar[str]
    about: dict[str, Any]  # see :class:`Denoiser`
    missing: bool = False  # whether values of y may be NaN, which are missing

    def __init__(self, transform: Transform, precision: str = "32-true") -> None:
        super().__init__()
        self.transform, self.precision = transform, precision

    @property
    def device(self) -> torch.device:
        first = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    @abstractmethod
    def encode(self, c: Tensor) -> Tensor:
        """The context (B, …) of encoded observations c (B, *c_shape)."""


class ConditionalSpec(Schema):
    """All that makes a trained conditional model but its weights and the fitted tensors of its transform.

    The tables are {"name": one of csb.networks.NETWORKS, csb.problems.TRANSFORMS, csb.process.SCHEDULES, **options}.
    """

    kind: Annotated[str, OneOf(("score", "flow", "meanflow", "consistency"))]
    network: dict[str, Any]
    transform: Described
    schedule: dict[str, Any] | None = None
    """That a score was trained on; None for the others."""
    precision: Precision = "32-true"


class NetworkModel(ConditionalModel):
    """A trained conditional model, in a file of the name ``file``, whose network takes ``times`` times."""

    file: ClassVar[str]
    times: ClassVar[int] = 1

    def __init__(self, spec: ConditionalSpec) -> None:
        super().__init__(build_transform(spec.transform), spec.precision)
        self.spec = spec
        self.network = build_network(spec.network, self.transform.z_shape, self.transform.c_shape, 1, self.times)
        self.missing = self.network.missing
        if isinstance(self.network, Affine) and self.network.steps < LEAST_STEPS:
            raise CSBError(
                f"network=affine has maps for {self.network.steps} steps and stage={spec.kind} needs every noise "
                f"level; choose network=mlp, or network.options.steps={LEAST_STEPS} at least"
            )

    def encode(self, c: Tensor) -> Tensor:
        return self.network.context(c)

    def velocity(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """The network's output, (B, *z_shape), which the training fits."""
        return _velocity(self.network, z, level, context)


class ScoreNetwork(NetworkModel):
    """A trained conditional denoiser; a grid for sampling should share the horizon of its ``schedule``."""

    kind = file = "score"

    def __init__(self, spec: ConditionalSpec) -> None:
        super().__init__(spec)
        self.schedule: Schedule = build("schedule", SCHEDULES, spec.schedule or {})

    def velocity(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        return super().velocity(z, _angle(level), context)

    def forward(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        return _denoised(z, level, self.velocity(z, level, context))


class FlowNetwork(NetworkModel):
    """A trained velocity."""

    kind = file = "flow"
    forward = NetworkModel.velocity


class MeanFlowNetwork(NetworkModel):
    """A trained mean velocity."""

    kind = file = "meanflow"
    times = 2

    def velocity(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        t, s = level.unbind(-1)
        return super().velocity(z, torch.stack([t, s - t], dim=-1), context)

    forward = velocity


class ConsistencyNetwork(MeanFlowNetwork):
    """A trained consistency function; its file stands beside that of a distilled sampler."""

    kind, file = "consistency", "consistency_training"

    def forward(self, z: Tensor, level: Tensor, context: Tensor) -> Tensor:
        t = level.reshape(-1)
        return z + expand(1 - t, z) * self.velocity(z, torch.stack([t, torch.ones_like(t)], dim=-1), context)


CONDITIONAL: dict[str, type[NetworkModel]] = {
    model.kind: model for model in (ScoreNetwork, FlowNetwork, MeanFlowNetwork, ConsistencyNetwork)
}


def build_conditional(spec: ConditionalSpec, seed: int = 0) -> NetworkModel:
    """Make a model, its initial weights a function of the seed."""
    with initialised(seed):
        return CONDITIONAL[spec.kind](spec)


class DigitGuide(Float32Module):
    """A classifier of denoised digits that knows how noisy they were: p(digit | x̂_0, ᾱ).

    Three 3×3 convolutions, each moved by an embedding of ᾱ and pooled, then two linear layers; smooth, for its gradient
    is what it is for. Its logits are divided by ``temperature`` (Guo et al. 2017).
    """

    widths = 32, 64, 64
    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise((1, *self.widths)))
        self.level = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, sum(self.widths)))
        self.hidden = nn.Linear(self.widths[-1] * 3 * 3, 128)
        self.exit = nn.Linear(128, 10)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float32))

    def forward(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """log p(digit | x̂_0, ᾱ), (B, 10): x̂_0 (B, 1, 28, 28), pixels on the scale [0, 1]; ᾱ (B,) in (0, 1]."""
        angle = alpha_bar.to(x).sqrt().clamp(0, 1).acos() * (2 / math.pi)
        features = torch.stack([angle, (math.pi * angle).cos(), (2 * math.pi * angle).cos()], dim=1)
        moves = self.level(features)[..., None, None].split(self.widths, dim=1)
        h = 2 * x - 1
        for conv, move in zip(self.convs, moves):
            h = nnf.avg_pool2d(nnf.silu(conv(h) + move), 2)
        logits = self.exit(nnf.silu(self.hidden(h.flatten(1))))
        return (logits.float() / self.temperature).log_softmax(1)
