r"""Denoisers: E[z_0 | z_k] of the *unconditional* law, from which the diffusion samplers build everything.

z = (x − shift)/scale, with one scale for all coordinates, so that an operator's A A* stays what it is; z_k = √ᾱ_k z_0 +
√(1−ᾱ_k) ε. A denoiser takes ᾱ itself and not a step's number: one denoiser serves every grid and horizon.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csb.dtypes import Float32Module
from csb.errors import CSBError
from csb.networks import build_network
from csb.problems.exact.mixture import Mixture
from csb.process import expand, initialised


class Denoiser(Float32Module, ABC):
    """E[z_0 | z_k].

    Args:
        shift: (*x_shape), of the map z = (x − shift)/scale.
        scale: > 0.
        alpha_bar_end: the least ᾱ that it was trained at; 0 for one that knows them all.

    Attributes:
        about: of one that was loaded, the plain data that its file holds beside it.
    """

    shift: Tensor
    about: dict[str, Any]

    def __init__(self, shift: Tensor, scale: float, alpha_bar_end: float = 0.0) -> None:
        super().__init__()
        if not scale > 0 or not math.isfinite(scale):
            raise CSBError(f"scale={scale!r} of a denoiser is not positive; give the standard deviation of the data")
        self.register_buffer("shift", shift.detach().clone().float())
        self.scale, self.alpha_bar_end = float(scale), float(alpha_bar_end)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one x, and of one z."""
        return tuple(self.shift.shape)

    def encode(self, x: Tensor) -> Tensor:
        """x (B, *x_shape) → z."""
        return (x - self.shift) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """z (B, *x_shape) → x."""
        return self.shift + self.scale * z

    @abstractmethod
    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        """E[z_0 | z_k = z], (B, *x_shape), differentiable in z; ᾱ_k of shape () or (B,), in (0, 1)."""


class MixtureDenoiser(Denoiser):
    """The exact denoiser of a Gaussian mixture (:meth:`csb.problems.exact.mixture.Mixture.denoise`) at scale 1.

    It computes in float64 on the CPU.
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__(torch.zeros(mixture.means.shape[1], dtype=torch.float32), 1.0)
        self.mixture = mixture

    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        if alpha_bar.ndim:
            raise CSBError(f"alpha_bar has shape {tuple(alpha_bar.shape)}; the exact denoiser takes one noise level")
        return self.mixture.denoise(z, float(alpha_bar))


@dataclass(frozen=True)
class DenoiserSpec:
    """All that makes a trained denoiser but its weights.

    Attributes:
        network: {"name": one of csb.networks.NETWORKS, **options}.
        x_shape: of one x.
        scale: see :class:`Denoiser`; its shift is a buffer and comes with the weights.
        alpha_bar_end: the horizon of the schedule it is trained on; 0 where it is not known.
    """

    network: dict[str, Any]
    x_shape: tuple[int, ...]
    scale: float
    alpha_bar_end: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self) | {"x_shape": list(self.x_shape)}


class NetworkDenoiser(Denoiser):
    """A trained denoiser: z_0 = √ᾱ z − √(1−ᾱ)·output (v-prediction, Salimans & Ho 2022).

    The network is of the same kind as a drift network, with a constant in place of the observation. Its time is the
    angle arccos(√ᾱ)·2/π in [0, 1].
    """

    def __init__(self, spec: DenoiserSpec) -> None:
        super().__init__(torch.zeros(spec.x_shape, dtype=torch.float32), spec.scale, spec.alpha_bar_end)
        self.spec = spec
        self.network = build_network(spec.network, spec.x_shape, (1,), 1)

    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        v = self.velocity(z, alpha_bar)
        return expand(alpha_bar.sqrt(), z) * z - expand((1 - alpha_bar).sqrt(), z) * v

    def velocity(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        """The network's output v ≈ E[√ᾱ ε − √(1−ᾱ) z_0 | z_k], (B, *x_shape)."""
        time = (alpha_bar.sqrt().acos() * (2 / math.pi)).to(z).reshape(-1)
        context = self.network.encode(torch.zeros((1, 1), dtype=z.dtype, device=z.device)).expand(len(z), -1)
        return self.network(z, time, context).to(z.dtype)[:, 0]


def build_denoiser(spec: DenoiserSpec, seed: int = 0) -> NetworkDenoiser:
    """A denoiser with initial weights that are a function of the seed."""
    with initialised(seed):
        return NetworkDenoiser(spec)
