r"""Time travel: from some levels of the grid the chain jumps back up with the reference process and comes down again.

From the levels m = 1, 1 + j, 1 + 2j, … ≤ T − j the chain jumps to m + j, U − 1 times each, so that every stretch of j
steps is taken U times (Lugmayr et al. 2022, §4.2 and appendix B: jump length j, U resamples; j = 1 is their algorithm
1). The level 0 of the data is never left. A jump is one draw of X_{m+j} | X_m ~ N(√r x, (1−r) I), r = ᾱ_{m+j}/ᾱ_m: the
law of j steps of the reference process. The chain takes T + (U−1)·j·⌊(T−1)/j⌋ downward steps.
"""

from itertools import pairwise

from torch import Tensor

from csb.errors import MOST_ROUNDS, CSBError, require_int
from csb.process import Grid, Noise, expand


def check_travel(method: str, T: int, jump_length: int, resamples: int) -> None:
    """CSBError unless both are integers of at least 1 and a jump fits in the T steps (j < T, or j = 1)."""
    require_int(f"jump_length of {method}", jump_length, 1)
    require_int(f"resamples of {method}", resamples, 1, MOST_ROUNDS)
    if jump_length > max(T - 1, 1):
        raise CSBError(
            f"jump_length={jump_length} of {method} does not fit in T={T} steps; give at most {max(T - 1, 1)}"
        )


def levels(T: int, jump_length: int, resamples: int) -> list[int]:
    """The levels that are visited, from T to 0: each is one below the last, or a jump above it."""
    left = {m: resamples - 1 for m in range(1, T - jump_length + 1, jump_length)}
    path, k = [T], T
    while k > 0:
        if left.get(k, 0) > 0:
            left[k] -= 1
            k += jump_length
        else:
            k -= 1
        path.append(k)
    return path


def steps(path: list[int]) -> int:
    """How many of the moves of a path go down: one denoising each."""
    return sum(b < a for a, b in pairwise(path))


def climb(z: Tensor, low: int, high: int, grid: Grid, n: int, noise: Noise) -> Tensor:
    """A draw of the reference process at level ``high`` given z (B·n, …) at ``low`` < ``high``."""
    r = grid.alpha_bar[high] / grid.alpha_bar[low]
    return expand(r.sqrt(), z) * z + expand((1 - r).sqrt(), z) * noise.normal(n, *z.shape[1:])
