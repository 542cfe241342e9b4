r"""The system of Lorenz (1996): d coordinates on a circle, dx_i/dt = (x_{i+1} − x_{i−2}) x_{i−1} − x_i + F.

Without forcing and damping the energy Σ x_i² is conserved, for (x_{i+1} − x_{i−2}) x_{i−1} x_i sums to 0. With F = 8
it is chaotic. Every coordinate is seen, as it is or, as in the papers on the ensemble score filter (Bao, Zhang &
Zhang 2024, CMAME 432, 117447), through the arc tangent. x_0 is drawn from N(0, 9 I), and 4 units of time pass before
the first forecast, so that it stands on the attractor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from csb.errors import CSBError, is_one_of, require_int
from csb.filtering.model import StateSpace, require_positive, rk4

OBSERVED = ("linear", "arctan")
_SPIN = 4.0  # units of time


def derivative(x: Tensor, forcing: float = 8.0, damping: float = 1.0) -> Tensor:
    """dx/dt, (n, d) → (n, d)."""
    return (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - damping * x + forcing


@dataclass(frozen=True)
class Lorenz96(StateSpace):
    """See the module's docstring.

    Args:
        dx: d ≥ 4.
        forcing: F.
        dt: of a Runge–Kutta step, > 0.
        substeps: of them between two observations, ≥ 1.
        model_std: of the noise after them, > 0.
        noise_std: of the observations, > 0.
        observed: h, "linear" or "arctan", of every coordinate.
    """

    dx: int = 40
    forcing: float = 8.0
    dt: float = 0.05
    substeps: int = 1
    model_std: float = 0.01
    noise_std: float = 1.0
    observed: str = "linear"

    name = "lorenz96"

    def __post_init__(self) -> None:
        require_int("dx", self.dx, 4)
        require_int("substeps", self.substeps, 1)
        require_positive(self, "forcing", "dt", "model_std", "noise_std")
        if not is_one_of(self.observed, OBSERVED):
            raise CSBError(f"observed={self.observed!r} is unknown; choose one of {', '.join(OBSERVED)}")

    @property
    def dy(self) -> int:
        """As many as dx."""
        return self.dx

    def _run(self, x: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            x = rk4(lambda state: derivative(state, self.forcing), x, self.dt)
        return x

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        x = 3 * torch.randn((n, self.dx), dtype=torch.float64, generator=generator)
        return self._run(x, round(_SPIN / self.dt))

    def forecast(self, x: Tensor, generator: torch.Generator) -> Tensor:
        x = self._run(x, self.substeps)
        return x + self.model_std * torch.randn(x.shape, dtype=x.dtype, generator=generator)

    def observe(self, x: Tensor) -> Tensor:
        return x if self.observed == "linear" else x.atan()

    def distance(self) -> Tensor:
        """Steps along the circle, (d, d)."""
        apart = (torch.arange(self.dx)[:, None] - torch.arange(self.dx)).abs()
        return torch.minimum(apart, self.dx - apart).double()
