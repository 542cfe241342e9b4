r"""A conditional Schrödinger bridge at every observation, after the filter of Shi et al. 2022 (CDSB).

Pairs (x^m, y^m), x^m a member of the forecast and y^m simulated from the likelihood, are draws of p(x, y). Both are
whitened with their own moments, and a bridge between p(x | y) and N(0, I) is fitted on them, with kernels in closed
form (:mod:`csb.filtering.regression`) instead of networks. L iterations end with a backward half-step:

- backward: from the members x^m to ends x_T (at first of the reference process, later of the forward kernels given
  y^m) lead paths of the reference pinned at both; the backward kernels are fitted to their steps;
- forward: from x_T ~ N(0, I) the backward kernels given y^m lead to x_0, again joined by pinned paths; the forward
  kernels are fitted to their steps.

The analysis is drawn at the actual y*: *draw* goes T backward steps from x_T ~ N(0, I); with *replay* member m goes
back along its own path with its own noise, and y* in place of y^m,

    x'_T = x_T^m,    x'_{k−1} = x_{k−1}^m + b_k(x'_k, y*) − b_k(x_k^m, y^m),    b_k the backward means.

What the regressions do not know of the forecast is kept. For a Gaussian forecast it is the perturbed-observation EnKF,
for y^m and all noise of the paths are uncorrelated in the sample with what they are independent of. The paper's code
goes forward with y^m and back with y* too, with fresh noise.

**Locality.** Any weight on y alone leaves p(x | y) as it is. Of p(x, y)·N(y; y*, τ²σ² I) draws are had at once: x^m
of weight ∝ N(y*; h(x^m), (1 + τ²)σ² I), by systematic resampling, and y^m ~ N((τ² h(x^m) + y*)/(1 + τ²), σ² τ²/(1 +
τ²) I), all near y*, where the bridge is needed. τ = ∞ (None) is the paper's filter; τ → 0 is the bootstrap filter.
"""

import math
from functools import cached_property
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.errors import MOST_DRAWS, MOST_ROUNDS, CSBError
from csb.filtering.filters import Analysis, Filter, resampled
from csb.filtering.models import StateSpace
from csb.filtering.regression import Fourier, Kernels
from csb.filtering.whitening import Whitening, uncorrelated
from csb.process import Grid, Power, Reference, Stream, mix, noise_like, seeded
from csb.process.schedule import Horizon, Steps
from csb.schema import OneOf, Schema


class BridgeFilter(Filter, Schema):
    """See the module's docstring. CSBError on a call with no more members than features."""

    name: ClassVar[str] = "bridge"

    T: Steps = Field(default=4, description="steps")
    L: int = Field(default=2, ge=1, le=MOST_ROUNDS, description="iterations")
    alpha_bar_end: Horizon = Field(default=0.1, description="the horizon")
    power: float = Field(default=2.0, gt=0, lt=20, description="of the schedule")
    features: int = Field(default=32, ge=0, le=MOST_DRAWS, description="beside the coordinates; 0: affine kernels")
    width: float = Field(default=4.0, ge=1e-3, description="ℓ of their kernel, in standard deviations")
    locality: Annotated[float, Field(ge=1e-3)] | None = None
    """τ, or None."""
    way: Annotated[str, OneOf(("replay", "draw"))] = "replay"
    """How the analysis is drawn."""

    @cached_property
    def reference(self) -> Reference:
        return Reference(Grid.from_schedule(Power(alpha_bar_end=self.alpha_bar_end, power=self.power), self.T))

    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        x, seen, share = self._pairs(model, x, y, generator)
        if len(x) <= 1 + model.dx + model.dy + self.features:
            raise CSBError(f"M={len(x)} members cannot fit {self.features} features; give more members or features=0")
        of_x, of_y = Whitening(x), Whitening(seen)
        z, v, target = of_x(x), of_y(seen), of_y(y[None])
        path, backward = self._fit(z, v, generator)
        new = path[-1] if self.way == "replay" else noise_like(z, generator)
        for k in range(self.T, 0, -1):
            if self.way == "replay":
                new = path[k - 1] + backward.mean(k, new, target) - backward.fitted[k - 1]
            else:
                new = backward.draw(k, new, target, generator)
        return Analysis(of_x.inverse(new), {"freedom": float(backward.freedom.mean()), "ess": share})

    def _pairs(
        self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, float]:
        """M pairs (x, y), and the effective number of members among them."""
        h = model.observe(x)
        if self.locality is None:
            noise = model.noise_std * uncorrelated(h, (x, h), generator)
            return x, h + noise, float(len(x))
        square = self.locality**2
        chosen, effective = resampled(model.log_likelihood(y, x) / (1 + square), generator)
        x, h = x[chosen], h[chosen]
        noise = model.noise_std * math.sqrt(square / (1 + square)) * uncorrelated(h, (x, h), generator)
        return x, (square * h + y) / (1 + square) + noise, effective

    def _joined(self, x_0: Tensor, x_T: Tensor, v: Tensor, generator: torch.Generator) -> Tensor:
        """Paths of the reference from x_0 to x_T, both (M, d): (T + 1, M, d). v (M, m) plays no part in their law."""
        path = [x_0]
        for k in range(1, self.T):
            law = self.reference.pinned_end(k)
            noise = uncorrelated(x_0, (v, x_T, *path), generator)
            path.append(mix(law, path[-1], x_T) + law.var.sqrt() * noise)
        return torch.stack([*path, x_T])

    def _fit(self, z: Tensor, v: Tensor, generator: torch.Generator) -> tuple[Tensor, Kernels]:
        """The paths of the last backward half-step from z (M, d) given v (M, m), and its kernels."""
        features = Fourier.of(z.shape[1] + v.shape[1], self.features, self.width, seeded(0, Stream.FILTER_FEATURES))
        k = torch.arange(1, self.T + 1)
        back, forth = self.reference.pinned_start(k), self.reference.pinned_end(k)
        law = self.reference.marginal(self.T)
        ends = law.scale * z + law.var.sqrt() * uncorrelated(z, (z, v), generator)
        path = self._joined(z, ends, v, generator)
        backward = Kernels(back, features, path[1:], v, z)
        for _ in range(self.L - 1):
            start = noise = uncorrelated(z, (v,), generator)
            for step in range(self.T, 0, -1):
                start = backward.draw(step, start, v, generator)
            forward = Kernels(forth, features, self._joined(start, noise, v, generator)[:-1], v, noise)
            ends = z
            for step in range(1, self.T + 1):
                ends = forward.draw(step, ends, v, generator)
            path = self._joined(z, ends, v, generator)
            backward = Kernels(back, features, path[1:], v, z)
        return path, backward
