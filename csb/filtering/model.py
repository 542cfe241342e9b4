r"""State-space models: a Markov chain x_n that is forecast from one observation to the next, and y_n = h(x_n) + σ ε.

Dynamics are ordinary differential equations dx/dt = f(x), integrated by the classical Runge–Kutta rule of order 4 in
steps of ``dt``, ``substeps`` of them between two observations, after which noise N(0, model_std² I) is added.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from csb.errors import CSBError, require_int
from csb.process import Stream, seeded
from csb.schema import Count, Positive, Schema


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
        name: of the model.
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
        return h + self.noise_std * torch.randn(h.shape, dtype=h.dtype, generator=generator)

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x) but for a constant, y (dy,) and x (n, dx): (n,)."""
        return -0.5 * ((y - self.observe(x)) / self.noise_std).square().sum(1)

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h (n, dy) and its Jacobian at x (n, dx): (n, dy, dx), or (1, dy, dx) where h is affine over these x."""
        h, J = self.observe(x), self._jacobian(x[:1])
        affine = h[:1] + (x - x[:1]) @ J[0].T
        return h, J if bool(((h - affine).abs() <= 1e-9 * h.abs().amax()).all()) else self._jacobian(x)

    def _jacobian(self, x: Tensor) -> Tensor:
        """∂h/∂x at x (n, dx): (n, dy, dx)."""
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
        return x + self.model_std * torch.randn(x.shape, dtype=x.dtype, generator=generator)

    def observe(self, x: Tensor) -> Tensor:
        return x


class Twin(NamedTuple):
    """A true path and what was seen of it.

    Attributes:
        x: (N, dx), float64.
        y: (N, dy), float64.
    """

    x: Tensor
    y: Tensor


def twin(model: StateSpace, cycles: int, seed: int) -> Twin:
    """Draw a path of N = cycles ≥ 1 observations, frozen: a function of the model, N and the seed alone.

    A longer one begins with a shorter one.
    """
    require_int("cycles", cycles, 1)
    path, noise = seeded(seed, Stream.FILTER_TWIN, 0), seeded(seed, Stream.FILTER_TWIN, 1)
    states, x = [], model.initial(1, path)
    for _ in range(cycles):
        x = model.forecast(x, path)
        states.append(x)
    return Twin(torch.cat(states), torch.cat([model.simulate(x, noise) for x in states]))
