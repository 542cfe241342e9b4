r"""Variance-preserving noise schedules, and the grid of T steps on which every bridge and sampler works.

A schedule is the function ᾱ(τ), τ ∈ [0, 1], with ᾱ(0) = 1 decreasing to the *horizon* ᾱ(1) = ``alpha_bar_end``.
Every member of the family is set by its horizon, so the same shape can be given a longer or a shorter one
(``schedule.replace(alpha_bar_end=…)``). In continuous time ᾱ(τ) = exp(−∫₀^τ β(s) ds) for dx = −½ β x dτ + √β dW.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from csb.errors import CSBError, is_number, require_int
from csb.schema import Schema, arguments_of

MOST_STEPS = 10_000
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Root = Annotated[float, Field(ge=1, le=100)]
Horizon = Annotated[float, Field(gt=0, lt=1)]
SHORT = 0.1  # the largest ᾱ_T, hence the shortest way, that is chosen by itself
LEAST_SCALE = 1e-6  # of which the square is still seen beside 1


class Schedule(Schema, ABC):
    """ᾱ(τ) on [0, 1]."""

    group = "schedule"

    alpha_bar_end: Horizon
    """The horizon ᾱ(1). Small (≤ 1e-4): the end is N(0, I) whatever the data. Large (.1–.3): a short horizon, which
    needs the bridge's iterations."""

    @abstractmethod
    def log_alpha_bar(self, tau: Tensor) -> Tensor:
        """log ᾱ(τ) for τ in [0, 1], any shape, float64."""

    def alpha_bar(self, tau: Tensor) -> Tensor:
        """ᾱ(τ) for τ in [0, 1], any shape, float64."""
        return self.log_alpha_bar(tau).exp()


class LinearBeta(Schedule):
    """β(τ) = β_min + (β_max − β_min) τ (Ho et al. 2020; Song et al. 2021, VP-SDE), β_max set by the horizon.

    The DDPM values β_min = .1, β_max = 20 have ᾱ(1) = 4.3e-5.
    """

    beta_min: Annotated[float, Field(ge=0)] = 0.1
    """β(0); at most −log(alpha_bar_end), so that β does not decrease."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        limit = -math.log(self.alpha_bar_end)
        if self.beta_min > limit:
            raise CSBError(
                f"beta_min={self.beta_min!r} is outside [0, {limit:.3g}], the range that alpha_bar_end="
                f"{self.alpha_bar_end!r} allows; lower beta_min or alpha_bar_end"
            )
        return self

    @property
    def beta_max(self) -> float:
        """β(1), from log ᾱ(1) = −(β_min + β_max)/2."""
        return -2 * math.log(self.alpha_bar_end) - self.beta_min

    def log_alpha_bar(self, tau: Tensor) -> Tensor:
        return -(self.beta_min * tau + 0.5 * (self.beta_max - self.beta_min) * tau**2)


class Cosine(Schedule):
    """ᾱ(τ) = cos²((cτ + s)/(1 + s)·π/2)/cos²(s/(1 + s)·π/2) (Nichol & Dhariwal 2021, eq. 17).

    c ≤ 1 cuts the curve where it reaches the horizon, so that no step has β = 1.
    """

    offset: float = Field(default=0.008, gt=0, lt=1, description="s")

    def log_alpha_bar(self, tau: Tensor) -> Tensor:
        start = math.cos(self.offset / (1 + self.offset) * math.pi / 2)
        end_angle = math.acos(math.sqrt(self.alpha_bar_end) * start)
        cut = end_angle * (2 / math.pi) * (1 + self.offset) - self.offset
        angle = (cut * tau + self.offset) / (1 + self.offset) * (math.pi / 2)
        return 2 * (torch.log(torch.cos(angle)) - math.log(start))


class Power(Schedule):
    """ᾱ(τ) = ᾱ_end^(τ^p): small first steps for p > 1, which few-step samplers need near the data."""

    power: float = Field(default=4.0, gt=0, lt=20, description="p")

    @classmethod
    def resolving(cls, alpha_bar_end: float, T: int, scale: float) -> "Power":
        """The power with which the first of T steps has the noise √(1−ᾱ_1) = scale, within 1 ≤ p ≤ 19.

        From −log ᾱ_1 = −log(ᾱ_end)·T^(−p); at T = 1 the power plays no part. ``scale`` is in (LEAST_SCALE, 1), in units
        of the state: about half the finest structure of the data.
        """
        if not is_number(scale) or not LEAST_SCALE < scale < 1:
            raise CSBError(f"scale={scale!r} is outside ({LEAST_SCALE:g}, 1); choose a value strictly between them")
        schedule = cls(alpha_bar_end=alpha_bar_end)
        if T == 1:
            return schedule
        power = math.log(math.log(alpha_bar_end) / math.log1p(-(scale**2))) / math.log(T)
        return schedule.replace(power=min(max(power, 1.0), 19.0))

    def log_alpha_bar(self, tau: Tensor) -> Tensor:
        return math.log(self.alpha_bar_end) * tau**self.power


SCHEDULES: dict[str, type[Schedule]] = {"linear": LinearBeta, "cosine": Cosine, "power": Power}


def automatic_horizon(coordinates: int) -> float:
    """ᾱ_T for states of d coordinates: min(.1, .2/d).

    Given y, the reference process ends at mean √ᾱ_T E[z | y], and the first iteration's paths start from N(0, I): a
    divergence of about ½ ᾱ_T |E[z | y]|² nats, for standardised data ½ ᾱ_T d at most on average. It is kept below .1
    nats; later iterations remove it. A shorter way, with ᾱ_T = .3, gives no better samples in the end.
    """
    return min(SHORT, 2 * SHORT / coordinates)


@dataclass(frozen=True, eq=False)
class Grid:
    """``alpha_bar`` (T + 1,), float64: ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T > 0. Data stand at k = 0, N(0, I) at k = T."""

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        a = self.alpha_bar
        if a.is_meta:  # of a model that is built for its shapes
            return
        if a[0] != 1 or not bool((a[1:] < a[:-1]).all()) or not bool(a[-1] > 0):
            raise CSBError(
                f"alpha_bar of T={self.T} steps must fall strictly from 1 and stay above 0, not end at "
                f"{float(a[-1]):.3g}; use fewer steps, or another schedule or alpha_bar_end"
            )

    @classmethod
    def from_schedule(cls, schedule: Schedule, T: int) -> "Grid":
        """Take ᾱ at τ_k = k/T. CSBError where T is not an integer in 1..MOST_STEPS, or two steps have the same ᾱ."""
        require_int("T", T, 1, MOST_STEPS)
        return cls(schedule.alpha_bar(torch.linspace(0, 1, T + 1, dtype=torch.float64)))

    @classmethod
    def karras(
        cls, T: Steps, alpha_bar_end: Horizon, sigma_min: Annotated[float, Field(ge=1e-6)] = 0.002, rho: Root = 7.0
    ) -> "Grid":
        """Steps whose σ = √((1−ᾱ)/ᾱ) has evenly spaced ρ-th roots, from σ_1 = sigma_min (Karras et al. 2022, eq. 5).

        CSBError for an argument out of its range, or a sigma_min that is not below the horizon's σ.
        """
        given = {"T": T, "alpha_bar_end": alpha_bar_end, "sigma_min": sigma_min, "rho": rho}
        arguments_of(Grid.karras).read(given, "")
        sigma_max = ((1 - alpha_bar_end) / alpha_bar_end) ** 0.5
        if not sigma_min < sigma_max:
            raise CSBError(f"sigma_min={sigma_min!r} is not below {sigma_max:.3g}, the horizon's σ; give a smaller one")
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        share = torch.linspace(0, 1, T, dtype=torch.float64) if T > 1 else torch.ones(1, dtype=torch.float64)
        sigma = (low + share * (high - low)) ** rho
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), 1 / (1 + sigma**2)]))

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.alpha_bar) - 1

    @property
    def beta(self) -> Tensor:
        """(T + 1,), β_k = 1 − ᾱ_k/ᾱ_{k−1} at index k; index 0 belongs to no step and holds 0."""
        beta = torch.zeros_like(self.alpha_bar)
        beta[1:] = 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]
        return beta

    @property
    def clock(self) -> Tensor:
        """s_k = −log ᾱ_k, (T + 1,), from 0."""
        return -self.alpha_bar.log()

    @property
    def noise_ratio(self) -> Tensor:
        """σ_k = √((1−ᾱ_k)/ᾱ_k), (T + 1,), from 0; −log σ_k is half the log signal-to-noise ratio λ_k."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def keep(self, *steps: int) -> "Grid":
        """The grid of these steps alone, ascending from 0. Pinned laws on it skip over the steps between."""
        return Grid(self.alpha_bar[list(steps)])

    def mirror(self) -> "Grid":
        """The same steps in the opposite order: ᾱ'_j = ᾱ_T/ᾱ_{T−j}.

        The reference process is reversible with respect to N(0, I), so that the forward kernel of step k is the
        backward kernel of step T − k + 1 on the mirrored grid. Each formula is then written once.
        """
        return Grid(self.alpha_bar[-1] / self.alpha_bar.flip(0))
