"""State-space models: a Markov chain x_n that is forecast from one observation to the next, and y_n = h(x_n) + σ ε."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.errors import CSBError
from csb.process import noise_like
from csb.schema import MOST_COORDINATES, Count, OneOf, Positive, Schema

_SPIN = 4.0  # units of time, after which Lorenz96 stands on its attractor


def rk4(f: Callable[[Tensor], Tensor], x: Tensor, dt: float) -> Tensor:
    """One step of the classical Runge–Kutta rule of dx/dt = f(x): its error falls with dt⁵, that of a path with dt⁴."""
    a = f(x)
    b = f(x + dt / 2 * a)
    c = f(x + dt / 2 * b)
    d = f(x + dt * c)
    return x + dt / 6 * (a + 2 * b + 2 * c + d)


class StateSpace(ABC):
    """A model of ℝ^dx seen through ℝ^dy.

    Attributes:
        dx, dy: coordinates of x and of y; of a class or of its objects.
        noise_std: σ > 0, of each coordinate of y.
    """

    name: ClassVar[str]
    dx: ClassVar[int]
    dy: ClassVar[int]
    noise_std: ClassVar[float]

    @abstractmethod
    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws of x at the time before the first observation, (n, dx), float64."""

    @abstractmethod
    def forecast(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of the next state given each of x (n, dx): (n, dx)."""

    @abstractmethod
    def observe(self, x: Tensor) -> Tensor:
        """h(x), (n, dx) → (n, dy), differentiable."""

    def distance(self) -> Tensor:
        """Between coordinates i and j, (dx, dx), where y_i belongs to x_i. CSBError where they stand in no space."""
        raise CSBError(f"the coordinates of {self.name} have no distances; leave localisation out (null)")

    def simulate(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of y given each of x (n, dx): (n, dy)."""
        h = self.observe(x)
        return h + self.noise_std * noise_like(h, generator)

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x) but for a constant, y (dy,) and x (n, dx): (n,)."""
        return -0.5 * ((y - self.observe(x)) / self.noise_std).square().sum(1)

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h (n, dy) and its Jacobian at x (n, dx): (n, dy, dx), or (1, dy, dx) where h is affine over these x."""
        h, J = self.observe(x), self._jacobian(x[:1])
        affine = h[:1] + (x - x[:1]) @ J[0].T
        return h, J if bool(((h - affine).abs() <= 1e-9 * h.abs().amax()).all()) else self._jacobian(x)

    def _jacobian(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            h = self.observe(x)
            seeds = torch.eye(self.dy, dtype=h.dtype)[:, None].expand(-1, len(x), -1)
            (rows,) = torch.autograd.grad(h, x, seeds, is_grads_batched=True)
        return rows.transpose(0, 1)


class Flow(StateSpace, Schema):
    """dx/dt = f(x) by Runge–Kutta steps, every coordinate seen, with noise after the steps."""

    dt: Positive = 0.05
    """Of a Runge–Kutta step."""
    substeps: Count = 1
    """Of them between two observations."""
    model_std: Positive = 0.01
    """Of the noise after them."""
    noise_std: Positive = 1.0
    """Of the observations."""

    @abstractmethod
    def f(self, x: Tensor) -> Tensor:
        """dx/dt, (n, dx) → (n, dx)."""

    def run(self, x: Tensor, steps: int) -> Tensor:
        """The states after some Runge–Kutta steps from x (n, dx)."""
        for _ in range(steps):
            x = rk4(self.f, x, self.dt)
        return x

    def forecast(self, x: Tensor, generator: torch.Generator) -> Tensor:
        x = self.run(x, self.substeps)
        return x + self.model_std * noise_like(x, generator)

    def observe(self, x: Tensor) -> Tensor:
        return x


class Lorenz63(Flow):
    """The chaotic system of Lorenz (1963), J. Atmos. Sci. 20, 130.

    dx_1/dt = s(x_2 − x_1), dx_2/dt = x_1(ρ − x_3) − x_2, dx_3/dt = x_1 x_2 − b x_3 with s = 10, ρ = 28, b = 8/3.

    The set-up is that of Shi et al. 2022 (CDSB, arXiv:2202.13460, by the authors' code), after Spantini, Baptista &
    Marzouk 2022 (SIAM Review 64, 921): observations every 0.1 units of time, with noise of variance 4, and x_0 ~
    N((3, −3, 12), I).
    """

    name: ClassVar[str] = "lorenz63"
    dx: ClassVar[int] = 3
    dy: ClassVar[int] = 3

    substeps: Count = 2
    noise_std: Positive = 2.0

    def f(self, x: Tensor) -> Tensor:
        a, b, c = x.unbind(1)
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], dim=1)

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        mean = torch.tensor([3.0, -3.0, 12.0], dtype=torch.float64)
        return mean + torch.randn((n, 3), dtype=torch.float64, generator=generator)


class Lorenz96(Flow):
    """The system of Lorenz (1996): d coordinates on a circle, dx_i/dt = (x_{i+1} − x_{i−2}) x_{i−1} − x_i + F.

    Chaotic with F = 8. Every coordinate is seen, as it is or through the arc tangent (Bao, Zhang & Zhang 2024, CMAME
    432, 117447). 4 units of time pass between x_0 ~ N(0, 9 I) and the first forecast.
    """

    name: ClassVar[str] = "lorenz96"

    dx: int = Field(default=40, ge=4, le=MOST_COORDINATES, description="d")
    forcing: float = 8.0
    """F."""
    observed: Annotated[str, OneOf(("linear", "arctan"))] = "linear"
    """h, of every coordinate."""

    @property
    def dy(self) -> int:
        return self.dx

    def f(self, x: Tensor) -> Tensor:
        return (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - x + self.forcing

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        x = 3 * torch.randn((n, self.dx), dtype=torch.float64, generator=generator)
        return self.run(x, round(_SPIN / self.dt))

    def observe(self, x: Tensor) -> Tensor:
        return x if self.observed == "linear" else x.atan()

    def distance(self) -> Tensor:
        """Steps along the circle, (d, d)."""
        apart = (torch.arange(self.dx)[:, None] - torch.arange(self.dx)).abs()
        return torch.minimum(apart, self.dx - apart).double()
