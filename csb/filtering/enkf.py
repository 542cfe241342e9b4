r"""The ensemble Kalman filter with perturbed observations (Evensen 1994; Burgers, van Leeuwen & Evensen 1998).

Every member is moved by the gain of the ensemble's covariances, towards the observation and away from one simulated
from itself: x^m ← x^m + K(y − y^m), y^m = h(x^m) + σ ε, K = C_xh (C_hh + σ² I)⁻¹ with C_xh, C_hh the covariances of
(x, h(x)) over members. For a Gaussian forecast and linear h it draws from the exact posterior as M → ∞.

- inflation: members are first spread about their mean by a factor λ ≥ 1 (Anderson & Anderson 1999).
- localisation: C_xh and C_hh are multiplied, element by element, by a taper ρ of the distance that is 0 beyond 2c: few
  members see correlations between far coordinates where there are none (Houtekamer & Mitchell 2001). ρ is the
  fifth-order function of Gaspari & Cohn 1999 (eq. 4.10), a correlation function itself.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.filtering.base import Analysis, Filter
from csb.filtering.model import StateSpace
from csb.process import psd_solve
from csb.schema import Schema


def gaspari_cohn(distance: Tensor, c: float) -> Tensor:
    """ρ of distances of any shape: 1 at 0, 0 from 2c on."""
    z = distance / c
    near = 1 - 5 / 3 * z**2 + 5 / 8 * z**3 + z**4 / 2 - z**5 / 4
    far = 4 - 5 * z + 5 / 3 * z**2 + 5 / 8 * z**3 - z**4 / 2 + z**5 / 12 - 2 / (3 * z.clamp_min(1))
    return torch.where(z <= 1, near, torch.where(z < 2, far, torch.zeros_like(z)))


class EnKF(Filter, Schema):
    """See the module's docstring. CSBError on a call with localisation for a model without distances."""

    name: ClassVar[str] = "enkf"

    inflation: float = Field(default=1.0, ge=1, description="λ")
    localisation: Annotated[float, Field(ge=1e-6)] | None = None
    """c in the unit of the model's distances, or None."""

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
        perturbed = h + model.noise_std * torch.randn(h.shape, dtype=h.dtype, generator=generator)
        return Analysis(x + (y - perturbed) @ gain, {"gain": float(gain.norm())})
