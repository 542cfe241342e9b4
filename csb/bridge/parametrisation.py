r"""What a drift network's output means: an affine map mean = skip_k·x + gain_k·output, so all choices convert exactly.

Written for the backward kernel of step k; the forward kernel of step k is the backward one of step T − k + 1 on the
mirrored grid (see :meth:`csb.process.Grid.mirror`), where "x0" predicts the noise end x_T.

- drift   mean = x_k + β_k·output
- x0      mean = that of the pinned law X_{k−1} | X_k, X_0 = output
- eps     as x0, with x_0 = (x_k − √(1−ᾱ_k)·output)/√ᾱ_k                (Ho et al. 2020)
- v       as x0, with x_0 = √ᾱ_k x_k − √(1−ᾱ_k)·output                  (Salimans & Ho 2022)

With output 0, "v" is the reference step √(1−β_k) x, in both directions.

A *jump* leads from k to x_0 at once (:mod:`csb.bridge.student`). It is the one backward step of the grid (1, ᾱ_k): the
same formulas with 1−ᾱ_k for β_k, so that "x0" is mean = output.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from csb.process import Grid, Reference

Direction = Literal["backward", "forward"]


class Coefficients(NamedTuple):
    """mean = skip_k·x + gain_k·output; (T + 1,) float64 each, index 0 unused (0)."""

    skip: Tensor
    gain: Tensor

    def mean(self, x: Tensor, output: Tensor, k: Tensor | int) -> Tensor:
        """The kernel mean, for coefficients already of x's dtype and k an integer."""
        return self.skip[k] * x + self.gain[k] * output

    def output(self, x: Tensor, mean: Tensor, k: Tensor | int) -> Tensor:
        """The inverse: the output whose kernel mean is ``mean``."""
        return (mean - self.skip[k] * x) / self.gain[k]


def _drift(grid: Grid, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones(len(k), dtype=torch.float64), grid.beta[k]


def _x0(grid: Grid, k: Tensor) -> tuple[Tensor, Tensor]:
    law = Reference(grid).pinned_start(k)
    return law.near, law.far


def _eps(grid: Grid, k: Tensor) -> tuple[Tensor, Tensor]:
    near, far = _x0(grid, k)
    alpha_bar = grid.alpha_bar[k]
    return near + far / alpha_bar.sqrt(), -far * ((1 - alpha_bar) / alpha_bar).sqrt()


def _v(grid: Grid, k: Tensor) -> tuple[Tensor, Tensor]:
    near, far = _x0(grid, k)
    alpha_bar = grid.alpha_bar[k]
    return near + far * alpha_bar.sqrt(), -far * (1 - alpha_bar).sqrt()


PARAMETRISATIONS = {"drift": _drift, "x0": _x0, "eps": _eps, "v": _v}


def coefficients(name: str, grid: Grid, direction: Direction) -> Coefficients:
    """The coefficients of a parametrisation by name, for steps k = 1..T of the given direction."""
    steps = torch.arange(1, grid.T + 1)
    if direction == "forward":
        grid = grid.mirror()
    skip, gain = PARAMETRISATIONS[name](grid, steps)
    if direction == "forward":
        skip, gain = skip.flip(0), gain.flip(0)
    return _from_1(skip, gain)


def jump_coefficients(name: str, grid: Grid) -> Coefficients:
    """Those of the jumps from k = 1..T to x_0; the mean of x_0 is read from the output."""
    found = [PARAMETRISATIONS[name](grid.keep(0, k), torch.tensor([1])) for k in range(1, grid.T + 1)]
    return _from_1(torch.cat([skip for skip, _ in found]), torch.cat([gain for _, gain in found]))


def _from_1(skip: Tensor, gain: Tensor) -> Coefficients:
    """With the unused index 0."""
    zero = torch.zeros(1, dtype=torch.float64)
    return Coefficients(torch.cat([zero, skip]), torch.cat([zero, gain]))
