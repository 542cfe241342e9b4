r"""Posteriors of 4 modes in 5 dimensions, or 16 in 10: magnitudes are read, signs are not.

x = (a, b) with k = 2 or 4 numbers a, of which only the size is read, and d − k numbers b, each read together with a
share of one of the a: y_i = log |a_i| + s N(0, 1), y_{k+j} = b_j + c a_{j mod k} + t N(0, 1). The prior is N(0, I), or
uniform on the box [−1, 1]^d. Given y the groups of an a_i with its b are independent, and in a group

    p(a | y) ∝ p(a) N(y_i; log |a|, s²) Π_j ∫ p(b_j) N(y_{k+j}; b_j + c a, t²) db_j,

where the integrals, and p(b_j | a, y), are of normal laws, cut to the box where there is one. p(log |a|, sign a | y) is
taken from a grid along log |a|. So x | y has a mode for each of the 2ᵏ sign patterns, at which the b lie elsewhere, and
which weigh the same but for what the prior says of the b: a magnitude known to 20 % parts its two signs, however small
it is.
"""

import math
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csb.problems.base import PROBLEMS, Bounded, Posterior
from csb.problems.bounded import Support
from csb.problems.mixture import TruncatedNormal, pick
from csb.problems.standardise import Standardise
from csb.problems.transform import Transform
from csb.process import noise_like
from csb.schema import OneOf

_SIZE, _PULL, _NOISE = 0.2, 0.25, 0.2  # s, c, t
_CELLS, _REACH = 250, 8.0  # of the grid for each sign; standard deviations s on either side
_LEAST = 1e-7  # |a| whose logarithm is read


class ModesPosterior(Posterior):
    """Exact draws of (a, b) given one y (d,), float64.

    Args:
        y: of which the first k are of magnitudes.
        k: how many numbers a there are.
        bound: of the box; ∞ for the normal prior.

    Attributes:
        positive: P(a_i > 0 | y), (k,), float64; the signs are independent.
    """

    def __init__(self, y: Tensor, k: int, bound: float) -> None:
        self.rest, self.bound = y[k:], bound
        self.precision = float(bound == torch.inf)  # of the prior: 0 of the uniform one
        self.owner = torch.arange(len(self.rest)) % k
        size, reach = y[:k], _REACH * _SIZE
        low, high = (size - reach).clamp_max(-1), (size + reach).clamp_max(math.log(bound))
        self._step = (high - low) / _CELLS
        log_a = low[:, None] + self._step[:, None] * (torch.arange(_CELLS, dtype=torch.float64) + 0.5)
        self._a = a = torch.cat([-log_a.exp(), log_a.exp()], 1)
        log_a = log_a.repeat(1, 2)
        _, evidence = self._given(a[self.owner])
        log_p = log_a - 0.5 * ((size[:, None] - log_a) / _SIZE).square() - 0.5 * self.precision * a.square()
        self._weights = w = log_p.index_add(0, self.owner, evidence).softmax(1)
        self.positive = w[:, _CELLS:].sum(1)
        super().__init__(self._by_cells)

    def _given(self, a: Tensor) -> tuple[TruncatedNormal, Tensor]:
        """p(b_j | a, y), flat, of the a (d − k, M) of each b_j; and log p(y_{k+j} | a) but for a constant, as a."""
        shrink, residual = 1 / (1 + self.precision * _NOISE**2), self.rest[:, None] - _PULL * a
        side = torch.full((a.numel(),), self.bound, dtype=torch.float64)
        law = TruncatedNormal((shrink * residual).flatten(), _NOISE * shrink**0.5, -side, side)
        return law, law.log_masses.view_as(a) - 0.5 * self.precision * shrink * residual.square()

    def _by_cells(self) -> dict[str, Tensor]:
        a, of_b = self._a, self._a[self.owner]
        mean_b, var_b = (part.view_as(of_b) for part in self._given(of_b)[0].moments())
        group = torch.cat([torch.arange(len(a)), self.owner])
        w, within = self._weights[group], torch.cat([a, mean_b])
        mean = (w * within).sum(1)
        centred = within - mean[:, None]
        cov = (w * centred) @ centred.T * (group[:, None] == group)
        return {"mean": mean, "cov": cov + torch.cat([0 * mean[: len(a)], (w[len(a) :] * var_b).sum(1)]).diag()}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        cells = torch.stack([pick(w, n, generator) for w in self._weights])
        jitter = torch.rand(cells.shape, dtype=torch.float64, generator=generator) - 0.5
        a = self._a.gather(1, cells) * (self._step[:, None] * jitter).exp()
        law, _ = self._given(a[self.owner])
        return torch.cat([a, law.sample(1, generator).view(len(self.rest), n)]).T.float()


@PROBLEMS.register
class Modes(Bounded):
    """x in ℝ⁵ or ℝ¹⁰, or in a box there, and y as many numbers."""

    modes: Annotated[int, OneOf((4, 16)), Field(description="4 in 5 dimensions, or 16 in 10")] = 4
    bounded: Annotated[bool, Field(description="uniform prior on [−1, 1]^d, else N(0, I)")] = False

    name = "modes"

    @property
    def hidden(self) -> int:
        """How many signs are not read."""
        return 2 if self.modes == 4 else 4

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (5 if self.modes == 4 else 10,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.x_shape

    @cached_property
    def support(self) -> Support | None:
        d = self.x_shape[0]
        return Support((-1.0,) * d, (1.0,) * d) if self.bounded else None

    def new_transform(self) -> Transform:
        return super().new_transform() if self.bounded else Standardise(self.x_shape, self.y_shape)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        draw = torch.rand if self.bounded else torch.randn
        x = draw(n, *self.x_shape, dtype=torch.float32, generator=generator)
        return 2 * x - 1 if self.bounded else x

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        a, b = x.split([self.hidden, x.shape[1] - self.hidden], 1)
        owner = torch.arange(b.shape[1], device=x.device) % self.hidden
        size, rest = noise_like(x, generator).split([a.shape[1], b.shape[1]], 1)
        log_size = a.abs().clamp_min(_LEAST).log()
        return torch.cat([log_size + _SIZE * size, b + _PULL * a[:, owner] + _NOISE * rest], 1)

    def posterior(self, y: Tensor) -> ModesPosterior:
        return ModesPosterior(self.check_observation(y), self.hidden, 1.0 if self.bounded else torch.inf)
