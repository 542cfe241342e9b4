r"""Tasks whose observations are series of any length, series with gaps, or sets of counts; exact posteriors on a grid.

- SIR, an epidemic (Kermack & McKendrick 1927; prior and binomial tests as in Lueckmann et al. 2021, appendix T.9, with
  more readings of fewer people): of a population the shares s, i, r are susceptible, infected and recovered,
  s' = −β s i, i' = β s i − γ i, r' = γ i. With u(t) = ∫ i dt, s = s_0 e^{−βu} and r = γ u, so that one equation is
  left, u' = i = 1 − s_0 e^{−βu} − γ u. k of n people tested are infected, k ~ Binomial(n, i), and y = √(k/n), whose
  standard deviation is about 1/(2√n) whatever i is. x = (log β, log γ) with rates a day, N(log .4, .5²) and
  N(log 1/8, .2²).
- Oscillator, a linear stochastic differential equation in the plane: dz = (−γ + iω) z dt + √(2γ) dW, z complex, with
  W two independent Brownian motions. Its stationary law is N(0, I), and exactly
  z_{t+1} = e^{−γ + iω} z_t + √(1 − e^{−2γ}) N(0, I). y_t = Re z_t + s N(0, 1), of which readings are missing at random:
  a Gaussian process with the kernel e^{−γτ} cos ωτ (the "celerite" term of Foreman-Mackey et al. 2017). p(y | x) is the
  product of the one-step predictions of a Kalman filter, which skips the readings that are missing.
- Counts, zero-inflated Poisson (Lambert 1992): each k_i is 0 with probability π, else Poisson(λ); x = (logit π, log λ).
  p(0 | x) = π + (1 − π) e^{−λ}, p(k | x) = (1 − π) e^{−λ} λ^k/k! for k > 0. y = √k, in which 0 stands out beside
  large counts, and whose standard deviation is about ½ for every large λ.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from csb.problems.base import PROBLEMS
from csb.problems.gaps import first_rows, hide, set_sizes
from csb.problems.grid import GridProblem
from csb.process import noise_like
from csb.schema import Count, Share

_START, _DAYS, _STEPS = 1e-3, 4, 8  # share infected on day 0; days, and steps of the solver, between two readings
_LEAST = 1e-9  # share infected
_NOISE = 0.3  # standard deviation of the readings of the oscillator


@PROBLEMS.register
class SIR(GridProblem):
    """x = (log β, log γ); y (length, 1), one reading every four days until a day uniform among them, then NaN."""

    length: Annotated[Count, Field(description="readings, at most")] = 20
    tested: Annotated[Count, Field(description="people tested for a reading")] = 100

    name = "sir"
    may_miss = True
    centre, spread = (math.log(0.4), math.log(1 / 8)), (0.5, 0.2)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.length, 1)

    def infected(self, x: Tensor, readings: int, steps: int = _STEPS) -> Tensor:
        """The share i at the first readings, (M, 2) → (M, readings), by Runge and Kutta's method of order 4."""
        beta, gamma = x.exp().unbind(1)
        h, u, found = _DAYS / steps, torch.zeros_like(beta), []

        def rate(u: Tensor) -> Tensor:
            return 1 - (1 - _START) * (-beta * u).exp() - gamma * u

        for _ in range(readings):
            for _ in range(steps):
                k1 = rate(u)
                k2 = rate(u + h / 2 * k1)
                k3 = rate(u + h / 2 * k2)
                u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(u + h * k3))
            found.append(rate(u))
        return torch.stack(found, 1).clamp(_LEAST, 1 - _LEAST)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        share = self.infected(x, self.length)
        positive = torch.binomial(torch.full_like(share, self.tested), share, generator=generator)
        count = torch.randint(1, self.length + 1, (len(x), 1), generator=generator, device=x.device)
        return first_rows((positive / self.tested).sqrt(), count)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        there = (~y[:, 0].isnan()).nonzero()[:, 0].tolist()
        positive, share = self.tested * y[there, 0].square(), self.infected(x, max([0, *there]) + 1)[:, there]
        return share.log() @ positive + (-share).log1p() @ (self.tested - positive)


@PROBLEMS.register
class Oscillator(GridProblem):
    """x = (log ω, log γ) per unit of time; y (length, 1), of which a share, uniform in [0, ``gaps``], is missing."""

    length: Annotated[Count, Field(description="readings, one a unit of time")] = 40
    gaps: Annotated[Share, Field(description="the largest share of readings that are missing")] = 0.5

    name = "oscillator"
    may_miss = True
    centre, spread = (math.log(0.5), math.log(0.05)), (0.4, 0.7)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.length, 1)

    @staticmethod
    def _step(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Real and imaginary part of e^{−γ + iω}, and the variance of the step's noise; (M,) each."""
        omega, gamma = x.exp().unbind(1)
        keep = (-gamma).exp()
        return keep * omega.cos(), keep * omega.sin(), -torch.expm1(-2 * gamma)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        a, b, var = self._step(x)
        p = q = torch.zeros_like(a)
        std, found = torch.ones_like(a), []  # before the first step, that of the stationary law
        for e in noise_like(x[:, :1, None].expand(-1, 3, self.length), generator).unbind(2):
            p, q = a * p - b * q + std * e[:, 0], b * p + a * q + std * e[:, 1]
            found.append(p + _NOISE * e[:, 2])
            std = var.sqrt()
        return hide(torch.stack(found, 1), self.gaps, generator)[..., None]

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        a, b, var = self._step(x)
        p = q = log_p = torch.zeros_like(a)  # mean of z, and its covariance (P, Q; Q, R)
        P, Q, R = torch.ones_like(a), torch.zeros_like(a), torch.ones_like(a)
        for value in y[:, 0].tolist():
            if not math.isnan(value):
                S, e = P + _NOISE**2, value - p
                log_p = log_p - 0.5 * (S.log() + e.square() / S)
                p, q = p + P / S * e, q + Q / S * e
                P, Q, R = P - P.square() / S, Q - P * Q / S, R - Q.square() / S
            p, q = a * p - b * q, b * p + a * q
            cross = 2 * a * b * Q
            P, Q, R = (
                a.square() * P - cross + b.square() * R + var,
                a * b * (P - R) + (a.square() - b.square()) * Q,
                b.square() * P + cross + a.square() * R + var,
            )
        return log_p


@PROBLEMS.register
class Counts(GridProblem):
    """x = (logit π, log λ); y a set of roots of n ≤ ``largest`` counts, (largest, 1), n about log-uniform; then NaN."""

    largest: Annotated[Count, Field(description="counts, at most")] = 50

    name = "counts"
    may_miss = True
    centre, spread = (0.0, 1.0), (1.5, 0.8)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.largest, 1)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        count = set_sizes(x, self.largest, generator)
        y = torch.poisson(x[:, 1:].exp().expand(-1, self.largest), generator=generator)
        is_zero = torch.rand(y.shape, dtype=x.dtype, generator=generator, device=x.device) < x[:, :1].sigmoid()
        return first_rows(y.masked_fill(is_zero, 0.0).sqrt(), count)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        y = y[~y.isnan()]
        (logit, log_rate), zeros = x.unbind(1), int((y == 0).sum())
        poisson = logsigmoid(-logit) - log_rate.exp()  # log of (1 − π) e^{−λ}
        some = (len(y) - zeros) * poisson + float(y.square().sum()) * log_rate
        return zeros * torch.logaddexp(logsigmoid(logit), poisson) + some
