"""What a filter is, forecast members and an observation in, members of the analysis out; and the classical filters."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from csb.errors import CSBError
from csb.filtering.models import StateSpace
from csb.filtering.whitening import spread
from csb.numbers import as_numbers
from csb.process import noise_like, psd_solve
from csb.process.resampling import effective_sample_size, normalised, systematic
from csb.schema import Schema

_FAR = 1e6  # standard deviations of the forecast, from which on an analysis is none


class Analysis(NamedTuple):
    """The analysis ensemble x (M, dx), equally weighted, and numbers by name, the same names in every cycle."""

    x: Tensor
    diagnostics: dict[str, float]


class Filter(ABC):
    """One assimilation; it knows nothing of the cycles before."""

    name: ClassVar[str]

    def __call__(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        """Draw from the analysis.

        Args:
            model: gives h and the noise of y.
            x: (M, dx), M ≥ 2 draws of the forecast; computed with, and given back, as float64 whatever its dtype.
            y: (dy,), the observation.
            generator: of all that is random.

        Raises:
            CSBError: M < 2, shapes that do not fit the model, members or y that are not finite, before or after; an
                analysis a million standard deviations of the forecast, or more, away from it.
        """
        x, y = as_numbers("x", x).double(), as_numbers("y", y).double()
        if x.ndim != 2 or x.shape[1] != model.dx or y.shape != (model.dy,) or len(x) < 2:
            raise CSBError(
                f"members {tuple(x.shape)} and y {tuple(y.shape)} do not fit {model.name}; expected (M, {model.dx}) "
                f"and ({model.dy},), with M ≥ 2, better hundreds"
            )
        if not bool(x.isfinite().all() and y.isfinite().all()):
            raise CSBError(
                "forecast members or y are not finite: leave out what was not observed; where the filter diverged, use "
                "more members, inflation or less dt"
            )
        found, std = self._analyse(model, x, y, generator), spread(x)
        far = ((found.x - x.mean(0)).abs() / torch.where(std > 0, std, torch.inf)).max()
        if not bool(found.x.isfinite().all()) or not bool(far < _FAR):
            raise CSBError(
                f"{self.name} gave members that are {float(far):.1e} standard deviations of the forecast away from it: "
                f"it diverged; use more members or inflation, or check y and the forecast"
            )
        return found

    @abstractmethod
    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        """As :meth:`__call__`, for checked arguments."""


def resampled(log_weights: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Members (M,) drawn by log-weights (M,), systematically, as indices; and the effective number of them."""
    u = torch.rand((1, 1), dtype=torch.float64, generator=generator)
    chosen = systematic(log_weights[None], u.expand(1, len(log_weights)))[0]
    return chosen, float(effective_sample_size(log_weights[None]))


def gaspari_cohn(distance: Tensor, c: float) -> Tensor:
    """The correlation function of Gaspari & Cohn 1999 (eq. 4.10) of distances of any shape: 1 at 0, 0 from 2c on."""
    z = distance / c
    near = 1 - 5 / 3 * z**2 + 5 / 8 * z**3 + z**4 / 2 - z**5 / 4
    far = 4 - 5 * z + 5 / 3 * z**2 + 5 / 8 * z**3 - z**4 / 2 + z**5 / 12 - 2 / (3 * z.clamp_min(1))
    return torch.where(z <= 1, near, torch.where(z < 2, far, torch.zeros_like(z)))


class EnKF(Filter, Schema):
    """The ensemble Kalman filter with perturbed observations (Evensen 1994; Burgers, van Leeuwen & Evensen 1998).

    x^m ← x^m + K(y − y^m) with y^m = h(x^m) + σ ε and K = C_xh (C_hh + σ² I)⁻¹ of the members' covariances. For a
    Gaussian forecast and linear h it draws from the exact posterior as M → ∞.

    CSBError on a call with localisation for a model without distances.
    """

    name: ClassVar[str] = "enkf"

    inflation: Annotated[float, Field(ge=1)] = 1.0
    """λ, by which members are first spread about their mean (Anderson & Anderson 1999)."""
    localisation: Annotated[float, Field(ge=1e-6)] | None = None
    """c in the unit of the model's distances, or None. C_xh and C_hh are tapered by :func:`gaspari_cohn`, for few
    members see correlations between far coordinates where there are none (Houtekamer & Mitchell 2001)."""

    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        mean = x.mean(0)
        x = mean + self.inflation * (x - mean)
        h = model.observe(x)
        dx, dh = x - mean, h - h.mean(0)
        C_xh, C_hh = dx.T @ dh / (len(x) - 1), dh.T @ dh / (len(x) - 1)
        if self.localisation is not None:
            taper = gaspari_cohn(model.distance(), self.localisation)
            C_xh, C_hh = C_xh * taper, C_hh * taper
        noise = model.noise_std**2 * torch.eye(model.dy, dtype=x.dtype)
        gain = psd_solve(C_hh + noise, C_xh.T)
        perturbed = h + model.noise_std * noise_like(h, generator)
        return Analysis(x + (y - perturbed) @ gain, {"gain": float(gain.norm())})


class Bootstrap(Filter, Schema):
    """The bootstrap particle filter (Gordon, Salmond & Smith 1993): weigh the forecast by p(y | x), resample.

    Exact as M → ∞ for any forecast and likelihood; resampling is systematic. Copies of one member part only by the
    noise of the model; where that is small, the particles of a finite ensemble become few. *Regularisation* (Musso,
    Oudjane & Le Gland 2001) draws x + b·N(0, C) in place of copies, C the weighted covariance and b =
    factor·(4/(M(d + 2)))^{1/(d + 4)}, Silverman's bandwidth for factor 1, and shrinks the members about their mean by
    1/√(1 + b²) to keep the covariance (West 1993). It vanishes as M → ∞.
    """

    name: ClassVar[str] = "bootstrap"

    regularisation: float = Field(default=0.0, ge=0, description="the factor; 0 leaves copies as they are")

    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        M, d = x.shape
        log_weights = model.log_likelihood(y, x)
        ancestors, ess = resampled(log_weights, generator)
        chosen = x[ancestors]
        if self.regularisation:
            w = normalised(log_weights[None])[0]
            mean = w @ x
            values, vectors = torch.linalg.eigh((x - mean).T @ (w[:, None] * (x - mean)))
            bandwidth = self.regularisation * (4 / (M * (d + 2))) ** (1 / (d + 4))
            noise = noise_like(x, generator) * values.clamp_min(0).sqrt() @ vectors.T
            chosen = mean + (chosen - mean + bandwidth * noise) / (1 + bandwidth**2) ** 0.5
        return Analysis(chosen, {"ess": ess, "ancestors": float(len(ancestors.unique()))})
