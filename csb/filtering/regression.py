r"""Kernels of a bridge in closed form: conditional means as ridge regressions on features, noise from their residuals.

A step pinned at one end is N(near·x + far·e, var·I), x the state it starts from and e the pinned end. With e unknown,
the nearest Gaussian in Kullback–Leibler divergence has, with g(x, v) = E[e | x, v] and Σ the covariance of e − g,

    mean near·x + far·g(x, v),    covariance var·I + far²·Σ:

the likelihood fit of :mod:`csb.bridge.objectives` for a Σ that does not depend on (x, v). g is linear in features of
(x, v), all of them standardised: 1, the coordinates, and √2 cos(Wᵀ·+ b), W ~ N(0, I/ℓ²), random features of a Gaussian
kernel of width ℓ (Rahimi & Recht 2007). The features are bounded, so that extrapolation is affine.

The ridge λM stands beside the Gram matrix of the features alone, not of 1 and the coordinates: as λ → ∞ the fit is
affine, and affine conditional means are fitted without bias. With 1 and the coordinates projected out, Gram matrix V
diag(s) Vᵀ of the features and their products q with the ends, the residual sum of squares and the degrees of freedom
are

    R(λ) = R(∞) − Σ_i |Vᵀq|_i²·(s_i + 2λM)/(s_i + λM)²,    f(λ) = 1 + p + Σ_i s_i/(s_i + λM),

and λ is, for each step, that of RIDGES with the least generalised cross-validation R(λ)/(M − f(λ))² (Golub, Heath &
Wahba 1979). Σ is the residuals' with the divisor M − f.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from csb.filtering.whitening import spread
from csb.process import Pinned, noise_like, psd_cholesky

RIDGES = tuple(10.0**power for power in range(-4, 4))  # λ, from flexible to all but affine
_NEVER_SINGULAR = 1e-9  # times M, added to Gram matrices


class Fourier(NamedTuple):
    """Random features of ℝ^p. frequencies (p, n) and phases (n,), float64."""

    frequencies: Tensor
    phases: Tensor

    @classmethod
    def of(cls, p: int, n: int, width: float, generator: torch.Generator) -> "Fourier":
        """n ≥ 0 features of a kernel of this width."""
        W = torch.randn((p, n), dtype=torch.float64, generator=generator) / width
        return cls(W, 2 * math.pi * torch.rand(n, dtype=torch.float64, generator=generator))

    def __call__(self, u: Tensor) -> Tensor:
        """(…, p) → (…, 1 + p + n)."""
        waves = math.sqrt(2) * torch.cos(u @ self.frequencies + self.phases)
        return torch.cat([torch.ones_like(u[..., :1]), u, waves], dim=-1)


def _solve(gram: Tensor, right: Tensor, free: int, M: int, total: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (T, P, d) and degrees of freedom (T,) from Gram matrices (T, P, P) and products with the ends (T, P, d).

    The first ``free`` features are not shrunk; total (d,) holds the sums of squares of the ends.
    """
    gram = gram + _NEVER_SINGULAR * M * torch.eye(gram.shape[1], dtype=gram.dtype)
    root = torch.linalg.cholesky(gram[:, :free, :free])
    across, own = (torch.cholesky_solve(part, root) for part in (gram[:, :free, free:], right[:, :free]))
    s, V = torch.linalg.eigh(gram[:, free:, free:] - gram[:, free:, :free] @ across)
    q = V.mT @ (right[:, free:] - gram[:, free:, :free] @ own)
    ridges = M * torch.tensor(RIDGES, dtype=gram.dtype)
    s = s.clamp_min(0)[:, None]  # (T, 1, n), and ridges (R, 1)
    damped = s + ridges[:, None]
    affine = (total - (right[:, :free] * own).sum(1)).sum(1)
    left = affine[:, None] - (q.square().sum(2)[:, None] * (s + 2 * ridges[:, None]) / damped.square()).sum(2)
    freedom = free + (s / damped).sum(2)
    best = (left / (M - freedom).clamp_min(1).square()).argmin(1)
    steps = torch.arange(len(gram))
    waves = V @ (q / damped[steps, best][..., None])
    return torch.cat([own - across @ waves, waves], dim=1), freedom[steps, best]


class Kernels:
    """The kernels of one direction, step k = 1..T at index k − 1.

    Args:
        law: of the pinned steps, (T,).
        features: of (x, v).
        x: (T, M, d), the states that the steps start from.
        v: (M, m), what is conditioned on.
        end: (M, d), the pinned ends.

    Attributes:
        fitted: (T, M, d), the means at x and v.
        freedom: (T,), effective degrees of freedom.
        factors: (T, d, d), of the covariances, lower triangular.
    """

    def __init__(self, law: Pinned, features: Fourier, x: Tensor, v: Tensor, end: Tensor) -> None:
        T, M, d = x.shape
        self.law, self.features = law, features
        u = torch.cat([x, v.expand(T, -1, -1)], dim=2)
        std = spread(u)[:, None]
        self.centre, self.unit = u.mean(1, keepdim=True), torch.where(std > 0, std, torch.inf)
        phi = features((u - self.centre) / self.unit)
        total = end.square().sum(0)
        self.weights, self.freedom = _solve(phi.mT @ phi, phi.mT @ end, 1 + u.shape[2], M, total)
        guess = phi @ self.weights
        rest = end - guess
        covariance = rest.mT @ rest / (M - self.freedom).clamp_min(1)[:, None, None]
        near, far, var = (part[:, None, None] for part in law)
        self.fitted = near * x + far * guess
        self.factors = psd_cholesky(var * torch.eye(d, dtype=x.dtype) + far**2 * covariance)

    def mean(self, k: int, x: Tensor, v: Tensor) -> Tensor:
        """Of step k from x (B, d) given v (B, m) or (1, m): (B, d)."""
        i = k - 1
        u = torch.cat([x, v.expand(len(x), -1)], dim=1)
        guess = self.features((u - self.centre[i]) / self.unit[i]) @ self.weights[i]
        return self.law.near[i] * x + self.law.far[i] * guess

    def draw(self, k: int, x: Tensor, v: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of step k; shapes as of :meth:`mean`."""
        return self.mean(k, x, v) + noise_like(x, generator) @ self.factors[k - 1].T
