"""RePaint: replacement with jumps back up."""

from torch import Tensor

from csb.samplers.base import Fresh, Rounds
from csb.samplers.projection import ProjectionSampler
from csb.schema import Count


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
