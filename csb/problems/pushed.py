r"""Posteriors that are Gaussian in other coordinates: x = g(u), u ~ N(0, I), y = A u + noise, and so u | y is normal.

A and the normal posterior of u are those of :class:`csb.problems.LinearGaussian` with fewer readings than unknowns,
which leaves u | y wide in some directions. Exact draws are those of u | y, mapped. With Φ the normal distribution
function, the bijections g are:

- shell, 3 unknowns: longitude π(2Φ(u_1) − 1), height 2Φ(u_2) − 1 as a share of the radius e^{u_3/10}. Longitude and
  height are uniform, so that x is uniform in direction (Archimedes), on a shell a tenth of its radius thick.
- funnel, 10 unknowns (Neal 2003, Slice sampling, § 8, with a narrower v): v = 1.5 u_1, x = (v, e^{v/2} u_2, …).
- student, 5 unknowns: x_i = F⁻¹(Φ(u_i)), F the distribution function of Student's t with 4 degrees of freedom
  (Shaw 2006, Sampling Student's T distribution): F(x) = ½ + ⅜ w(1 − w²/12) with w = x/√(1 + x²/4), and
  F⁻¹(p) = ±2 √(q − 1), q = cos(⅓ arccos √α)/√α, α = 4p(1 − p).
"""

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine
from torch.special import ndtr, ndtri

from csb.problems.base import PROBLEMS, Posterior, Simulated
from csb.problems.gaussians import LinearGaussian
from csb.process import psd_cholesky
from csb.schema import OneOf

_NOISE = 0.5  # standard deviation of the readings
_THICKNESS = 0.1  # of the shell, standard deviation of the logarithm of its radius
_FUNNEL = 1.5  # standard deviation of v
_POINTS = 2**17
_EDGE = 1e-9  # of the ends of Φ, which x in float32 do not tell apart


@lru_cache(1)
def sobol_normal(d: int) -> Tensor:
    """Scrambled Sobol points (131072, d) mapped to N(0, I), float64, for means that random draws would blur."""
    points = SobolEngine(d, scramble=True, seed=0).draw(_POINTS, dtype=torch.float64)
    return ndtri(points.clamp(1e-12, 1 - 1e-12))


def weighted_moments(x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Mean and covariance of points (n, d), float64, with weights (n,) of sum 1, as a posterior keeps them."""
    mean = weights @ x
    centred = x - mean
    return {"mean": mean, "cov": (centred * weights[:, None]).T @ centred}


class Pushed(Posterior):
    """The law of push(z), z ~ N(0, I_k): float64, (n, k) → (n, d). Moments by :func:`sobol_normal`."""

    def __init__(self, push: Callable[[Tensor], Tensor], k: int) -> None:
        super().__init__(lambda: weighted_moments(push(sobol_normal(k)), torch.full((_POINTS,), 1 / _POINTS).double()))
        self._push, self._k = push, k

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._push(torch.randn(n, self._k, dtype=torch.float64, generator=generator)).float()


def _shell(u: Tensor) -> Tensor:
    turn, height = (u[:, :2] / math.sqrt(2)).erf().unbind(1)
    across, angle = (1 - height.square()).sqrt(), math.pi * turn
    return (_THICKNESS * u[:, 2:]).exp() * torch.stack([across * angle.cos(), across * angle.sin(), height], 1)


def _flat_shell(x: Tensor) -> Tensor:
    radius = x.norm(dim=1)
    ends = torch.stack([torch.atan2(x[:, 1], x[:, 0]) / math.pi, x[:, 2] / radius], 1).clamp(_EDGE - 1, 1 - _EDGE)
    return torch.cat([math.sqrt(2) * ends.erfinv(), radius.log()[:, None] / _THICKNESS], 1)


def _funnel(u: Tensor) -> Tensor:
    v = _FUNNEL * u[:, :1]
    return torch.cat([v, (v / 2).exp() * u[:, 1:]], 1)


def _flat_funnel(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1] / _FUNNEL, (-x[:, :1] / 2).exp() * x[:, 1:]], 1)


def _student(u: Tensor) -> Tensor:
    p = ndtr(-u.abs())
    root = 2 * (p * (1 - p)).sqrt()
    q = (root.clamp_max(1).acos() / 3).cos() / root
    return 2 * u.sign() * (q - 1).clamp_min(0).sqrt()


def _flat_student(x: Tensor) -> Tensor:
    w = x.abs() / (1 + x.square() / 4).sqrt()
    tail = 0.5 - 0.375 * w * (1 - w.square() / 12)
    return -x.sign() * ndtri(tail.clamp_min(1e-15))


class Bijection(NamedTuple):
    """Of ``unknowns`` numbers, float64, (B, d) → (B, d), there and back; and how many readings are taken of them."""

    unknowns: int
    readings: int
    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


SHAPES = {
    "shell": Bijection(3, 2, _shell, _flat_shell),
    "funnel": Bijection(10, 5, _funnel, _flat_funnel),
    "student": Bijection(5, 3, _student, _flat_student),
}


@PROBLEMS.register
class PushedGaussian(Simulated):
    """x = g(u) in ℝ³, ℝ¹⁰ or ℝ⁵, y = A u + N(0, ¼ I) in ℝ², ℝ⁵ or ℝ³. The seed also fixes A."""

    shape: Annotated[str, OneOf(SHAPES)] = "shell"

    name = "pushed"

    @property
    def bijection(self) -> Bijection:
        return SHAPES[self.shape]

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.bijection.unknowns,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.bijection.readings,)

    @cached_property
    def linear(self) -> LinearGaussian:
        """The problem of u."""
        return LinearGaussian(dx=self.bijection.unknowns, dy=self.bijection.readings, noise=_NOISE, seed=self.seed)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.bijection.there(self.linear.prior(n, generator).double()).float()

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.linear.observe(self.bijection.back(x.double()).to(x.dtype), generator)

    def posterior(self, y: Tensor) -> Pushed:
        mean, factor = self.linear.G @ self.check_observation(y), psd_cholesky(self.linear.C)
        return Pushed(lambda z: self.bijection.there(mean + z @ factor.T), len(mean))
