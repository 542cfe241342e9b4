"""The laws of single steps: Gaussians with diagonal, full or low-rank covariance, and mixtures of Gaussians."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from csb.bridge.low_rank import low_rank_nll
from csb.bridge.skipping import Skip
from csb.process import repeated

Method = TypeVar("Method", bound=Callable[..., Tensor])
_LOG_2PI = math.log(2 * math.pi)
_TINY = 4  # coordinates, to which a triangular system is solved one by one


def _exact(method: Method) -> Method:
    """The method outside autocast: small matrix products are no place for bfloat16."""

    @functools.wraps(method)
    def wrapped(self: "Transition", at: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_autocast_enabled(at.device.type):  # a context costs as much as several small operations
            return method(self, at, *args, **kwargs)
        with torch.autocast(at.device.type, enabled=False):
            return method(self, at, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def _skip_factor(covariance: Tensor, skip: Skip) -> Tensor:
    """F (B, d, d) with F Fᵀ = gain²·max(Σ − own·I, 0) + added·I.

    A Cholesky factor where Σ − own·I is positive definite; elsewhere eigenvectors, which cost ten times as much. NaN
    where Σ is not finite.
    """
    identity = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
    rest = covariance - skip.own * identity
    factor, failed = torch.linalg.cholesky_ex(rest)
    factor = skip.gain * factor
    if skip.added:
        factor, again = torch.linalg.cholesky_ex(factor @ factor.mT + skip.added * identity)
        failed = failed + again
    factor = factor.masked_fill((failed != 0)[:, None, None], torch.nan)
    rows = ((failed != 0) & torch.isfinite(rest).all(2).all(1)).nonzero()[:, 0]
    if len(rows):
        values, vectors = torch.linalg.eigh(rest[rows])
        scale = (skip.gain**2 * values.clamp_min(0) + skip.added).sqrt()
        factor[rows] = vectors * scale[:, None]
    return factor


class Transition(ABC):
    """A batch of laws over states. ``mean`` is (B, *z_shape)."""

    mean: Tensor

    @abstractmethod
    def draw(self, noise: Tensor) -> Tensor:
        """One draw of each, (B, *z_shape), from standard normal noise (B, d).

        (B, d + r) for a covariance of low rank r, (B, d + 1) for a mixture.
        """

    @abstractmethod
    def skip(self, x: Tensor, skip: Skip, noise: Tensor) -> Tensor:
        """One draw of each of the law that a skip makes of this one, the kernel's at x; shapes as in :meth:`draw`."""

    @abstractmethod
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        """−log N(target; law), with a variance of the target (isotropic, broadcastable) integrated out.

        (B, *z_shape): terms whose sum over coordinates is the negative log-likelihood.
        """

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

    def skip(self, x: Tensor, skip: Skip, noise: Tensor) -> Tensor:
        var = skip.gain**2 * (self.var - skip.own).clamp_min(0) + skip.added
        return DiagonalGaussian(skip.mean(x, self.mean), var).draw(noise)

    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        square = ((target - self.mean) ** 2 + target_var) / self.var
        return 0.5 * (square + self.var.log() + _LOG_2PI)

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.var.flatten(1))


@dataclass(frozen=True)
class FullGaussian(Transition):
    """Precision Uᵀ D⁻¹ U; U (B, d, d) is unit lower triangular, D = diag(var), var (B, d).

    ``rows`` (B, d, d) holds U below its diagonal; its other numbers count for nothing. Row i of U (x − mean) is the
    innovation of coordinate i given those before it and var_i its variance (Pourahmadi 1999), so the likelihood needs
    products only; a draw solves one triangular system.
    """

    mean: Tensor
    rows: Tensor
    var: Tensor

    def _unit(self) -> Tensor:
        identity = torch.eye(self.rows.shape[1], dtype=self.rows.dtype, device=self.rows.device)
        below = torch.ones_like(identity, dtype=torch.bool).tril(-1)
        return torch.where(below, self.rows, identity)

    def _solved(self, innovations: Tensor) -> Tensor:
        """U⁻¹ innovations, (B, d), from (B, d).

        A few coordinates are found one by one: on batches of tiny matrices the solver takes several times as long.
        """
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

    @_exact
    def _triangular(self, innovations: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._unit(), innovations[..., None], upper=False)[..., 0]

    def draw(self, noise: Tensor) -> Tensor:
        return self.mean + self._solved(self.var.sqrt() * noise).view_as(self.mean)

    @_exact
    def skip(self, x: Tensor, skip: Skip, noise: Tensor) -> Tensor:
        spread = _skip_factor(self.covariance(), skip) @ noise[..., None]
        return skip.mean(x, self.mean) + spread.view_as(self.mean)

    @_exact
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        unit, var = self._unit(), self.var.view_as(self.mean)
        square = (unit @ (target - self.mean).flatten(1)[..., None]).view_as(self.mean) ** 2
        if isinstance(target_var, Tensor) or target_var:
            square = square + target_var * (unit**2).sum(2).view_as(self.mean)
        return 0.5 * (square / var + var.log() + _LOG_2PI)

    def covariance(self) -> Tensor:
        unit = self._unit()
        identity = torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
        inverse = torch.linalg.solve_triangular(unit, identity.expand_as(unit), upper=False) * self.var.sqrt()[:, None]
        return inverse @ inverse.mT


@dataclass(frozen=True)
class LowRankGaussian(Transition):
    """Covariance diag(var) + low·lowᵀ; var is (B, *z_shape), low (B, d, r).

    A large step from noise to an image leaves uncertainty in a few directions (which digit, which stroke). A diagonal
    law can only draw it as independent pixel noise, which the next step filters out as noise: the samples lose
    variance. Likelihoods cost O(d r²) by the Woodbury identity.
    """

    mean: Tensor
    var: Tensor
    low: Tensor

    @_exact
    def draw(self, noise: Tensor) -> Tensor:
        own, common = noise.split([noise.shape[1] - self.low.shape[2], self.low.shape[2]], dim=1)
        return self.mean + self.var.sqrt() * own.view_as(self.mean) + (self.low @ common[..., None]).view_as(self.mean)

    def skip(self, x: Tensor, skip: Skip, noise: Tensor) -> Tensor:
        """Where diag(var) alone falls below β̃ I, what lacks is taken out of the coordinate's low-rank part.

        That keeps Σ_ii − β̃, where it is positive, and costs no eigenvalues of d × d matrices. Where var ≥ β̃ in all
        coordinates it is exact.
        """
        rest = self.var - skip.own
        total = (self.low**2).sum(2)
        kept = (1 + rest.clamp(max=0).flatten(1) / total.clamp_min(1e-30)).clamp_min(0).sqrt()
        var = skip.gain**2 * rest.clamp_min(0) + skip.added
        return LowRankGaussian(skip.mean(x, self.mean), var, skip.gain * kept[..., None] * self.low).draw(noise)

    @_exact
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        """In equal shares of the coordinates; see :mod:`csb.bridge.low_rank`."""
        total = low_rank_nll((target - self.mean).flatten(1), self.var.flatten(1), self.low, target_var)
        each = (total / self.low.shape[1]).to(self.mean.dtype)
        return each.reshape((-1,) + (1,) * (target.ndim - 1)).expand_as(target)

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.var.flatten(1)) + self.low @ self.low.mT


@dataclass(frozen=True)
class MixtureOfGaussians(Transition):
    """A mixture of M Gaussians, each a :class:`Full`, made where and when it is needed.

    A few large steps leave laws of several modes, which no Gaussian draws.

    Args:
        logits: (B, M), log-weights up to a constant.
        raw: (B, M, *z_shape), what the means are made of.
        rows: (B, M, d, d).
        full: makes B·m Gaussians of m of these for each state, (B, m, *z_shape) and (B, m, d, d). A draw takes one
            for each state, and the time to make all M would count beside that of a small network.
    """

    logits: Tensor
    raw: Tensor
    rows: Tensor
    full: Callable[[Tensor, Tensor], FullGaussian]

    @functools.cached_property
    def mean(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The mixture's, found when it is asked for: draws and likelihoods take none."""
        means = self.parts.mean.view_as(self.raw)
        return (self._weights.reshape(self.logits.shape + (1,) * (means.ndim - 2)) * means).sum(1)

    @property
    def parts(self) -> FullGaussian:
        """All B·M of them, those of a state side by side."""
        return self.full(self.raw, self.rows)

    @property
    def _weights(self) -> Tensor:
        return self.logits.T.softmax(0).T  # along a short last dimension it takes six times as long on a CPU

    def _chosen(self, noise: Tensor) -> FullGaussian:
        """One component of each mixture, by its weight and a standard normal number, (B, 1)."""
        level = 0.5 * torch.erfc(-math.sqrt(0.5) * noise)  # ndtr, which makes tensors of its constants, takes longer
        inner = self._weights.T[:-1].cumsum(0)  # bounds: the last component takes what rounding leaves
        chosen = (inner < level.T).sum(0)[:, None, None]
        d = self.rows.shape[2]
        raw = self.raw.flatten(2).gather(1, chosen.expand(-1, 1, d)).view_as(self.raw[:, :1])
        rows = self.rows.flatten(2).gather(1, chosen.expand(-1, 1, d * d)).view_as(self.rows[:, :1])
        return self.full(raw, rows)

    def draw(self, noise: Tensor) -> Tensor:
        return self._chosen(noise[:, :1]).draw(noise[:, 1:])

    def skip(self, x: Tensor, skip: Skip, noise: Tensor) -> Tensor:
        return self._chosen(noise[:, :1]).skip(x, skip, noise[:, 1:])

    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        assert isinstance(target_var, float), "it has no closed form at an uncertain target; draw that first"
        M, log_weights = self.logits.shape[1], self.logits.T.log_softmax(0).T
        each = self.parts.nll(repeated(target, M)).flatten(1).sum(1).view(-1, M)
        total = -(log_weights - each).logsumexp(1)
        return (total / target[0].numel()).reshape((-1,) + (1,) * (target.ndim - 1)).expand_as(target)

    def covariance(self) -> Tensor:
        M, weights = self.logits.shape[1], self._weights[..., None, None]
        parts = self.parts
        within = parts.covariance().unflatten(0, (-1, M))
        apart = (parts.mean.view_as(self.raw) - self.mean[:, None]).flatten(2)
        return (weights * (within + apart[..., :, None] * apart[..., None, :])).sum(1)


def moved(law: Transition, x: Tensor, skip: Skip | None, noise: Tensor | None) -> Tensor:
    """The next state, (B, *z_shape): a step of the law, the kernel's at x, or a skip. Without noise it is the mean."""
    if noise is None:
        return law.mean if skip is None else skip.mean(x, law.mean)
    return law.draw(noise) if skip is None else law.skip(x, skip, noise)
