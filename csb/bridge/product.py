r"""Products of Gaussian laws of one step, as a ratio to another that is put on it by a power.

With precisions Λ_j and means μ_j, j = 1..m, beside Λ_0 and μ_0, and u = x − μ_0,

    log r(x) = Σ_j log N(x; μ_j, Λ_j⁻¹)/N(x; μ_0, Λ_0⁻¹) = c + ηᵀu − ½ uᵀΔu,
    Δ = Σ_j (Λ_j − Λ_0),    η = Σ_j Λ_j δ_j,    c = ½ Σ_j (log|Λ_j| − log|Λ_0| − δ_jᵀ Λ_j δ_j),    δ_j = μ_j − μ_0.

For a power λ, N(x; μ_0, Λ_0⁻¹) r(x)^λ = Z·N(u; Λ⁻¹ λη, Λ⁻¹) with Λ = Λ_0 + λΔ and

    log Z = λc + ½ (log|Λ_0| − log|Λ| + λ² ηᵀ Λ⁻¹ η),

and λ = 1 is the product of the m laws over N(μ_0, Λ_0⁻¹) to the power m − 1. Precisions are (B, d, d), vectors beside
them (B, d, 1). All is float64: differences of precisions that agree to several digits enter.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from csb.bridge.samples import require_finite
from csb.bridge.transitions import DiagonalGaussian, FullGaussian
from csb.errors import CSBError
from csb.process import Grid, Reference

Gaussian = DiagonalGaussian | FullGaussian


class Tilted(NamedTuple):
    """N(u; Λ⁻¹ λη, Λ⁻¹) at each of B states, and log Z; rootᵀ root = Λ, lower triangular, white = root⁻ᵀ λη."""

    root: Tensor
    white: Tensor
    log_z: Tensor  # (B,)

    def draw(self, noise: Tensor) -> Tensor:
        """Draw u by standard normal noise (B, d); with m = 1 and λ = 1 as that law itself draws x − μ_0."""
        return torch.linalg.solve_triangular(self.root, self.white + noise.double().view_as(self.white), upper=False)


class Ratio(NamedTuple):
    """r at each of B states."""

    mean: Tensor  # μ_0, (B, *z_shape), float32
    base: Tensor  # Λ_0
    log_det: Tensor  # log|Λ_0|, (B,)
    delta: Tensor  # Δ
    eta: Tensor
    constant: Tensor  # c, (B,)

    def log(self, u: Tensor) -> Tensor:
        """Return log r(μ_0 + u), (B,), of u as in :meth:`Tilted.draw`."""
        return self.constant + (u * (self.eta - 0.5 * self.delta @ u)).sum((1, 2))

    def tilted(self, power: float) -> Tilted:
        """Return the law in proportion to N(μ_0, Λ_0⁻¹) r^power. CSBError where at some state it has no covariance."""
        precision = self.base + power * self.delta
        require_finite("the bridge", precision[None])
        factor, failed = torch.linalg.cholesky_ex(precision.flip(1, 2))
        if bool(failed.any()):
            raise CSBError(
                f"a product of kernels has no positive definite covariance at {int((failed > 0).sum())} of "
                f"{len(failed)} states; give fewer observations at a time, or train the bridge longer"
            )
        root = factor.flip(1, 2).mT
        white = torch.linalg.solve_triangular(root.mT, power * self.eta, upper=True)
        log_z = power * self.constant + 0.5 * (self.log_det + white.square().sum((1, 2)))
        return Tilted(root, white, log_z - root.diagonal(dim1=1, dim2=2).log().sum(1))

    def temper(self, m: int, grid: Grid, k: int) -> float:
        """Return λ_{k−1} of :mod:`csb.bridge.several`, from the average laws of step k, moved to k − 1 as Gaussians."""
        if k == 1:
            return 1.0
        pinned, snr = Reference(grid).pinned_start(k), grid.alpha_bar / (1 - grid.alpha_bar)
        own, given = (
            (torch.linalg.inv(precision).diagonal(dim1=1, dim2=2).mean(0) - float(pinned.var)).clamp_min(1e-12)
            / float(pinned.far) ** 2
            for precision in (self.base, self.base + self.delta / m)
        )  # C and ρC at k
        known = ((1 / given - 1 / own) / (1 / given + float(snr[k - 1] - snr[k]))).clamp(0, 1)  # 1 − ρ at k − 1
        return 1 / (1 + (m - 1) * float(known.square().sum() / known.sum().clamp_min(1e-12)))


def ratio(prior: Gaussian, laws: Iterable[Gaussian]) -> Ratio:
    """Return ∏ laws / prior^m of batches of B laws of one kind, the m of ``laws`` taken one after the other."""
    base, log_det = _precision(prior)
    delta, eta, constant = torch.zeros_like(base), torch.zeros_like(base[..., :1]), torch.zeros_like(log_det)
    for law in laws:
        own, own_det = _precision(law)
        away = (law.mean.double() - prior.mean.double()).view_as(eta)
        pull = own @ away
        delta, eta = delta + (own - base), eta + pull
        constant = constant + 0.5 * (own_det - log_det - (away * pull).sum((1, 2)))
    return Ratio(prior.mean, base, log_det, delta, eta, constant)


def _precision(law: Gaussian) -> tuple[Tensor, Tensor]:
    """The precision (B, d, d), and its log-determinant (B,)."""
    var = law.var.double().flatten(1)
    if isinstance(law, DiagonalGaussian):
        return torch.diag_embed(1 / var), -var.log().sum(1)
    unit = law.unit().double()
    return unit.mT @ (unit / var[..., None]), -var.log().sum(1)
