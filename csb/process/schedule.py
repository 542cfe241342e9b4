r"""Variance-preserving noise schedules as frozen objects.

A schedule is the function ᾱ(τ), τ ∈ [0, 1], with ᾱ(0) = 1 decreasing to the *horizon* ᾱ(1) = ``alpha_bar_end``.
Every member of the family is set by its horizon, so the same shape can be given a longer or a shorter one
(``schedule.replace(alpha_bar_end=…)``). In continuous time ᾱ(τ) = exp(−∫₀^τ β(s) ds) for dx = −½ β x dτ + √β dW.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from csb.errors import CSBError, is_number
from csb.schema import Schema

Horizon = Annotated[float, Field(gt=0, lt=1)]
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

    def _angle(self, u: Tensor) -> Tensor:
        return (u + self.offset) / (1 + self.offset) * (math.pi / 2)

    def log_alpha_bar(self, tau: Tensor) -> Tensor:
        start = math.cos(self.offset / (1 + self.offset) * math.pi / 2)
        end_angle = math.acos(math.sqrt(self.alpha_bar_end) * start)
        cut = end_angle * (2 / math.pi) * (1 + self.offset) - self.offset
        return 2 * (torch.log(torch.cos(self._angle(cut * tau))) - math.log(start))


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


SHORT = 0.1  # the largest ᾱ_T, hence the shortest way, that is chosen by itself


def automatic_horizon(coordinates: int) -> float:
    """ᾱ_T for states of d coordinates: min(.1, .2/d).

    Given y, the reference process ends at mean √ᾱ_T E[z | y], and the first iteration's paths start from N(0, I): a
    divergence of about ½ ᾱ_T |E[z | y]|² nats, which is ½ ᾱ_T d at most on average for standardised data. It is kept
    below .1 nats. Later iterations remove it. A shorter way, with ᾱ_T = .3, leaves a step less to do but the
    iterations more; in the end the samples are no better.
    """
    return min(SHORT, 2 * SHORT / coordinates)


SCHEDULES: dict[str, type[Schedule]] = {"linear": LinearBeta, "cosine": Cosine, "power": Power}
