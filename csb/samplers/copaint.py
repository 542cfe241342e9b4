r"""CoPaint (Zhang et al. 2023, "Towards coherent image inpainting using denoising diffusion implicit models").

At every level the whole state, seen and unseen part together, descends on the approximate log posterior

    φ_k(z) = ‖y − H(x̂_0(z))‖²/(2ξ_k²) + ‖z − z̃_k‖²/(2v_k)

from z̃_k, where the DDIM step has come to: G gradient steps z ← z − λ v_k ∇φ_k(z), then DDIM again. x̂_0(z) stands for
the whole deterministic map from z to z_0; its error falls with k, and so must ξ_k. Only H is needed.

The paper's code sets ξ_k²/v_k by hand. Here ξ_k = ξ s_k with the variance s_k² of :mod:`csb.samplers.likelihood`, and
v_k = ½(1+η²) β̃_{k+1}, v_T = 1 (the prior's): with λ = G = ξ = 1 a level adds v_k ∇log p̃_k(y|z̃_k), and in the limit of
small steps, where DDIM is the reverse SDE with drift ½(1+η²)β_k ∇log p_k and noise η²β_k, that is what turns it into
the one of p(x | y). So for an exact denoiser and likelihood CoPaint reaches the posterior as T → ∞, even with η = 0,
where all randomness is z_T's. Otherwise it is biased, and more gradient steps (MAP instead of a sample) do not fix it.

The learning rate adapts to each sample: a step that would raise φ_k is not taken, and λ is halved for the next (the
paper's code tries again at once, at an unknown number of passes; here a trial is one of the G).
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csb.process import ddim, mix
from csb.samplers.base import Fresh, Rounds, noised
from csb.samplers.diffusion import DiffusionSampler, Guidance
from csb.schema import Count, Positive, Share


class CoPaint(DiffusionSampler):
    name = "copaint"
    label = "CoPaint"
    swept = ("xi", "ξ")
    xi: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """ξ, in units of the likelihood's own deviation s_k; 1 is the derived one, less trusts y more."""
    gradient_steps: Rounds = 1
    """G. A step costs 1 + G forward and G backward passes."""
    learning_rate: Positive = 1.0
    """λ, with which each level begins."""
    eta: Share = 0.0
    """η, the noise of DDIM; 0 is the paper's, 1 the DDPM step."""
    jump_length: Count = 1
    """j of time travel, see csb.samplers.diffusion."""
    resamples: Rounds = 1
    """U of time travel; 1 is none."""

    @property
    def step_passes(self) -> tuple[int, int]:
        return 1 + self.gradient_steps, self.gradient_steps

    def prior_variance(self, k: int) -> float:
        """v_k, k in 1..T."""
        return 1.0 if k == self.grid.T else 0.5 * (1 + self.eta**2) * float(self.reference.pinned_start(k + 1).var)

    def _at(self, z: Tensor, start: Tensor, k: int, y: Tensor, gradient: bool) -> Guidance:
        """φ_k at z, for the start z̃_k, with or without the likelihood's gradient."""
        v, weight = self.prior_variance(k), 1 / self.xi**2
        away = z - start
        prior = away.double().square().flatten(1).sum(1) / (2 * v)
        at = self.guide(z, k, y, gradient=gradient)
        return Guidance(z, at.z_0, prior - weight * at.value, away / v - weight * at.gradient)

    def optimise(self, start: Tensor, k: int, y: Tensor) -> Guidance:
        """Where G gradient steps on φ_k lead to, from z̃_k (N, *x_shape), for y (N, *y_shape): never to a larger φ_k."""
        size = self.learning_rate * self.prior_variance(k)
        rate = torch.full((len(start), *(1,) * (start.ndim - 1)), size, dtype=start.dtype, device=start.device)
        best = self._at(start, start, k, y, True)
        for left in range(self.gradient_steps - 1, -1, -1):
            trial = self._at(best.z - rate * best.gradient, start, k, y, left > 0)
            better = trial.value <= best.value  # False for NaN
            mask = better.reshape(rate.shape)
            best = Guidance(*(torch.where(better if a.ndim == 1 else mask, b, a) for a, b in zip(best, trial)))
            rate = torch.where(mask, rate, rate / 2)
        return best

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        at, law = self.optimise(z, k, y), ddim(self.grid, k, self.eta)
        return noised(mix(law, at.z, at.z_0), law.var, fresh)
