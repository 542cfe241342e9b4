"""A linear-Gaussian state-space model, of which the Kalman filter gives the exact law."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from csb.filtering import StateSpace
from csb.process import psd_cholesky, psd_solve


class Gaussian(NamedTuple):
    """N(mean, cov): (d,) and (d, d), float64."""

    mean: Tensor
    cov: Tensor


@dataclass(frozen=True, eq=False)
class LinearGaussianModel(StateSpace):
    """x_n = A x_{n−1} + N(0, Q), y_n = H x_n + N(0, σ² I), and the filter that is exact for it (Kalman 1960).

    Args:
        A: (dx, dx).
        Q: (dx, dx), positive semi-definite; 0 for a state that moves without noise.
        H: (dy, dx).
        start: the law of x before the first forecast; its covariance may be singular too.
        noise_std: σ > 0.
    """

    A: Tensor
    Q: Tensor
    H: Tensor
    start: Gaussian
    noise_std: float = 1.0

    name: ClassVar[str] = "linear_gaussian"

    def __post_init__(self) -> None:
        for field in ("A", "Q", "H"):
            object.__setattr__(self, field, getattr(self, field).double())
        object.__setattr__(self, "start", Gaussian(*(part.double() for part in self.start)))

    @property
    def dx(self) -> int:
        return len(self.A)

    @property
    def dy(self) -> int:
        return len(self.H)

    @staticmethod
    def _noise(cov: Tensor, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn((n, len(cov)), dtype=torch.float64, generator=generator) @ psd_cholesky(cov).T

    def initial(self, n: int, generator: torch.Generator) -> Tensor:
        return self.start.mean + self._noise(self.start.cov, n, generator)

    def forecast(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x @ self.A.T + self._noise(self.Q, len(x), generator)

    def observe(self, x: Tensor) -> Tensor:
        return x @ self.H.T

    def predict(self, law: Gaussian) -> Gaussian:
        """The law N(A m, A C Aᵀ + Q) of the state that follows one of law N(m, C)."""
        return Gaussian(self.A @ law.mean, self.A @ law.cov @ self.A.T + self.Q)

    def condition(self, law: Gaussian, y: Tensor) -> Gaussian:
        """The law of x ~ N(m, C) given y (dy,): N(m + K(y − H m), (I − K H) C (I − K H)ᵀ + σ² K Kᵀ).

        K = C Hᵀ(H C Hᵀ + σ² I)⁻¹; the covariance in Joseph's form, symmetric and positive whatever the rounding.
        """
        noise = self.noise_std**2 * torch.eye(self.dy, dtype=torch.float64)
        gain = psd_solve(self.H @ law.cov @ self.H.T + noise, self.H @ law.cov).T
        keep = torch.eye(self.dx, dtype=torch.float64) - gain @ self.H
        mean = law.mean + gain @ (y - self.H @ law.mean)
        return Gaussian(mean, keep @ law.cov @ keep.T + gain @ noise @ gain.T)

    def kalman(self, y: Tensor) -> list[Gaussian]:
        """The exact law of x_n given y_1..y_n for each row of y (N, dy)."""
        law, found = self.start, []
        for row in y:
            law = self.condition(self.predict(law), row)
            found.append(law)
        return found
