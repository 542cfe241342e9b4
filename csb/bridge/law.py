"""The Gaussian laws of single steps, with diagonal, full or low-rank covariance."""

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from csb.process import noise_like

Method = TypeVar("Method", bound=Callable[..., Tensor])
_LOG_2PI = math.log(2 * math.pi)


def _exact(method: Method) -> Method:
    """The method outside autocast: small matrix products are no place for bfloat16."""

    @functools.wraps(method)
    def wrapped(self: "Law", *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(self.mean.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


@dataclass(frozen=True)
class Law(ABC):
    """A batch of Gaussians over states. ``mean`` is (B, *z_shape)."""

    mean: Tensor

    @abstractmethod
    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One draw of each, (B, *z_shape), from the generator on the mean's device."""

    @abstractmethod
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        """−log N(target; law), with a variance of the target (isotropic, broadcastable) integrated out.

        (B, *z_shape): terms whose sum over coordinates is the negative log-likelihood.
        """

    @abstractmethod
    def covariance(self) -> Tensor:
        """(B, d, d), for states flattened to d."""

    @classmethod
    def cat(cls, laws: Sequence["Law"]) -> "Law":
        """The laws of consecutive batches, all of one kind, as one."""
        if len(laws) == 1:
            return laws[0]
        names = [field.name for field in dataclasses.fields(laws[0])]
        return type(laws[0])(*(torch.cat([getattr(law, name) for law in laws]) for name in names))


@dataclass(frozen=True)
class Diagonal(Law):
    """Covariance diag(var); var is (B, *z_shape)."""

    var: Tensor

    def draw(self, generator: torch.Generator | None) -> Tensor:
        return self.mean + self.var.sqrt() * noise_like(self.mean, generator)

    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        square = ((target - self.mean) ** 2 + target_var) / self.var
        return 0.5 * (square + self.var.log() + _LOG_2PI)

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.var.flatten(1))


@dataclass(frozen=True)
class Full(Law):
    """Precision rootᵀ·root; root is (B, d, d), lower triangular with a positive diagonal.

    Row i of root·(x − mean) is the innovation of coordinate i given those before it, so the likelihood needs products
    only; a draw solves one triangular system.
    """

    root: Tensor

    @classmethod
    def of(cls, mean: Tensor, rows: Tensor, var: Tensor) -> Self:
        """From rows (B, d, d), of which only the part below the diagonal counts, and conditional variances (B, d)."""
        unit = rows.tril(-1) + torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        return cls(mean, unit / var.sqrt()[..., None])

    @_exact
    def draw(self, generator: torch.Generator | None) -> Tensor:
        noise = noise_like(self.mean, generator).flatten(1)[..., None]
        return self.mean + torch.linalg.solve_triangular(self.root, noise, upper=False).view_as(self.mean)

    @_exact
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        white = (self.root @ (target - self.mean).flatten(1)[..., None]).view_as(self.mean)
        spread = target_var * (self.root**2).sum(2).view_as(self.mean)
        log_det = self.root.diagonal(dim1=1, dim2=2).log().view_as(self.mean)
        return 0.5 * (white**2 + spread + _LOG_2PI) - log_det

    def covariance(self) -> Tensor:
        identity = torch.eye(self.root.shape[1], dtype=self.root.dtype, device=self.root.device)
        inverse = torch.linalg.solve_triangular(self.root, identity.expand_as(self.root), upper=False)
        return inverse @ inverse.mT


@dataclass(frozen=True)
class LowRank(Law):
    """Covariance diag(var) + low·lowᵀ; var is (B, *z_shape), low (B, d, r).

    A large step from noise to an image leaves uncertainty in a few directions (which digit, which stroke). A diagonal
    law can only draw it as independent pixel noise, which the next step filters out as noise: the samples lose
    variance. Likelihoods cost O(d r²) by the Woodbury identity.
    """

    var: Tensor
    low: Tensor

    @_exact
    def draw(self, generator: torch.Generator | None) -> Tensor:
        common = torch.randn(
            (*self.low.shape[::2], 1), dtype=self.low.dtype, device=self.low.device, generator=generator
        )
        noise = self.var.sqrt() * noise_like(self.mean, generator)
        return self.mean + noise + (self.low @ common).view_as(self.mean)

    @_exact
    def nll(self, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
        precision = 1 / self.var.flatten(1)
        scaled = self.low * precision[..., None]  # D⁻¹ V
        # I + Vᵀ D⁻¹ V spans many orders of magnitude where the variance is small: factored in double precision. A
        # failure gives NaN, which the training reports with its place.
        inner = self.low.double().mT @ scaled.double()
        inner = inner + torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
        factor = torch.linalg.cholesky_ex(inner).L.to(self.low.dtype)
        error = (target - self.mean).flatten(1)
        solved = torch.linalg.solve_triangular(factor, scaled.mT, upper=False)  # its columns whiten D⁻¹ V
        square = error**2 * precision - error * (solved.mT @ (solved @ error[..., None]))[..., 0]
        spread = precision - (solved**2).sum(1)  # the diagonal of the inverse covariance
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1) / error.shape[1]  # shared by the coordinates
        terms = square.view_as(self.mean) + target_var * spread.view_as(self.mean)
        log_det = log_det.reshape(-1, *(1,) * (self.mean.ndim - 1))
        return 0.5 * (terms + self.var.log() + log_det + _LOG_2PI)

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.var.flatten(1)) + self.low @ self.low.mT
