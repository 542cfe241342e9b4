"""The grid of T steps on which every bridge, sampler and exact answer works."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csb.errors import CSBError, require_int
from csb.process.schedule import Horizon, Schedule
from csb.schema import arguments_of

MOST_STEPS = 10_000
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Root = Annotated[float, Field(ge=1, le=100)]


@dataclass(frozen=True, eq=False)
class Grid:
    """ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T > 0. Data stand at k = 0, N(0, I) at k = T.

    Attributes:
        alpha_bar: (T + 1,), float64, ᾱ_k.
    """

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
