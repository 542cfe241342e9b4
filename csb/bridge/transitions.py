"""The laws of single steps: Gaussians with diagonal, full or low-rank covariance, and mixtures of Gaussians."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from csb.dtypes import exact
from csb.process import repeated

if TYPE_CHECKING:
    from csb.bridge.paths import Skip

_LOG_2PI = math.log(2 * math.pi)
_TINY = 4  # coordinates, to which a triangular system is solved one by one


class Transition(ABC):
    """A batch of laws over states. ``mean`` is (B, *z_shape)."""

    mean: Tensor

    @abstractmethod
    def draw(self, noise: Tensor) -> Tensor:
        """Draw one of each, (B, *z_shape), by noise (B, d), (B, d + r) for a low rank r, (B, d + 1) for a mixture."""

    @abstractmethod
    def skip(self, x: Tensor, skip: "Skip", noise: Tensor) -> Tensor:
        """Draw from the law that a skip makes of this one, the kernel's at x; shapes as in :meth:`draw`."""

    @abstractmethod
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        """−log N(target; law), in terms (B, *z_shape) to be summed; a variance of the target is integrated out."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """(B, d, d), for states flattened to d."""


@dataclass(frozen=True)
class DiagonalGaussian(Transition):
    """Covariance diag(var); var is (B, *z_shape)."""

    mean: Tensor
    var: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        return self.mean + self.var.sqrt() * noise.view_as(self.mean)

    def skip(self, x: Tensor, skip: "Skip", noise: Tensor) -> Tensor:
        var = skip.gain**2 * (self.var - skip.removed).clamp_min(0) + skip.added
        return DiagonalGaussian(skip.mean(x, self.mean), var).draw(noise)

    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        square = ((target - self.mean) ** 2 + target_var) / self.var
        return 0.5 * (square + self.var.log() + _LOG_2PI)

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.var.flatten(1))


@dataclass(frozen=True)
class FullGaussian(Transition):
    """Precision Uᵀ D⁻¹ U; U (B, d, d) is unit lower triangular, D = diag(var), var (B, d).

    ``rows`` (B, d, d) holds U below its diagonal. Row i of U (x − mean) is the innovation of coordinate i given those
    before it and var_i its variance (Pourahmadi 1999): the likelihood needs products only, a draw one triangular solve.
    """

    mean: Tensor
    rows: Tensor
    var: Tensor

    def unit(self) -> Tensor:
        """U, (B, d, d)."""
        identity = torch.eye(self.rows.shape[1], dtype=self.rows.dtype, device=self.rows.device)
        below = torch.ones_like(identity, dtype=torch.bool).tril(-1)
        return torch.where(below, self.rows, identity)

    def _solved(self, innovations: Tensor) -> Tensor:
        """U⁻¹ innovations, (B, d); of few coordinates one by one, where the solver takes several times as long."""
        d = innovations.shape[1]
        if d > _TINY:
            return self._triangular(innovations)
        x: list[Tensor] = []
        for i in range(d):
            rest = innovations[:, i]
            for j in range(i):
                rest = torch.addcmul(rest, self.rows[:, i, j], x[j], value=-1)
            x.append(rest)
        return torch.stack(x, dim=1)

    @exact
    def _triangular(self, innovations: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.unit(), innovations[..., None], upper=False)[..., 0]

    def draw(self, noise: Tensor) -> Tensor:
        return self.mean + self._solved(self.var.sqrt() * noise).view_as(self.mean)

    @exact
    def skip(self, x: Tensor, skip: "Skip", noise: Tensor) -> Tensor:
        spread = skip.factor(self.covariance()) @ noise[..., None]
        return skip.mean(x, self.mean) + spread.view_as(self.mean)

    @exact
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        unit, var = self.unit(), self.var.view_as(self.mean)
        square = (unit @ (target - self.mean).flatten(1)[..., None]).view_as(self.mean) ** 2
        if isinstance(target_var, Tensor) or target_var:
            square = square + target_var * (unit**2).sum(2).view_as(self.mean)
        return 0.5 * (square / var + var.log() + _LOG_2PI)

    def covariance(self) -> Tensor:
        unit = self.unit()
        identity = torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
        inverse = torch.linalg.solve_triangular(unit, identity.expand_as(unit), upper=False) * self.var.sqrt()[:, None]
        return inverse @ inverse.mT


class _LowRankNLL(torch.autograd.Function):
    r"""−log N(x; m, Σ) with Σ = D + V Vᵀ, D = diag(var), and its gradient, in closed form.

    By the Woodbury identity and the determinant lemma, with M = I + Vᵀ D⁻¹ V (r × r), a = M⁻¹ Vᵀ D⁻¹ e for e = x − m,

        Σ⁻¹ e = D⁻¹ (e − V a) = q,    eᵀ Σ⁻¹ e = |D^{−1/2}(e − V a)|² + |a|²,    log |Σ| = log |M| + log |D|,
        Σ⁻¹ V = D⁻¹ V M⁻¹ = W,        [Σ⁻¹]_ii = (1 − (W Vᵀ)_ii) / var_i.

    A variance τ of x, integrated out, adds ½ τ tr Σ⁻¹. The gradient by Σ is S = ½ (Σ⁻¹ − q qᵀ − τ Σ⁻²), hence by V it
    is 2 S V = W − q aᵀ − τ Σ⁻¹ W, by var the diagonal of S, and by m it is −q; with K = (D⁻¹ V)ᵀ W,

        Σ⁻¹ W = D⁻¹ W − W K,    [Σ⁻²]_ii = (1 − 2 (W Vᵀ)_ii) / var_i² + (W K (D⁻¹ V)ᵀ)_ii.

    At most four products of d × r × r. Automatic differentiation keeps each of the large intermediate arrays, and takes
    twice as long (Petersen & Pedersen 2012, The Matrix Cookbook, §2.1, 3.2).
    """

    @staticmethod
    def forward(ctx: Any, error: Tensor, var: Tensor, low: Tensor, tau: Tensor | None) -> Tensor:
        # M spans many orders of magnitude where the variance is small, hence double precision; its factor may be NaN.
        e, precision, V = error.double(), 1 / var.double(), low.double()
        scaled = V * precision[..., None]  # D⁻¹ V
        M = (V.mT @ scaled).add_(torch.eye(V.shape[2], dtype=V.dtype, device=V.device))
        factor = torch.linalg.cholesky_ex(M).L
        W = scaled @ torch.cholesky_inverse(factor)
        a = (W.mT @ e[..., None])[..., 0]
        rest = e - (V @ a[..., None])[..., 0]
        q = precision * rest
        shared = (W * V).sum(2)  # (W Vᵀ)_ii
        spread = precision * (1 - shared)
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1) - precision.log().sum(1)
        square = (rest * q).sum(1) + (a**2).sum(1)
        value = 0.5 * (square + log_det + e.shape[1] * math.log(2 * math.pi))
        if tau is not None:
            value += 0.5 * tau * spread.sum(1)
        if any(ctx.needs_input_grad[:3]):
            by_var = 0.5 * (spread - q**2)
            by_low = torch.baddbmm(W, q[..., None], a[:, None], alpha=-1)
            if tau is not None:
                WK = W @ (scaled.mT @ W)
                twice = precision**2 * (1 - 2 * shared) + (WK * scaled).sum(2)  # [Σ⁻²]_ii
                by_var -= 0.5 * tau[:, None] * twice
                by_low += WK.sub_(precision[..., None] * W).mul_(tau[:, None, None])
            ctx.save_for_backward(q.to(error.dtype), by_var.to(var.dtype), by_low.to(low.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_error, by_var, by_low = ctx.saved_tensors
        g = gradients[0].to(by_error.dtype)
        return g[:, None] * by_error, g[:, None] * by_var, g[:, None, None] * by_low, None


def low_rank_nll(error: Tensor, var: Tensor, low: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
    """Return −log N of errors x − m (B, d) for Σ = diag(var) + low·lowᵀ, (B,), in float64; differentiable once.

    ``var`` is (B, d), positive, ``low`` (B, d, r); a variance of x, one number or B, gets no gradient.
    """
    tau = None
    if isinstance(target_var, Tensor) or target_var:
        tau = torch.as_tensor(target_var, dtype=torch.double, device=error.device).detach().flatten().expand(len(error))
    return _LowRankNLL.apply(error, var, low, tau)  # type: ignore[no-any-return]


def _shared(total: Tensor, like: Tensor) -> Tensor:
    """Totals (B,) in equal shares of the coordinates of (B, *z_shape)."""
    each = (total / like[0].numel()).to(like.dtype)
    return each.reshape((-1,) + (1,) * (like.ndim - 1)).expand_as(like)


@dataclass(frozen=True)
class LowRankGaussian(Transition):
    """Covariance diag(var) + low·lowᵀ; var is (B, *z_shape), low (B, d, r). Likelihoods cost O(d r²).

    A large step from noise to an image leaves uncertainty in a few directions (which digit, which stroke). A diagonal
    law can only draw it as independent pixel noise, which the next step filters out: the samples lose variance.
    """

    mean: Tensor
    var: Tensor
    low: Tensor

    @exact
    def draw(self, noise: Tensor) -> Tensor:
        own, common = noise.split([noise.shape[1] - self.low.shape[2], self.low.shape[2]], dim=1)
        return self.mean + self.var.sqrt() * own.view_as(self.mean) + (self.low @ common[..., None]).view_as(self.mean)

    def skip(self, x: Tensor, skip: "Skip", noise: Tensor) -> Tensor:
        # Where var falls below β̃, what lacks is taken out of the coordinate's low-rank part: that keeps Σ_ii − β̃, where
        # it is positive, without eigenvalues of d × d matrices, and is exact where var ≥ β̃.
        rest, total = self.var - skip.removed, (self.low**2).sum(2)
        kept = (1 + rest.clamp(max=0).flatten(1) / total.clamp_min(1e-30)).clamp_min(0).sqrt()
        var = skip.gain**2 * rest.clamp_min(0) + skip.added
        return LowRankGaussian(skip.mean(x, self.mean), var, skip.gain * kept[..., None] * self.low).draw(noise)

    @exact
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        error = (target - self.mean).flatten(1)
        return _shared(low_rank_nll(error, self.var.flatten(1), self.low, target_var), self.mean)

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.var.flatten(1)) + self.low @ self.low.mT


@dataclass(frozen=True)
class MixtureOfGaussians(Transition):
    """A mixture of M Gaussians: a few large steps leave laws of several modes, which no Gaussian draws.

    ``parts`` makes the Gaussians when needed: of each state the one ``chosen``, (B,), or all B·M of them, those of a
    state side by side. A draw takes one, and the time to make all M would count beside that of a small network.
    """

    logits: Tensor  # (B, M), log-weights up to a constant
    parts: Callable[[Tensor | None], FullGaussian]

    @functools.cached_property
    def mean(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        means = self.parts(None).mean.unflatten(0, self.logits.shape)
        return (self._weights.reshape(self.logits.shape + (1,) * (means.ndim - 2)) * means).sum(1)

    @property
    def _weights(self) -> Tensor:
        return self.logits.T.softmax(0).T  # along a short last dimension it takes six times as long on a CPU

    def _chosen(self, noise: Tensor) -> FullGaussian:
        """One component of each mixture, by its weight and a standard normal number, (B, 1)."""
        level = 0.5 * torch.erfc(-math.sqrt(0.5) * noise)  # ndtr, which makes tensors of its constants, takes longer
        inner = self._weights.T[:-1].cumsum(0)  # bounds: the last component takes what rounding leaves
        return self.parts((inner < level.T).sum(0))

    def draw(self, noise: Tensor) -> Tensor:
        return self._chosen(noise[:, :1]).draw(noise[:, 1:])

    def skip(self, x: Tensor, skip: "Skip", noise: Tensor) -> Tensor:
        return self._chosen(noise[:, :1]).skip(x, skip, noise[:, 1:])

    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        assert isinstance(target_var, float | int), "it has no closed form at an uncertain target; draw that first"
        assert target_var == 0
        M, log_weights = self.logits.shape[1], self.logits.T.log_softmax(0).T
        each = self.parts(None).nll(repeated(target, M)).flatten(1).sum(1).view(-1, M)
        return _shared(-(log_weights - each).logsumexp(1), target)

    def covariance(self) -> Tensor:
        parts = self.parts(None)
        within = parts.covariance().unflatten(0, self.logits.shape)
        apart = (parts.mean.unflatten(0, self.logits.shape) - self.mean[:, None]).flatten(2)
        return (self._weights[..., None, None] * (within + apart[..., :, None] * apart[..., None, :])).sum(1)
