"""Exact posteriors of two unknowns with a normal prior and a likelihood in closed form, by quadrature on a grid."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from csb.problems.base import Posterior, Simulated
from csb.problems.mixture import pick

_REACH = 6.0  # standard deviations; the prior beyond holds 4e-9 of the mass
_COARSE, _FINE = 100, 400  # cells along a side, to find the mass and for the posterior
_ZOOMS = 10  # at most
_LOG_CUT = 18.0  # the density beyond is below 2e-8 of the largest


class GridPosterior(Posterior):
    """A density of two unknowns on a fine grid where its mass lies; moments by the midpoint rule.

    The box is narrowed to where the density is above e⁻¹⁸ of its largest value, until that no longer halves a side.
    Draws are uniform in a cell drawn by its weight.

    Args:
        log_density: unnormalised, (M, 2) → (M,), float64.
        low, high: corners (2,), float64, of a box that holds the mass.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> None:
        width = high - low
        for _ in range(_ZOOMS):
            before, centres = width, self._centres_of(low, width, _COARSE)
            log_p = log_density(centres)
            inside, margin = centres[log_p > log_p.max() - _LOG_CUT], 2 * width / _COARSE
            low = inside.amin(0) - margin
            width = inside.amax(0) + margin - low
            if bool((width > before / 2).all()):
                break
        self._centres, self._width = self._centres_of(low, width, _FINE), width / _FINE
        self._weights = w = log_density(self._centres).softmax(0)
        mean = w @ self._centres
        centred = self._centres - mean
        cov = (centred * w[:, None]).T @ centred
        unit = centred / cov.diagonal().sqrt()
        super().__init__({"mean": mean, "cov": cov, "skew": w @ unit**3, "kurtosis": w @ unit**4})

    @staticmethod
    def _centres_of(low: Tensor, width: Tensor, cells: int) -> Tensor:
        """Centres (cells², 2) of the box's cells."""
        unit = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        return torch.cartesian_prod(low[0] + width[0] * unit, low[1] + width[1] * unit)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        cell = pick(self._weights, n, generator)
        jitter = torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.5
        return (self._centres[cell] + self._width * jitter).float()


class GridProblem(Simulated):
    """x in ℝ², normal with independent coordinates, and y with a known p(y | x).

    Attributes:
        centre, spread: means and standard deviations of the prior.
    """

    x_shape = (2,)
    centre: ClassVar[tuple[float, float]] = (0.0, 0.0)
    spread: ClassVar[tuple[float, float]] = (1.0, 1.0)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, 2, dtype=torch.float32, generator=generator)
        return z.new_tensor(self.centre) + z.new_tensor(self.spread) * z

    @abstractmethod
    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | x) but for a constant, of x (M, 2) and ONE y of y_shape, float64: (M,)."""

    def posterior(self, y: Tensor) -> GridPosterior:
        y = self.check_observation(y)
        centre, spread = y.new_tensor(self.centre), y.new_tensor(self.spread)

        def log_density(x: Tensor) -> Tensor:
            return self.log_likelihood(x, y) - 0.5 * ((x - centre) / spread).square().sum(1)

        return GridPosterior(log_density, centre - _REACH * spread, centre + _REACH * spread)
