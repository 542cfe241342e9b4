r"""The system of Lorenz (1963), J. Atmos. Sci. 20, 130: three coordinates, chaotic, two wings.

dx_1/dt = s(x_2 − x_1), dx_2/dt = x_1(ρ − x_3) − x_2, dx_3/dt = x_1 x_2 − b x_3 with s = 10, ρ = 28, b = 8/3.

The set-up is that of Shi et al. 2022 (CDSB, arXiv:2202.13460; its numbers are those of the authors' code), after
Spantini, Baptista & Marzouk 2022 (SIAM Review 64, 921): every coordinate is seen every 0.1 units of time with noise of
variance 4; two Runge–Kutta steps of 0.05 and noise of standard deviation 0.01 in between; x_0 ~ N((3, −3, 12), I).
"""

from typing import ClassVar

import torch
from torch import Tensor

from csb.filtering.model import Flow
from csb.schema import Count, Positive


def derivative(x: Tensor) -> Tensor:
    """dx/dt, (n, 3) → (n, 3)."""
    a, b, c = x.unbind(1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], dim=1)


class Lorenz63(Flow):
    """See the module's docstring."""

    name: ClassVar[str] = "lorenz63"
    dx: ClassVar[int] = 3
    dy: ClassVar[int] = 3

    substeps: Count = 2
    noise_std: Positive = 2.0

    def f(self, x: Tensor) -> Tensor:
        return derivative(x)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        mean = torch.tensor([3.0, -3.0, 12.0], dtype=torch.float64)
        return mean + torch.randn((n, 3), dtype=torch.float64, generator=generator)
