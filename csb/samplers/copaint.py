r"""CoPaint (Zhang et al. 2023, "Towards coherent image inpainting using denoising diffusion implicit models").

At every level the whole state, seen and unseen part together, descends on the approximate log posterior

    φ_k(z) = ‖y − H(x̂_0(z))‖²/(2ξ_k²) + ‖z − z̃_k‖²/(2v_k)

from z̃_k, where the DDIM step (Song, Meng & Ermon 2021, eq. 12) has come to: G gradient steps, then DDIM again,

    z̃_{k−1} = √ᾱ_{k−1} x̂_0 + √(1−ᾱ_{k−1}−η²β̃_k) (z_k − √ᾱ_k x̂_0)/√(1−ᾱ_k) + η√β̃_k ε.

x̂_0(z) stands for the whole deterministic map from z to z_0; its error falls with k, and so must ξ_k. Only H is needed.

The scales. The paper's code sets ξ_k²/v_k by hand (0.01·1.01^(T−k)), for images in [−1, 1]. Here ξ_k = ξ s_k with the
variance s_k² of :mod:`csb.samplers.likelihood`, and v_k = ½(1+η²) β̃_{k+1}, v_T = 1 (the prior's). A gradient step is
z ← z − λ v_k ∇φ_k(z), so that λ = 1 solves φ_k where the likelihood is flat. Why these: with λ = G = ξ = 1
z_k = z̃_k + v_k ∇log p̃_k(y|z̃_k). In the limit of small steps DDIM is the reverse SDE with drift ½(1+η²)β_k ∇log p_k
and noise η²β_k, which keeps the marginals p_k for every η; and ½(1+η²)β_k ∇log p_k(y|z) is what turns it into that of
p(x | y). So for an exact denoiser and likelihood CoPaint reaches the posterior as T → ∞, even with η = 0, where all
randomness is z_T's. Otherwise it is biased, and more gradient steps (MAP instead of a sample) do not fix that.

The learning rate adapts to each sample: a step that would raise φ_k is not taken, and λ is halved for the next (the
paper's code multiplies by 0.8 and tries again at once, at an unknown number of passes; here a trial is one of the G).
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from csb.errors import MOST_ROUNDS, CSBError, is_number, require_int
from csb.process import Noise, ddim, mix
from csb.samplers.base import Draws
from csb.samplers.diffusion import DiffusionSampler, require_eta
from csb.samplers.travel import check_travel, climb, levels, steps


class Point(NamedTuple):
    """States z (N, …), x̂_0 there in z's units, φ (N,), float64, and ∇φ, zero where nobody asked for it."""

    z: Tensor
    z_0: Tensor
    value: Tensor
    gradient: Tensor


class CoPaint(DiffusionSampler):
    """See the module's docstring.

    Args:
        xi: ξ > 0, in units of the likelihood's own deviation s_k; 1 is the derived one, less trusts y more.
        gradient_steps: G ≥ 1. A step costs 1 + G forward and G backward passes.
        learning_rate: λ > 0, with which each level begins.
        eta: η in [0, 1], the noise of DDIM; 0 is the paper's, 1 the DDPM step.
        jump_length, resamples: time travel, see :mod:`csb.samplers.travel`; resamples = 1 is none.
        **settings: see :class:`DiffusionSampler`.
    """

    name = "copaint"
    label = "CoPaint"
    swept = ("xi", "ξ")

    def __init__(
        self,
        *args: Any,
        xi: float = 1.0,
        gradient_steps: int = 1,
        learning_rate: float = 1.0,
        eta: float = 0.0,
        jump_length: int = 1,
        resamples: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        require_int("gradient_steps of CoPaint", gradient_steps, 1, MOST_ROUNDS)
        for name, value in (("xi", xi), ("learning_rate", learning_rate)):
            if not is_number(value) or not 0 < value < math.inf:
                raise CSBError(f"{name}={value!r} of CoPaint is not a finite number above 0; try 0.3, 1 or 3")
        check_travel(self.label, self.grid.T, jump_length, resamples)
        self.xi, self.gradient_steps, self.learning_rate = xi, gradient_steps, learning_rate
        self.eta = require_eta(eta, self.label)
        self.path = levels(self.grid.T, jump_length, resamples)

    def prior_variance(self, k: int) -> float:
        """v_k, k in 1..T."""
        return 1.0 if k == self.grid.T else 0.5 * (1 + self.eta**2) * float(self.reference.pinned_start(k + 1).var)

    def _at(self, z: Tensor, start: Tensor, k: int, y: Tensor, gradient: bool) -> Point:
        """φ_k at z, for the start z̃_k and y (N, *y_shape), with or without its gradient."""
        v, weight = self.prior_variance(k), 1 / self.xi**2
        away = z - start
        prior = away.double().square().flatten(1).sum(1) / (2 * v)
        if gradient:
            at = self.guide(z, k, y, self.likelihood.log_prob)
            return Point(z, at.z_0, prior - weight * at.value, away / v - weight * at.gradient)
        z_0 = self.denoise(z, k)
        value = self.likelihood.log_prob(y, self.denoiser.decode(z_0), float(self.grid.alpha_bar[k]))
        return Point(z, z_0, prior - weight * value, torch.zeros_like(z))

    def optimise(self, start: Tensor, k: int, y: Tensor) -> Point:
        """Where G gradient steps on φ_k lead to, from z̃_k (N, *x_shape), for y (N, *y_shape): never to a larger φ_k."""
        size = self.learning_rate * self.prior_variance(k)
        rate = torch.full((len(start), *(1,) * (start.ndim - 1)), size, dtype=start.dtype, device=start.device)
        best = self._at(start, start, k, y, True)
        for left in range(self.gradient_steps - 1, -1, -1):
            trial = self._at(best.z - rate * best.gradient, start, k, y, left > 0)
            better = trial.value <= best.value  # False for NaN
            mask = better.reshape(rate.shape)
            best = Point(
                *(torch.where(better if a.ndim == 1 else mask, b, a) for a, b in zip(best, trial, strict=True))
            )
            rate = torch.where(mask, rate, rate / 2)
        return best

    def _ddim(self, at: Point, k: int, n: int, noise: Noise) -> Tensor:
        """z̃_{k−1}."""
        law = ddim(self.grid, k, self.eta)
        z = mix(law, at.z, at.z_0)
        return z + float(law.var) ** 0.5 * noise.normal(n, *self.x_shape) if float(law.var) > 0 else z

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        each, z = y.repeat_interleave(n, 0), noise.normal(n, *self.x_shape)
        for k, to in pairwise(self.path):
            z = climb(z, k, to, self.grid, n, noise) if to > k else self._ddim(self.optimise(z, k, each), k, n, noise)
        taken, G = steps(self.path), self.gradient_steps
        return Draws(self.finish(z, y, n), taken * (1 + G), taken * G)
