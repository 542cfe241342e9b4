r"""Biochemical oxygen demand (Parno & Marzouk 2018): two parameters, five noisy readings of a saturating curve.

y_t = A(1 − e^{−Bt}) + N(0, 10⁻³), t = 1..5 (10⁻³ is the variance), A = .4 + .4(1 + erf(x_1/√2)),
B = .01 + .15(1 + erf(x_2/√2)), x ~ N(0, I). The posterior is known by quadrature on a grid.
"""

import math

import torch
from torch import Tensor

from csb.problems.base import PROBLEMS, AdditiveNoise, Posterior, Simulated
from csb.problems.exact.mixture import pick

_VAR = 1e-3
_REACH = 8.0  # the prior beyond ±8 holds 1e-15 of the mass
_COARSE, _FINE = 400, 600
_LOG_CUT = 40.0


def curve(x: Tensor) -> Tensor:
    """The noise-free readings, (…, 2) → (…, 5)."""
    t = torch.arange(1, 6, dtype=x.dtype, device=x.device)
    A = 0.4 + 0.4 * (1 + torch.erf(x[..., :1] / math.sqrt(2)))
    B = 0.01 + 0.15 * (1 + torch.erf(x[..., 1:] / math.sqrt(2)))
    return A * (1 - torch.exp(-B * t))


class GridPosterior(Posterior):
    """The posterior on a fine grid over the region that holds its mass; moments by the midpoint rule.

    Draws are uniform in a cell drawn by its weight.

    Args:
        y: (5,), float64.
    """

    def __init__(self, y: Tensor) -> None:
        low, width = self._locate(y)
        centres, log_p = self._evaluate(y, low, width, _FINE)
        self._centres, self._width = centres, width / _FINE
        w = (log_p - log_p.max()).exp()
        w = w / w.sum()
        self._weights = w
        mean = w @ centres
        centred = centres - mean
        cov = (centred * w[:, None]).T @ centred
        std = cov.diagonal().sqrt()
        super().__init__(
            {
                "mean": mean,
                "cov": cov,
                "skew": w @ (centred / std) ** 3,
                "kurtosis": w @ (centred / std) ** 4,
            }
        )

    @staticmethod
    def _evaluate(y: Tensor, low: Tensor, width: Tensor, cells: int) -> tuple[Tensor, Tensor]:
        """Centres (cells², 2) of the box's cells and the unnormalised log posterior there (cells²,)."""
        unit = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        centres = torch.cartesian_prod(low[0] + width[0] * unit, low[1] + width[1] * unit)
        misfit = (curve(centres) - y).square().sum(dim=1) / _VAR
        return centres, -0.5 * (misfit + centres.square().sum(dim=1))

    @classmethod
    def _locate(cls, y: Tensor) -> tuple[Tensor, Tensor]:
        """Lower corner and widths, (2,) each, of a box outside which the density is below e⁻⁴⁰ of its largest value."""
        low, width = torch.full((2,), -_REACH, dtype=torch.float64), torch.full((2,), 2 * _REACH, dtype=torch.float64)
        centres, log_p = cls._evaluate(y, low, width, _COARSE)
        inside = centres[log_p > log_p.max() - _LOG_CUT]
        margin = 2 * width / _COARSE
        low = inside.amin(dim=0) - margin
        return low, inside.amax(dim=0) + margin - low

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        cell = pick(self._weights, n, generator)
        jitter = torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.5
        return (self._centres[cell] + self._width * jitter).float()


@PROBLEMS.register
class BOD(Simulated, AdditiveNoise):
    """x in ℝ², standard normal; y in ℝ⁵."""

    name = "bod"
    x_shape = (2,)
    y_shape = (5,)
    noise_std = math.sqrt(_VAR)

    def forward(self, x: Tensor) -> Tensor:
        return curve(x)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, 2, dtype=torch.float32, generator=generator)

    def posterior(self, y: Tensor) -> GridPosterior:
        return GridPosterior(self.check_observation(y))
