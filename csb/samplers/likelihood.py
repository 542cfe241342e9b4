r"""What guides a diffusion sampler: log p̃_k(y | z_k), an approximation of log p(y | z_k) at the denoiser's x̂_0(z_k).

Additive noise: p̃_k(y | z_k) = N(y; H(x̂_0(z_k)), s_k²). For a Gaussian prior of variance v a coordinate of z_0 | z_k
keeps v(1−ᾱ)/(1−ᾱ + ᾱv), a share (1−ᾱ)/(1−ᾱ + ᾱv) of the prior's. The same share of the variance of H(x) over the data
is added to that of the noise, s_k² = σ² + Var[H(x)]·(1−ᾱ_k)/(1−ᾱ_k + ᾱ_k v), *on the scale of the data* (Wu et al.
2023, §4; Rozet & Louppe 2023, eq. 12). For a Gaussian prior and orthonormal rows of a linear H that is exact.

A class: p̃_k(y | z_k) = p(class y | x̂_0(z_k)) of a classifier (Wu et al. 2023, §5.2). One of clean data at x̂_0 =
E[x_0 | z_k] is surer than p(y | z_k): between two Gaussians at ±m of variance S, with the log-odds ℓ of p(y | z_k),
those at x̂_0 are ℓ + 2m²/S·(1−ᾱ)/(ᾱS + 1−ᾱ)·tanh(ℓ/2). A classifier may therefore know ᾱ: one that is fitted to
denoised states approaches p(y | x̂_0, ᾱ) = E[p(y | z_k) | x̂_0], which does not overstate.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor

from csb.errors import CSBError, in_one_line, require_int
from csb.networks.diffusion import Denoiser
from csb.numbers import Numbers, as_numbers, require_present
from csb.problems import AdditiveNoise, ClassProblem, LinearProblem, Matrix, Operator, Pairs, Problem
from csb.process import seeded
from csb.samplers.base import NotNegative
from csb.schema import Positive, Schema

DRAWS = 256  # of N(shift, scale² I), where no draws of the prior are given
_FLOOR = 0.01  # of the root mean variance of H(x) over the data
Function = Callable[[Tensor], Tensor]
Impose = Callable[[Tensor, Tensor], Tensor]
LogProbabilities = Callable[[Tensor, float], Tensor]


def _unchanged(x: Tensor, y: Tensor) -> Tensor:
    return x


def z_variance_of(denoiser: Denoiser, x: Tensor) -> float:
    """The mean variance v of a coordinate of z over draws x (n, *x_shape)."""
    return float(denoiser.encode(x.to(denoiser.shift.device)).var(0).mean())


class GuidanceLikelihood(ABC):
    """log p̃_k(y | z_k), a function of y, x̂_0(z_k) and ᾱ_k; at ᾱ = 1 the likelihood log p(y | x).

    Attributes:
        name: of what is observed, in messages; the problem's, where it is of one.
        z_variance: the mean variance v of a coordinate of z over the data, which says how long a horizon must be.
        impose: (x (B, *x_shape), y (B, *y_shape)) → x with what y and the prior's range leave no doubt about, as
            :meth:`csb.problems.Problem.impose`; by default x itself.
    """

    name: str = "the observation"
    y_shape: tuple[int, ...]
    z_variance: float = 1.0
    impose: Impose = staticmethod(_unchanged)

    @abstractmethod
    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """At x̂_0 (B, *x_shape) in data units and y (B, *y_shape): (B,), float64, differentiable in x̂_0."""

    def bound(self, denoiser: Denoiser) -> Self:
        """The likelihood with its scales, for a sampler of this denoiser. CSBError where it does not take its x."""
        return self


class _Deviations(Schema):
    std: NotNegative
    min_std: Positive


class GaussianLikelihood(GuidanceLikelihood):
    """y = H(x) + N(0, σ² I), softened while x is uncertain.

    Args:
        A: H as a matrix (dy, dx), for vectors x; as a :class:`csb.problems.Operator`, where it is linear; or as any
            function (B, *x_shape) → (B, *y_shape), differentiable but for the bootstrap filter.
        std: σ ≥ 0.
        x: draws of the prior (n, *x_shape), in data units, over which Var[H(x)] and v are taken. None: Var[H(x)] is
            taken over :data:`DRAWS` draws of N(shift, scale² I), in the denoiser's units, and v = 1.
        y_shape: of one y; None: that of H(x).
        impose: see :class:`GuidanceLikelihood`, e.g. for pixels that are known.
        min_std: stands for σ where that is 0 (noise-free observations), in units of the root mean of Var[H(x)]; > 0.

    Attributes:
        forward: H.
        operator: H where it is known to be linear, else None.
        noise_std: σ.
        spread: Var[H(x)], (*y_shape), float64, once the likelihood is bound to a denoiser.
    """

    spread: Tensor
    floor: float

    def __init__(
        self,
        A: Operator | Function | Numbers,
        std: float,
        *,
        x: Numbers | None = None,
        y_shape: tuple[int, ...] | None = None,
        impose: Impose | None = None,
        min_std: float = 0.1,
    ) -> None:
        given = _Deviations.read({"std": std, "min_std": min_std}, "")
        self.noise_std, self.min_std, self.impose = given.std, given.min_std, impose or _unchanged
        if not callable(A):
            matrix = as_numbers("A", A)
            require_present("A", matrix, "give a matrix of finite numbers")
            A = Matrix(matrix if matrix.is_floating_point() else matrix.double())
        self.forward = A
        self.operator = A if isinstance(A, Operator) else None
        self._x = None if x is None else as_numbers("x", x).float()
        self._y_shape = None if y_shape is None else tuple(y_shape)

    @classmethod
    def of(cls, problem: Problem, denoiser: Denoiser, train: Pairs, min_std: float = 0.1) -> Self:
        """From a problem with additive noise, else CSBError, and (a part of) its training pairs."""
        if not isinstance(problem, AdditiveNoise):
            raise CSBError(
                f"{problem.name} has no likelihood y = H(x) + noise, which guidance needs; compare it by exact samples"
            )
        A = problem.operator if isinstance(problem, LinearProblem) else problem.forward
        found = cls(A, problem.noise_std, x=train.x, y_shape=problem.y_shape, impose=problem.impose, min_std=min_std)
        found.name = problem.name
        return found.bound(denoiser)

    def with_scales(self, spread: Tensor, z_variance: float = 1.0) -> Self:
        """The same for data of known scales: Var[H(x)] (*y_shape), and v."""
        found = copy(self)
        found.spread, found.z_variance, found.y_shape = spread.double(), z_variance, tuple(spread.shape)
        found.floor = 0.0 if self.noise_std > 0 else self.min_std * float(spread.mean().sqrt())
        return found

    def bound(self, denoiser: Denoiser) -> Self:
        x, v = self._x, 1.0
        if self.operator is not None and self.operator.x_shape != denoiser.x_shape:
            raise CSBError(
                f"A takes x of shape {self.operator.x_shape} and the denoiser's x has shape {denoiser.x_shape}; give "
                f"an A for these (csb.problems.Matrix(A, x_shape) takes x flattened), or another denoiser"
            )
        if x is not None and (x.shape[1:] != denoiser.x_shape or len(x) < 2):
            raise CSBError(f"x has shape {tuple(x.shape)}; give two or more draws of x_shape {denoiser.x_shape}")
        if hasattr(self, "spread"):
            return self
        if x is None:
            x = denoiser.decode(torch.randn((DRAWS, *denoiser.x_shape), generator=seeded(0)).to(denoiser.shift))
        else:
            v = z_variance_of(denoiser, x)
        spread = self._seen(x.to(denoiser.shift.device)).var(0)
        if not (bool(spread.isfinite().all()) and 0 < v < math.inf):
            raise CSBError(
                f"the variance of x or of A(x) over {len(x)} draws of x is 0 or not finite; give x=, draws of the "
                f"prior where A is finite"
            )
        return self.with_scales(spread, v)

    def _seen(self, x: Tensor) -> Tensor:
        """H(x), checked."""
        try:
            y: Any = self.forward(x)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise CSBError(f"A does not take x of shape {tuple(x.shape)}: {in_one_line(error)}") from error
        shape = tuple(y.shape) if isinstance(y, Tensor) else ()
        if len(shape) < 2 or shape[0] != len(x) or self._y_shape not in (None, shape[1:]):
            found = f"of shape {shape}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            wanted = "*y_shape" if self._y_shape is None else ", ".join(map(str, self._y_shape))
            raise CSBError(f"A(x) is {found} for x of shape {tuple(x.shape)}; expected a tensor ({len(x)}, {wanted})")
        return y

    @property
    def positive_std(self) -> float:
        """σ, or a floor above 0 for equations that 0 would make singular."""
        return max(self.noise_std, _FLOOR * float(self.spread.mean().sqrt()))

    def remaining(self, alpha_bar: float) -> float:
        """The variance of a coordinate of z_0 | z_k for a Gaussian prior of variance v."""
        return self.z_variance * (1 - alpha_bar) / (1 - alpha_bar + alpha_bar * self.z_variance)

    def variance(self, alpha_bar: float) -> Tensor:
        """s_k² of each coordinate of y, (*y_shape), float64; ᾱ = 1 gives that of the observation itself."""
        share = self.remaining(alpha_bar) / self.z_variance
        return max(self.noise_std, self.floor) ** 2 + share * self.spread

    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        var = self.variance(alpha_bar).to(y.device)
        square = (y - self.forward(x_0)).double() ** 2 / var
        return -0.5 * (square + (2 * math.pi * var).log()).flatten(1).sum(1)


class ClassLikelihood(GuidanceLikelihood):
    """y, one-hot, is the class that a classifier reads.

    Args:
        log_probabilities: of the classes at x̂_0 (B, *x_shape) in data units and ᾱ_k, (B, classes), differentiable.
        classes: their number.
        z_variance, impose: see :class:`GuidanceLikelihood`.
    """

    def __init__(
        self,
        log_probabilities: LogProbabilities,
        classes: int,
        *,
        z_variance: float = 1.0,
        impose: Impose | None = None,
    ) -> None:
        self.log_probabilities, self.y_shape = log_probabilities, (require_int("classes", classes, 2),)
        self.z_variance, self.impose = z_variance, impose or _unchanged

    @classmethod
    def of(cls, problem: ClassProblem, log_probabilities: LogProbabilities, z_variance: float = 1.0) -> Self:
        """For the classes of a problem."""
        found = cls(log_probabilities, problem.classes, z_variance=z_variance, impose=problem.impose)
        found.name = problem.name
        return found

    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """CSBError where a row of y (B, classes) is not one-hot."""
        if not bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all()):
            raise CSBError("y holds rows that are no class; give one 1 among zeros in each")
        return (y * self.log_probabilities(x_0, alpha_bar)).double().sum(1)
