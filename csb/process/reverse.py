r"""Steps of the reverse process from one guess x̂_0 of the data: X_{k−1} ~ N(near·x_k + far·x̂_0, var·I).

In the clock s = −log ᾱ every variance-preserving SDE reads dx = −½ x ds + dW, for β dτ = ds. With Tweedie's score,
∇log p = (√ᾱ x̂_0 − x)/(1−ᾱ) with x̂_0 = E[x_0 | x], its reverse forms, integrated from s_T down to 0, are

- reverse SDE            dx = [−½ x − ∇log p] ds + dW̄          (Anderson 1982; Song et al. 2021, eq. 6)
- probability flow       dx = [−½ x − ½ ∇log p] ds             (Song et al. 2021, eq. 13)

and with u = x/√ᾱ and σ = √((1−ᾱ)/ᾱ), where 2σ dσ = ds/ᾱ, the flow is du/dσ = (u − x̂_0)/σ (Karras et al. 2022, eq. 1
and 3 at σ(t) = t): its linear part is gone. Three discretisations with one x̂_0 a step:

- ancestral: the pinned law X_{k−1} | X_k, X_0 = x̂_0 (Ho et al. 2020, eq. 7), :meth:`Reference.pinned_start`;
- Euler–Maruyama on the reverse SDE, h = s_k − s_{k−1}: x_{k−1} = x_k + h(½ x_k + ∇log p) + √h ε;
- DDIM (Song, Meng & Ermon 2021, eq. 12 and 16): x_{k−1} = √ᾱ_{k−1} x̂_0 + √(1−ᾱ_{k−1}−v) ε̂ + √v ε with v = η² β̃_k and
  ε̂ = (x_k − √ᾱ_k x̂_0)/√(1−ᾱ_k). η = 0 is Euler's step of the flow in σ, η = 1 the ancestral step.

The last step, k = 1, is noiseless in all of them: what is wanted is x_0, not a draw at a noise level.
"""

import torch
from torch import Tensor

from csb.process.grid import Grid
from csb.process.reference import Pinned, Reference


def clock(grid: Grid) -> Tensor:
    """s_k = −log ᾱ_k, (T + 1,), float64, from 0."""
    return -grid.alpha_bar.log()


def noise_ratio(grid: Grid) -> Tensor:
    """σ_k = √((1−ᾱ_k)/ᾱ_k), (T + 1,), float64, from 0; −log σ_k is half the log signal-to-noise ratio λ_k."""
    return ((1 - grid.alpha_bar) / grid.alpha_bar).sqrt()


def euler_maruyama(grid: Grid, k: int) -> Pinned:
    """Euler's step of the reverse SDE in the clock s; ``near`` weighs x_k and ``far`` x̂_0; k in 1..T.

    It is stable where h = s_k − s_{k−1} stays below 4: a long horizon needs more than a handful of steps.
    """
    s, alpha_bar = clock(grid), grid.alpha_bar[k]
    h = s[k] - s[k - 1]
    pull = h / (1 - alpha_bar)
    return Pinned(near=1 + h / 2 - pull, far=pull * alpha_bar.sqrt(), var=h if k > 1 else torch.zeros_like(h))


def ddim(grid: Grid, k: int, eta: float = 0.0) -> Pinned:
    """The DDIM step; η in [0, 1]."""
    alpha_bar, before = grid.alpha_bar[k], grid.alpha_bar[k - 1]
    var = eta**2 * Reference(grid).pinned_start(k).var
    near = ((1 - before - var).clamp_min(0) / (1 - alpha_bar)).sqrt()
    return Pinned(near=near, far=before.sqrt() - near * alpha_bar.sqrt(), var=var)
