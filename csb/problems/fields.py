r"""Gaussian random fields seen through a linear operator: problems of images with exact posteriors.

x on side × side points of the unit torus is N(0, C) with unit variances, and C is stationary: the Fourier coefficient
at the integer frequency f has a variance

    S(f) ∝ (1 + (2πℓ|f|)²/(2ν))^{−(ν + 1)},

Matérn's spectrum in the plane with smoothness ν and length ℓ (Whittle 1954; Lindgren, Rue & Lindström 2011, eq. 4).
What is seen is y = A x + σ N(0, I), with σ a share of the spread of A x:

- blur: a periodic Gaussian blur of 1/16 of the side, and so an image;
- blocks: the means of 8 × 8 blocks;
- points: 64 points of 16 × 16, drawn by the seed;
- tomography: sums over strips along 12 directions, 32 strips 1/32 of the side wide for each, as a (parallel-beam)
  Radon transform: each point is shared by the two strips it lies between.

With K = C Aᵀ (A C Aᵀ + σ² I)⁻¹ the posterior is N(K y, C − K A C). It is drawn by Matheron's rule,
x' + K (y − A x' − e) of a draw (x', e) of field and noise, which takes no square root of a covariance of points.
"""

import math
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, fft

from csb.problems.base import PROBLEMS, LinearProblem, Posterior, Simulated
from csb.problems.operators import AveragePool, Blur, Matrix, Operator
from csb.process import Stream, seeded
from csb.schema import OneOf, Positive, Spread

_BLUR, _BLOCKS, _COARSE, _POINTS, _ANGLES, _STRIPS = 1 / 16, 8, 16, 64, 12, 32
SEEN = ("blur", "blocks", "points", "tomography")


def strips(side: int) -> Tensor:
    """The strips' sums, (12·32, side²), float64; what lies beyond the last strip is not seen."""
    at = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    angle = math.pi * torch.arange(_ANGLES, dtype=torch.float64) / _ANGLES
    across = angle.cos()[:, None, None] * at + angle.sin()[:, None, None] * at[:, None]
    centres = torch.arange(_STRIPS, dtype=torch.float64) - (_STRIPS - 1) / 2
    share = 1 - (_STRIPS * across.flatten(1)[:, None] - centres[:, None]).abs()
    return share.clamp_min(0).flatten(0, 1)


class FieldPosterior(Posterior):
    """N(K y, C − K A C) of a random field given one y."""

    def __init__(self, problem: "RandomField", y: Tensor) -> None:
        self._problem, self._y = problem, y.flatten()
        super().__init__(lambda: {"mean": problem.gain @ self._y, "cov": problem.posterior_cov})

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        x = self._problem.prior(n, generator).double()
        seen = self._problem.observe(x, generator).flatten(1)
        return (x + ((self._y - seen) @ self._problem.gain.T).view_as(x)).float()


@PROBLEMS.register
class RandomField(Simulated, LinearProblem):
    """x (1, side, side), y as the module's docstring says: an image (1, …), of "points" a vector (64,)."""

    seen: Annotated[str, OneOf(SEEN)] = "blur"
    side: Annotated[int, Field(ge=16, le=64, multiple_of=16, description="points along each axis")] = 32
    smoothness: Annotated[Positive, Field(description="ν")] = 1.5
    length: Annotated[Positive, Field(description="ℓ, of a torus of side 1")] = 0.1
    noise: Annotated[Spread, Field(description="share of the spread of what is seen")] = 0.1

    name = "random_field"

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (1, self.side, self.side)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.operator.y_shape

    @cached_property
    def spectrum(self) -> Tensor:
        """S, (side, side), float64, of mean 1: the variance of each Fourier coefficient, in the order of torch.fft."""
        f = fft.fftfreq(self.side, 1 / self.side, dtype=torch.float64)
        square = (2 * math.pi * self.length) ** 2 * (f[:, None] ** 2 + f**2)
        S = (1 + square / (2 * self.smoothness)) ** -(self.smoothness + 1)
        return S / S.mean()

    def stationary(self, x: Tensor, power: float = 1.0) -> Tensor:
        """C x, or another power of C, of fields x (B, 1, side, side)."""
        multiplied = self.spectrum.to(x.device) ** power
        return fft.ifft2(multiplied * fft.fft2(x.double())).real if len(x) else x.double()  # torch takes no empty batch

    @cached_property
    def operator(self) -> Operator:
        if self.seen == "blur":
            return Blur(self.x_shape, self.side * _BLUR, "periodic")  # type: ignore[arg-type]
        if self.seen == "blocks":
            return AveragePool(self.x_shape, self.side // _BLOCKS)  # type: ignore[arg-type]
        if self.seen == "points":
            apart = self.side // _COARSE
            coarse = torch.randperm(_COARSE**2, generator=seeded(self.seed, Stream.PROBLEM))[:_POINTS]
            places = apart * (self.side * (coarse // _COARSE) + coarse % _COARSE)
            return Matrix(torch.eye(self.side**2, dtype=torch.float32)[places], self.x_shape)
        return Matrix(strips(self.side), self.x_shape, (1, _ANGLES, _STRIPS))

    @cached_property
    def seen_of(self) -> Tensor:
        """A, (m, side²), float64."""
        if isinstance(self.operator, Matrix):
            return self.operator.A.double()
        eye = torch.eye(self.side**2, dtype=torch.float64)
        return self.operator(eye.unflatten(1, self.x_shape)).flatten(1).T

    @cached_property
    def _across(self) -> Tensor:
        """C Aᵀ, (side², m)."""
        return self.stationary(self.seen_of.unflatten(1, self.x_shape)).flatten(1).T

    @cached_property
    def noise_std(self) -> float:
        """σ."""
        return self.noise * math.sqrt(float((self.seen_of * self._across.T).sum(1).mean()))

    @cached_property
    def gain(self) -> Tensor:
        """K, (side², m), float64."""
        own = self.seen_of @ self._across
        own.diagonal().add_(self.noise_std**2)
        return torch.cholesky_solve(self._across.T, torch.linalg.cholesky(own)).T

    @cached_property
    def cov(self) -> Tensor:
        """C, (side², side²), float64."""
        eye = torch.eye(self.side**2, dtype=torch.float64)
        return self.stationary(eye.unflatten(1, self.x_shape)).flatten(1)

    @cached_property
    def posterior_cov(self) -> Tensor:
        """The covariance of x given any y, (side², side²), float64."""
        return self.cov - self.gain @ self._across.T

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.stationary(torch.randn(n, *self.x_shape, dtype=torch.float64, generator=generator), 0.5).float()

    def posterior(self, y: Tensor) -> FieldPosterior:
        return FieldPosterior(self, self.check_observation(y))
