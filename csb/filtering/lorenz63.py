r"""The system of Lorenz (1963), J. Atmos. Sci. 20, 130: three coordinates, chaotic, two wings.

dx_1/dt = s(x_2 − x_1), dx_2/dt = x_1(ρ − x_3) − x_2, dx_3/dt = x_1 x_2 − b x_3 with s = 10, ρ = 28, b = 8/3.

The set-up is that of Shi et al. 2022 (CDSB, arXiv:2202.13460; its numbers are those of the authors' code), after
Spantini, Baptista & Marzouk 2022 (SIAM Review 64, 921): every coordinate is seen every 0.1 units of time with noise of
variance 4; two Runge–Kutta steps of 0.05 and noise of standard deviation 0.01 in between; x_0 ~ N((3, −3, 12), I).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from csb.errors import require_int
from csb.filtering.model import StateSpace, require_positive, rk4


def derivative(x: Tensor) -> Tensor:
    """dx/dt, (n, 3) → (n, 3)."""
    a, b, c = x.unbind(1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], dim=1)


@dataclass(frozen=True)
class Lorenz63(StateSpace):
    """See the module's docstring.

    Args:
        dt: of a Runge–Kutta step, > 0.
        substeps: of them between two observations, ≥ 1.
        model_std: of the noise after them, > 0.
        noise_std: of the observations, > 0.
    """

    dt: float = 0.05
    substeps: int = 2
    model_std: float = 0.01
    noise_std: float = 2.0

    name = "lorenz63"
    dx = 3
    dy = 3

    def __post_init__(self) -> None:
        require_positive(self, "dt", "model_std", "noise_std")
        require_int("substeps", self.substeps, 1)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        mean = torch.tensor([3.0, -3.0, 12.0], dtype=torch.float64)
        return mean + torch.randn((n, 3), dtype=torch.float64, generator=generator)

    def forecast(self, x: Tensor, generator: torch.Generator) -> Tensor:
        for _ in range(self.substeps):
            x = rk4(derivative, x, self.dt)
        return x + self.model_std * torch.randn(x.shape, dtype=x.dtype, generator=generator)

    def observe(self, x: Tensor) -> Tensor:
        return x
