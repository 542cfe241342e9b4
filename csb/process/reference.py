r"""The reference process: its step, its marginal and its pinned laws, and steps of its reversal.

All laws are isotropic Gaussians whose mean is linear in the states that are given:

- step           X_k | X_{k−1} ~ N(√(1−β_k) x_{k−1}, β_k I)
- marginal       X_k | X_0 ~ N(√ᾱ_k x_0, (1−ᾱ_k) I)
- pinned_start   X_{k−1} | X_k, X_0 ~ N([√ᾱ_{k−1} β_k x_0 + √(1−β_k)(1−ᾱ_{k−1}) x_k]/(1−ᾱ_k), β_k(1−ᾱ_{k−1})/(1−ᾱ_k) I)
- pinned_end     X_k | X_{k−1}, X_T ~ N([√(1−β_k)(1−r_k) x_{k−1} + √r_k β_k x_T]/(1−r_{k−1}), β_k(1−r_k)/(1−r_{k−1}) I)
- pinned_both    X_k | X_0, X_T ~ N([√ᾱ_k(1−r_k) x_0 + √r_k(1−ᾱ_k) x_T]/(1−ᾱ_T), (1−ᾱ_k)(1−r_k)/(1−ᾱ_T) I)

with r_k = ᾱ_T/ᾱ_k. ``pinned_start`` is the DDPM posterior (Ho et al. 2020, eq. 7); ``pinned_end`` is the same law on
the mirrored grid, because the process is reversible with respect to N(0, I).

Steps of the reverse process from one guess x̂_0 of the data are X_{k−1} ~ N(near·x_k + far·x̂_0, var·I). In the clock
s = −log ᾱ every variance-preserving SDE reads dx = −½ x ds + dW, for β dτ = ds. With Tweedie's score, ∇log p =
(√ᾱ x̂_0 − x)/(1−ᾱ) with x̂_0 = E[x_0 | x], its reverse forms, integrated from s_T down to 0, are

- reverse SDE            dx = [−½ x − ∇log p] ds + dW̄          (Anderson 1982; Song et al. 2021, eq. 6)
- probability flow       dx = [−½ x − ½ ∇log p] ds             (Song et al. 2021, eq. 13)

and with u = x/√ᾱ and σ = √((1−ᾱ)/ᾱ), where 2σ dσ = ds/ᾱ, the flow is du/dσ = (u − x̂_0)/σ (Karras et al. 2022, eq. 1
and 3 at σ(t) = t): its linear part is gone. The ancestral step is ``pinned_start`` with x̂_0 in the place of x_0; the
others are :func:`euler_maruyama` and :func:`ddim`. The last step, k = 1, is noiseless in all of them: what is wanted is
x_0, not a draw at a noise level.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from csb.process.random import noise_like
from csb.process.schedule import Grid

Step = int | Tensor


class Linear(NamedTuple):
    """N(scale·x, var·I). Both are float64, of the shape of the step index."""

    scale: Tensor
    var: Tensor

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw at x (B, …)."""
        return expand(self.scale, x) * x + expand(self.var, x).sqrt() * noise_like(x, generator)


class Pinned(NamedTuple):
    """N(near·x_near + far·x_far, var·I), float64: ``near`` weighs the neighbouring state (for ``pinned_both`` x_0)."""

    near: Tensor
    far: Tensor
    var: Tensor

    def draw(self, near: Tensor, far: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw at the two given states, each (B, …)."""
        return mix(self, near, far) + expand(self.var, near).sqrt() * noise_like(near, generator)


def expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """A coefficient of shape () or (B,) in the dtype and on the device of ``like`` (B, …), ready to multiply it."""
    coefficient = coefficient.to(device=like.device, dtype=like.dtype)
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.reshape(coefficient.shape + (1,) * (like.ndim - coefficient.ndim))


def repeated(x: Tensor, n: int) -> Tensor:
    """Each of x (B, …) n times, side by side, as ``repeat_interleave``, which has no sum for a gradient: (B·n, …)."""
    return x[:, None].expand(-1, n, *x.shape[1:]).flatten(0, 1)


def mix(law: Pinned, near: Tensor, far: Tensor) -> Tensor:
    """The mean of a pinned law at the two given states, (B, …)."""
    return expand(law.near, near) * near + expand(law.far, far) * far


class Reference:
    """The laws of the reference process on a grid. ``k`` is a step in 1..T: an integer or a LongTensor (B,)."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._alpha_bar = grid.alpha_bar
        self._beta = grid.beta
        self._rest = 1 - grid.alpha_bar  # 1 − ᾱ_k
        self._r = grid.alpha_bar[-1] / grid.alpha_bar  # r_k

    def step(self, k: Step) -> Linear:
        """X_k | X_{k−1}."""
        beta = self._beta[k]
        return Linear((1 - beta).sqrt(), beta)

    def marginal(self, k: Step) -> Linear:
        """X_k | X_0; k = 0 is allowed and gives scale 1, variance 0."""
        return Linear(self._alpha_bar[k].sqrt(), self._rest[k])

    def pinned_start(self, k: Step) -> Pinned:
        """X_{k−1} | X_k (near), X_0 (far)."""
        beta, rest, rest_prev = self._beta[k], self._rest[k], self._rest[k - 1]
        return Pinned(
            near=(1 - beta).sqrt() * rest_prev / rest,
            far=self._alpha_bar[k - 1].sqrt() * beta / rest,
            var=beta * rest_prev / rest,
        )

    def pinned_end(self, k: Step) -> Pinned:
        """X_k | X_{k−1} (near), X_T (far)."""
        beta, open_, open_prev = self._beta[k], 1 - self._r[k], 1 - self._r[k - 1]
        return Pinned(
            near=(1 - beta).sqrt() * open_ / open_prev,
            far=self._r[k].sqrt() * beta / open_prev,
            var=beta * open_ / open_prev,
        )

    def pinned_both(self, k: Step) -> Pinned:
        """X_k | X_0 (near), X_T (far); k may be 0..T."""
        rest, open_, whole = self._rest[k], 1 - self._r[k], self._rest[-1]
        return Pinned(
            near=self._alpha_bar[k].sqrt() * open_ / whole,
            far=self._r[k].sqrt() * rest / whole,
            var=rest * open_ / whole,
        )


def euler_maruyama(grid: Grid, k: int) -> Pinned:
    """Euler's step of the reverse SDE, h = s_k − s_{k−1}: x_{k−1} = x_k + h(½ x_k + ∇log p) + √h ε; k in 1..T.

    It is stable for h < 4: a long horizon needs more than a handful of steps.
    """
    s, alpha_bar = grid.clock, grid.alpha_bar[k]
    h = s[k] - s[k - 1]
    pull = h / (1 - alpha_bar)
    return Pinned(near=1 + h / 2 - pull, far=pull * alpha_bar.sqrt(), var=h if k > 1 else torch.zeros_like(h))


def ddim(grid: Grid, k: int, eta: float = 0.0) -> Pinned:
    """The DDIM step (Song, Meng & Ermon 2021, eq. 12 and 16), η in [0, 1].

    x_{k−1} = √ᾱ_{k−1} x̂_0 + √(1−ᾱ_{k−1}−v) ε̂ + √v ε with v = η² β̃_k and ε̂ = (x_k − √ᾱ_k x̂_0)/√(1−ᾱ_k). η = 0 is
    Euler's step of the flow in σ, η = 1 the ancestral step.
    """
    alpha_bar, before = grid.alpha_bar[k], grid.alpha_bar[k - 1]
    var = eta**2 * Reference(grid).pinned_start(k).var
    near = ((1 - before - var).clamp_min(0) / (1 - alpha_bar)).sqrt()
    return Pinned(near=near, far=before.sqrt() - near * alpha_bar.sqrt(), var=var)
