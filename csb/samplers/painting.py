r"""What replacement, RePaint and ILVR share: operators with A A* = c I, whose P = A*A/c projects onto what is observed.

Given y = A x + σε, A*y/c stands for P x (σ is taken for 0), and z̃ = (A*y/c − P shift)/scale for P z_0. The seen part of
a state at level k is put in place by a noised copy, z ← (I − P) z + P(√ᾱ_k z̃ + √(1−ᾱ_k) ε).
"""

from typing import Any

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.process import expand
from csb.samplers.base import Fresh, Rounds, noised
from csb.samplers.linear import LinearSampler
from csb.schema import Count, Share


class ProjectionSampler(LinearSampler):
    """A sampler that replaces the seen part P z of its states. CSBError where A*A is no multiple of a projection."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        probe = torch.randn((2, *self.x_shape), dtype=torch.float32, generator=torch.Generator().manual_seed(0))
        seen = self.operator(probe)
        again = self.operator(self.operator.adjoint(seen))
        self.c = float((again * seen).sum() / (seen * seen).sum())
        if not torch.allclose(again, self.c * seen, atol=1e-4 * float(seen.abs().max())):
            raise CSBError(
                f"A A* of {self.problem.name} is not a multiple of the identity; {self.label} cannot be used"
            )

    def project(self, x: Tensor) -> Tensor:
        """P x, (N, *x_shape)."""
        return self.operator.adjoint(self.operator(x)) / self.c

    def observed(self, y: Tensor) -> Tensor:
        """z̃ = P z̃, (B, *x_shape)."""
        known = self.operator.adjoint(y) / self.c - self.project(self.denoiser.shift[None])
        return known / self.denoiser.scale

    def replaced(self, z: Tensor, known: Tensor, k: int, fresh: Fresh) -> Tensor:
        """z (N, *x_shape) at level k in 0..T, with its seen part noised from z̃; at k = 0 it is z̃ itself."""
        if k == 0:
            return z + known - self.project(z)
        law = self.reference.marginal(k)
        there = noised(expand(law.scale, z) * known, law.var, fresh)
        return z + self.project(there - z)

    def descend(self, z: Tensor, k: int, fresh: Fresh, wide: bool = False) -> Tensor:
        """A draw of the unconditional step from level k, of variance β̃_k, or β_k if wide; the last has none."""
        mean, var = self.unconditional(z, self.denoise(z, k), k)
        return noised(mean, self.grid.beta[k] if wide and k > 1 else var, fresh)


class Replacement(ProjectionSampler):
    r"""What y says of z_k is put in place before every step (Song et al. 2021, appendix I.2; Ho et al. 2022).

    At k = T..1: z_k ← (I − P) z_k + P(√ᾱ_k z̃ + √(1−ᾱ_k) ε), then
    the unconditional step; at last P z_0 = z̃. The other coordinates learn of y through the denoiser only: the samples
    are not from the posterior, for no step looks back (Trippe et al. 2023).
    """

    name = "replacement"
    label = "replacement"

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        z = self.descend(self.replaced(z, y, k, fresh), k, fresh)
        return z if k > 1 else self.replaced(z, y, 0, fresh)


class RePaint(ProjectionSampler):
    r"""Replacement, and jumps back, so that the unseen part hears of the seen (Lugmayr et al. 2022, algorithm 1).

    At k: z'_{k−1} from the unconditional step; its seen part is replaced by a noised copy; and from time to time the
    chain jumps back up by j levels with the reference process and denoises again, U times over
    (:mod:`csb.samplers.diffusion`). (The paper's listing has 1−ᾱ for the deviation of
    the copy, and β_{t−1} for the step from t−1 to t; √(1−ᾱ) and β_t are meant, and built.)

    Why it helps. Without jumps a step draws the unseen part u_{k−1} from p(u_{k−1} | z_k) and never again. Jumping back
    and denoising is one sweep of a Gibbs-like chain: u_k | u_{k−1} from the reference, the seen part s_k afresh given
    y, and u_{k−1} | u_k, s_k from the denoiser. As U → ∞ it forgets where it began. Its stationary law is that of
    u_{k−1} | y, save for what the noise of s_k hides of z̃, of order 1−ᾱ_k: the lower the first levels of the grid, the
    less is left. But the lower the level, the smaller β_k against the posterior's variance, and the more sweeps it
    takes.

    The variance of the step. The algorithm leaves σ_k open. β̃_k, exact for a known x_0, is too small for an unknown
    one: a bias of one step, but one that the sweeps of a level accumulate. Near the data, where the last sweeps are,
    z_{k−1} | z_k has the variance β_k up to O(β_k²), and with β̃_k the chain settles at a variance (1 + β̃_k/β_k)/2
    times the right one. So σ_k² = β_k is built, which is also right for N(0, I). σ is taken for 0.
    """

    name = "repaint"
    label = "RePaint"
    swept = ("jump_length", "j")
    jump_length: Count = 1
    """j, levels a jump, in 1..T−1."""
    resamples: Rounds = 10
    """U, how often each stretch of j steps is taken. The cost is T + (U−1)·j·⌊(T−1)/j⌋ passes."""

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        return self.replaced(self.descend(z, k, fresh, wide=True), y, k - 1, fresh)


class ILVR(ProjectionSampler):
    r"""Iterative latent variable refinement (Choi et al. 2021, algorithm 1).

    After the unconditional step z'_{k−1} the low frequencies are those of the noised observation,

        z_{k−1} = z'_{k−1} + φ(y_{k−1}) − φ(z'_{k−1}),   y_{k−1} = √ᾱ_{k−1} z̃ + √(1−ᾱ_{k−1}) ε.

    φ is the low-pass filter: here P = A*A/c. For super-resolution by averaging P
    takes the mean of each block and spreads it over the block: that is ILVR as published, with that φ. (A φ that is no
    projection, e.g. bicubic down and up, does not fit y = A x and is not built.)

    Against replacement: ILVR conditions *after* a step, at levels T−1..0, replacement *before* it, at levels T..1 and
    once more at 0. With every step conditioned, the two differ in z_T alone, whose seen part is N(0, I) here and N(√ᾱ_T
    z̃, (1−ᾱ_T) I) there: nothing on a long horizon. What ILVR adds is the range of steps: those with k/T < ``until``,
    near the data, are left to the prior, so that the samples need not repeat the noise σ of y, which P takes for 0.
    """

    name = "ilvr"
    label = "ILVR"
    swept = ("until", "b")
    until: Share = 0.0
    """The steps k ≥ until·T are conditioned; 0 for all of them. (The paper's range "from T to b".)"""

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        z = self.descend(z, k, fresh)
        return self.replaced(z, y, k - 1, fresh) if k >= self.until * self.grid.T else z
