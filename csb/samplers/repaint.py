from torch import Tensor

from csb.samplers.base import Fresh, Rounds
from csb.samplers.replacement import ProjectionSampler
from csb.schema import Count


class RePaint(ProjectionSampler):
    r"""Replacement, and jumps back, so that the unseen part hears of the seen (Lugmayr et al. 2022, algorithm 1).

    At k: z'_{k−1} from the unconditional step; its seen part is replaced by a noised copy; and from time to time the
    chain jumps back up by j levels with the reference process and denoises again, U times over
    (:mod:`csb.samplers.diffusion`). (The paper's listing has 1−ᾱ for the deviation of the copy, and β_{t−1} for the
    step from t−1 to t; √(1−ᾱ) and β_t are meant, and built.)

    Jumping back and denoising is one sweep of a Gibbs-like chain. As U → ∞ it forgets where it began and settles at
    p(x | P x), save for what the noise of the seen part hides of z̃, of order 1−ᾱ_k: the lower the first levels of the
    grid, the less is left, and the more sweeps it takes. The algorithm leaves the step's variance open. β̃_k, exact for
    a known x_0, is too small near the data, where the sweeps accumulate it to (1 + β̃_k/β_k)/2 times the right
    variance: so β_k is built. σ is taken for 0.
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
