r"""Normal laws cut to an interval, in float64, wherever the interval lies.

With a = (low − μ)/σ, b = (high − μ)/σ and the interval mirrored where that brings it to the left of μ, all work is done
on log Φ, which does not underflow:

- mass: log[Φ(b) − Φ(a)] = log Φ(b) + log(1 − e^{log Φ(a) − log Φ(b)});
- draws: Φ⁻¹((1 − u) Φ(a) + u Φ(b)), u ~ U(0, 1), the sum and the inverse on the log scale;
- moments: Gauss–Legendre quadrature of the density between the bounds, or up to where it falls below e⁻⁵⁰ of its
  largest value (the closed forms lose all digits in the tails).
"""

import functools

import numpy as np
import torch
from scipy.special import ndtri_exp
from torch import Tensor

from csb.problems.base import Posterior
from csb.problems.exact.mixture import Mixture, pick
from csb.problems.transform import Support

_NODES = 200
_LOG_CUT = 50.0


@functools.cache
def _legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


class TruncatedNormal:
    """d independent coordinates N(mean_i, std²), each cut to [low_i, high_i]; (d,) each, float64, low < high."""

    def __init__(self, mean: Tensor, std: float, low: Tensor, high: Tensor) -> None:
        self.std, self.low, self.high = std, low, high
        self._sign = torch.where((low - mean) + (high - mean) > 0, -1.0, 1.0).double()  # −1: mirrored
        a, b = (low - mean) / std, (high - mean) / std
        self._a, self._b = torch.where(self._sign > 0, a, -b), torch.where(self._sign > 0, b, -a)
        self._centre = mean

    @property
    def log_mass(self) -> Tensor:
        """log P(low ≤ x ≤ high) of the uncut law, all coordinates together: (), float64."""
        left, right = torch.special.log_ndtr(self._a), torch.special.log_ndtr(self._b)
        return (right + (-torch.expm1(left - right)).log()).sum()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances, (d,) each, float64."""
        nearest = self._b.clamp_max(0)  # of the interval to the centre of the uncut law
        reach = (nearest.square() + 2 * _LOG_CUT).sqrt()
        start, stop = torch.maximum(self._a, -reach), torch.minimum(self._b, reach)
        nodes, weights = _legendre()
        gap = (start - nearest)[:, None] + (stop - start)[:, None] * nodes  # t − nearest, (d, nodes)
        w = weights * (-0.5 * gap * (gap + 2 * nearest[:, None])).exp()
        w = w / w.sum(1, keepdim=True)
        mean = (w * gap).sum(1)
        variance = (w * (gap - mean[:, None]).square()).sum(1)
        return self._centre + self._sign * self.std * (nearest + mean), self.std**2 * variance

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, (n, d), float64, in the closed box."""
        u = torch.rand(n, len(self.low), generator=generator, dtype=torch.float64)
        left, right = torch.special.log_ndtr(self._a), torch.special.log_ndtr(self._b)
        log_p = torch.logaddexp(torch.log1p(-u) + left, u.log() + right)
        t = torch.from_numpy(np.asarray(ndtri_exp(log_p.numpy())))
        return (self._centre + self._sign * self.std * t).clamp(self.low, self.high)


class TruncatedMixture(Posterior):
    r"""The posterior of a uniform prior on a box under y ~ mean over k of N(x, s_k² I).

    In the box it is ∝ Σ_k N(x; y, s_k² I): the mixture of N(y, s_k² I) cut to the box, with weights ∝ P_k, the mass
    that component k has in the box.

    Args:
        y: (d,), float64.
        scales: the standard deviations s_k > 0.
        support: the box.
    """

    def __init__(self, y: Tensor, scales: tuple[float, ...], support: Support) -> None:
        low, high = support.tensors(y)
        self.components = [TruncatedNormal(y, s, low, high) for s in scales]
        self.weights = torch.stack([c.log_mass for c in self.components]).softmax(0)
        means, variances = (torch.stack(part) for part in zip(*(c.moments() for c in self.components)))
        moments = Mixture(self.weights, means, torch.diag_embed(variances))
        super().__init__({"mean": moments.mean, "cov": moments.cov})

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        k = pick(self.weights, n, generator)
        draws = torch.stack([c.sample(n, generator) for c in self.components])
        return draws[k, torch.arange(n)].float()
