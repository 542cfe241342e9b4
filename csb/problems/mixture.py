r"""Gaussian mixtures in closed form, in float64: density, score, denoiser, conditioning; and normals cut to a box.

For p(x) = Σ_k w_k N(m_k, S_k):

- H x + N(0, R) is the mixture of N(H m_k, H S_k Hᵀ + R) with the same weights; with H = √ᾱ I and R = (1 − ᾱ) I it is
  the marginal of the reference process.
- ∇log p(x) = −Σ_k γ_k(x) S_k⁻¹(x − m_k), γ_k ∝ w_k N(x; m_k, S_k).
- E[x_0 | x_k] = (x_k + (1 − ᾱ_k) ∇log p_k(x_k))/√ᾱ_k (Tweedie).
- given y = A x + N(0, R): means m_k + G_k(y − A m_k), covariances S_k − G_k A S_k, weights ∝ w_k N(y; A m_k,
  A S_k Aᵀ + R), with G_k = S_k Aᵀ(A S_k Aᵀ + R)⁻¹.

A normal law cut to an interval: with a = (low − μ)/σ, b = (high − μ)/σ and the interval mirrored where that brings it
to the left of μ, all work is done on log Φ, which does not underflow:

- mass: log[Φ(b) − Φ(a)] = log Φ(b) + log(1 − e^{log Φ(a) − log Φ(b)});
- draws: Φ⁻¹((1 − u) Φ(a) + u Φ(b)), u ~ U(0, 1), the sum and the inverse on the log scale;
- moments: Gauss–Legendre quadrature of the density between the bounds, or up to where it falls below e⁻⁵⁰ of its
  largest value (the closed forms lose all digits in the tails).
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from scipy.special import ndtri_exp
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import Posterior
from csb.problems.bounded import Support
from csb.process import psd_cholesky, psd_solve

_NODES = 200  # of the quadrature
_LOG_CUT = 50.0


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σ_k w_k N(m_k, S_k) in ℝ^d. Results have the dtype of the argument x, and are differentiable in x.

    Args:
        weights: (K,), float64, positive or zero, of sum 1.
        means: (K, d), float64.
        covs: (K, d, d), or (1, d, d) where the components share it, float64, positive definite; semi-definite for
            draws alone.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor

    def __post_init__(self) -> None:
        K, d = self.means.shape
        fits = self.weights.shape == (K,) and self.covs.shape in ((K, d, d), (1, d, d))
        if not fits or not bool((self.weights >= 0).all()) or abs(float(self.weights.sum()) - 1) > 1e-9:
            raise CSBError(
                f"a mixture of {K} components in {d} dimensions has weights {tuple(self.weights.shape)} and covs "
                f"{tuple(self.covs.shape)}; expected ({K},), at least 0, that sum to 1, and ({K} or 1, {d}, {d})"
            )

    @classmethod
    def isotropic(cls, d: int, var: float) -> "Mixture":
        """The mixture of one, N(0, var I) in ℝ^d."""
        eye = torch.eye(d, dtype=torch.float64)
        return cls(torch.ones(1, dtype=torch.float64), torch.zeros_like(eye[:1]), var * eye[None])

    @cached_property
    def _factors(self) -> Tensor:
        factors, failed = torch.linalg.cholesky_ex(self.covs)
        if bool(failed.any()):
            raise CSBError(
                f"covariance {int(failed.nonzero()[0])} of a mixture is not positive definite, so that it has no "
                f"density; give it spread, or noise, in every direction"
            )
        return factors

    @cached_property
    def _roots(self) -> Tensor:
        """As the factors, of covariances without spread in a direction too."""
        return psd_cholesky(self.covs)

    @property
    def mean(self) -> Tensor:
        """(d,), float64."""
        return self.weights @ self.means

    @property
    def cov(self) -> Tensor:
        """(d, d), float64."""
        centred = self.means - self.mean
        within = torch.einsum("k,kij->ij", self.weights, self.covs.expand(len(self.weights), -1, -1))
        return within + (centred * self.weights[:, None]).T @ centred

    def _whitened(self, x: Tensor) -> Tensor:
        """L_k⁻¹(x − m_k), (K, d, B)."""
        return torch.linalg.solve_triangular(self._factors, (x - self.means[:, None]).mT, upper=False)

    def _log_terms(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; m_k, S_k), (K, B)."""
        log_det = self._factors.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        square = self._whitened(x).square().sum(dim=1)
        constant = 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        return self.weights.log()[:, None] - 0.5 * square - log_det - constant

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B, d) → (B,)."""
        return self._log_terms(x.double()).logsumexp(dim=0).to(x.dtype)

    def log_responsibilities(self, x: Tensor) -> Tensor:
        """log γ_k(x), (B, d) → (B, K); finite and differentiable where γ_k itself is 0 to rounding."""
        return self._log_terms(x.double()).log_softmax(dim=0).T.to(x.dtype)

    def responsibilities(self, x: Tensor) -> Tensor:
        """γ_k(x), (B, d) → (B, K)."""
        return self._log_terms(x.double()).softmax(dim=0).T.to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """∇log p(x), (B, d) → (B, d)."""
        pulls = torch.linalg.solve_triangular(self._factors.mT, self._whitened(x.double()), upper=True)
        return -torch.einsum("kb,kdb->bd", self._log_terms(x.double()).softmax(dim=0), pulls).to(x.dtype)

    def observed(self, H: Tensor, R: Tensor) -> "Mixture":
        """The law of H x + N(0, R): H (n, d), R (n, n), float64."""
        return Mixture(self.weights, self.means @ H.T, H @ self.covs @ H.T + R)

    @cached_property
    def _axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues of the covariances (K or 1, d), eigenvectors (K or 1, d, d), the means along them (K, 1, d)."""
        values, vectors = torch.linalg.eigh(self.covs)
        return values, vectors, self.means[:, None] @ vectors

    def denoise(self, x_k: Tensor, alpha_bar: float) -> Tensor:
        """E[x_0 | x_k] for x_k = √ᾱ x_0 + N(0, (1 − ᾱ) I), ᾱ in (0, 1], (B, d) → (B, d).

        The components' own answers, averaged: along the axes of a covariance nothing is factorised for another ᾱ.
        """
        values, vectors, means = self._axes
        root, values = math.sqrt(alpha_bar), values[:, None]
        var = alpha_bar * values + (1 - alpha_bar)
        centred = x_k.double() @ vectors - root * means
        log_terms = self.weights.log()[:, None] - 0.5 * (centred.square() / var + var.log()).sum(-1)
        each = (means + root * values / var * centred) @ vectors.mT
        return (log_terms.softmax(dim=0)[..., None] * each).sum(dim=0).to(x_k.dtype)

    def conditioned(self, A: Tensor, R: Tensor, y: Tensor) -> "Mixture":
        """p(x | y) for y = A x + N(0, R): A (n, d), R (n, n), y (n,), float64."""
        joint = A @ self.covs @ A.T + R
        gain = psd_solve(joint, A @ self.covs).mT
        evidence = Mixture(self.weights, self.means @ A.T, joint)._log_terms(y[None])[:, 0]
        means = self.means + (gain @ (y - self.means @ A.T)[..., None])[..., 0]
        keep = torch.eye(A.shape[1], dtype=torch.float64) - gain @ A  # Joseph's form stays symmetric and positive
        covs = keep @ self.covs @ keep.mT + gain @ R @ gain.mT
        return Mixture(evidence.softmax(dim=0), means, covs)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, (n, d), float64, and for the same generator state always the same."""
        k = pick(self.weights, n, generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        if len(self._roots) == 1:
            return self.means[k] + noise @ self._roots[0].T
        return self.means[k] + (self._roots[k] @ noise[..., None])[..., 0]


def pick(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n numbers 0..K−1 with chances proportional to weights (K,), float64: (n,), int64."""
    cumulative = weights.cumsum(0)
    u = torch.rand(n, generator=generator, dtype=torch.float64) * cumulative[-1]
    return torch.searchsorted(cumulative, u, right=True).clamp_max(len(weights) - 1)


@cache
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
    def log_masses(self) -> Tensor:
        """log P(low_i ≤ x_i ≤ high_i) of the uncut law, (d,), float64."""
        left, right = torch.special.log_ndtr(self._a), torch.special.log_ndtr(self._b)
        return right + (-torch.expm1(left - right)).log()

    @property
    def log_mass(self) -> Tensor:
        """The same of all coordinates together: (), float64."""
        return self.log_masses.sum()

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
    r"""The posterior, at y (d,), float64, of a uniform prior on a box under y ~ mean over k of N(x, s_k² I).

    It is the mixture of N(y, s_k² I) cut to the box, with weights ∝ the mass that component k has there.
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
