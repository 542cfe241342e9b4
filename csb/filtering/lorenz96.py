r"""The system of Lorenz (1996): d coordinates on a circle, dx_i/dt = (x_{i+1} − x_{i−2}) x_{i−1} − x_i + F.

Without forcing and damping the energy Σ x_i² is conserved, for (x_{i+1} − x_{i−2}) x_{i−1} x_i sums to 0. With F = 8
it is chaotic. Every coordinate is seen, as it is or, as in the papers on the ensemble score filter (Bao, Zhang &
Zhang 2024, CMAME 432, 117447), through the arc tangent. x_0 is drawn from N(0, 9 I), and 4 units of time pass before
the first forecast, so that it stands on the attractor.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.filtering.model import Flow
from csb.schema import MOST_COORDINATES, OneOf

_SPIN = 4.0  # units of time


def derivative(x: Tensor, forcing: float = 8.0, damping: float = 1.0) -> Tensor:
    """dx/dt, (n, d) → (n, d)."""
    return (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - damping * x + forcing


class Lorenz96(Flow):
    """See the module's docstring."""

    name: ClassVar[str] = "lorenz96"

    dx: int = Field(default=40, ge=4, le=MOST_COORDINATES, description="d")
    forcing: float = 8.0
    """F."""
    observed: Annotated[str, OneOf(("linear", "arctan"))] = "linear"
    """h, of every coordinate."""

    @property
    def dy(self) -> int:
        """As many as dx."""
        return self.dx

    def f(self, x: Tensor) -> Tensor:
        return derivative(x, self.forcing)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        x = 3 * torch.randn((n, self.dx), dtype=torch.float64, generator=generator)
        return self.run(x, round(_SPIN / self.dt))

    def observe(self, x: Tensor) -> Tensor:
        return x if self.observed == "linear" else x.atan()

    def distance(self) -> Tensor:
        """Steps along the circle, (d, d)."""
        apart = (torch.arange(self.dx)[:, None] - torch.arange(self.dx)).abs()
        return torch.minimum(apart, self.dx - apart).double()
