r"""Strictly proper scores of draws, by which a generator is fitted.

The energy score of a law q at an outcome x (Gneiting & Raftery 2007, eq. 21, with β = 1)

    S(q, x) = E‖X − x‖ − ½ E‖X − X'‖,    X, X' ~ q independent,

is smallest in expectation over x ~ p for q = p and no other law with a finite mean. From m ≥ 2 draws the pairs of
*different* draws give it without bias:

    Ŝ = 1/m Σ_i ‖X_i − x‖ − 1/(2m(m−1)) Σ_{i≠j} ‖X_i − X_j‖.

(With 1/m² in place of 1/(m(m−1)) a generator would learn a law that is too wide.) Fitting conditional generators by it:
Shen & Meinshausen 2024 ("Engression"); along a diffusion: De Bortoli et al. 2025 ("Distributional diffusion models with
scoring rules").

One norm over a whole image is dull to its details. The energy score of a part of x is proper for the part's marginal
law, and the sum with that of the whole strictly proper for the law of the whole; here parts are square patches that
overlap by half. Those of one pixel give the CRPS of every pixel. Each score is divided by the root of the number of its
coordinates, so that all are of the size of a pixel's error.
"""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from csb.errors import CSBError

_LEAST = 1e-12  # squared norms below have gradient 0, as a norm's subgradient at 0


def norms(x: Tensor, side: int | None = None) -> Tensor:
    """Root mean squares, (N, parts): of x (N, …) as a whole for None, of the square patches of images (N, C, H, W)."""
    square = x.square()
    if side is None:
        square = square.flatten(1).mean(1, keepdim=True)
    else:
        square = nnf.avg_pool2d(square.mean(1, keepdim=True), side, max(1, side // 2)).flatten(1)
    return square.clamp_min(_LEAST).sqrt()


def energy_score(draws: Tensor, x: Tensor, side: int | None = None) -> Tensor:
    """Ŝ of draws (B, m, …), m ≥ 2, at outcomes x (B, …), (B,); of patches of a side, their mean."""
    m = draws.shape[1]
    first, second = torch.triu_indices(m, m, 1, device=draws.device)
    far = norms((draws - x[:, None]).flatten(0, 1), side).unflatten(0, (-1, m)).mean((1, 2))
    apart = norms((draws[:, first] - draws[:, second]).flatten(0, 1), side).unflatten(0, (-1, len(first))).mean((1, 2))
    return far - 0.5 * apart


def check_patches(patches: list[int], z_shape: tuple[int, ...]) -> None:
    """CSBError for a side of patches that states of this shape do not have."""
    largest = min(z_shape[1:]) if len(z_shape) == 3 else 0
    if bad := [side for side in patches if not 1 <= side <= largest]:
        need = f"sides in 1..{largest}" if largest else "[] for vectors"
        raise CSBError(f"distil.patches has {bad[0]}, and states have the shape {z_shape}; give {need}")


def generator_score(draws: Tensor, x: Tensor, patches: list[int]) -> Tensor:
    """The mean of the energy score of the whole and those of the patches of each side, ()."""
    parts = [energy_score(draws, x, side).mean() for side in (None, *patches)]
    return torch.stack(parts).mean()
