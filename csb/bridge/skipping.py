r"""Fewer steps than the grid has: what a kernel says of the far end of its path, and skips drawn from it.

Backward kernels first. Let π be a path law in the reciprocal class of the reference process: given its two ends, and so
given X_0 and X_k, it is the pinned reference. Then with the pinned step N(near·x_k + far·x_0, β̃ I) of
:mod:`csb.process.reference`

    π(x_{k−1} | x_k) = ∫ N(x_{k−1}; near·x_k + far·x_0, β̃ I) π(x_0 | x_k) dx_0,

a law of far·X_0 plus noise that is known. A Gaussian kernel N(m, Σ) thereby implies

    E[X_0 | x_k] = (m − near·x_k)/far,    Cov(X_0 | x_k) = (Σ − β̃ I)/far²,

and a mixture of Gaussians a mixture of the same weights, component by component: a law has one Gaussian deconvolution
at most, since characteristic functions of Gaussians vanish nowhere. For any j < k the step pinned at X_0 that leads
from k to j, N(near'·x_k + far'·x_0, β̃' I), gives with g = far'/far

    X_j | x_k:    mean near'·x_k + g (m − near·x_k),    covariance g² (Σ − β̃ I) + β̃' I.

One network call thus reaches any j, and j = k−1 returns the kernel. A skip draws what it says for any law; whether that
is π(x_j | x_k) depends on the kernels:

- The first half-step fits the reference pinned at data, which is in the class, whatever the objective.
- Bridge matching fits every half-step to pinned reference paths between end points: it is in the class by construction,
  and so is the Schrödinger bridge, its fixed point.
- IPF replaces one end's marginal and keeps the law given the ends, so exact likelihood fits stay in the class as well;
  fitted kernels that are not exact leave it, a little more with every iteration, as no iteration returns to the pinned
  reference.
- Mean matching fits no conditional law: its variance is β_k by decree, and nothing can be taken out of it.

Where the kernels are π's exact ones and π is Markov (IPF, the fixed point), a skip is the composition of the steps it
replaces. In bridge matching before the fixed point π is not Markov; skips then have π's two-time laws and keep its
marginals, as its steps do.

A fitted Σ may fall below β̃ I in some directions, where the data leave next to no uncertainty. What is taken out is then
cut at Σ itself: eigenvalues of Σ − β̃ I below 0 count as 0 (:meth:`csb.bridge.transitions.Transition.skip`). The error
of a kernel's mean and spread grows by g, which is the larger the farther the skip; the last skip, to x_0, is the
largest.

Forward kernels are backward ones on the mirrored grid (:meth:`csb.process.Grid.mirror`), and imply laws of X_T.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

from torch import Tensor

from csb.errors import CSBError, require_int
from csb.process import Grid, Reference

Direction = Literal["backward", "forward"]


class Skip(NamedTuple):
    """X_j | x_k from the kernel N(m, Σ) of step k: N(shift·x_k + gain·m, gain²·max(Σ − own·I, 0) + added·I)."""

    shift: float
    gain: float
    own: float
    added: float

    def mean(self, x: Tensor, mean: Tensor) -> Tensor:
        """The mean, from the state and the kernel's mean."""
        return self.shift * x + self.gain * mean


def timesteps_of(grid: Grid, count: int) -> list[int]:
    """The states 0 = k_0 < … < k_count = T that ``count`` steps visit: evenly spaced in the index k, to the nearest.

    On trained bridges of four problems this was never far from the best of five choices; steps even in the log
    signal-to-noise ratio cross the noisy end in one skip. CSBError where count is not in 1..T.
    """
    require_int("sample_steps", count, 1, grid.T)
    return [(2 * i * grid.T + count) // (2 * count) for i in range(count + 1)]


def planned_calls(
    grid: Grid, direction: Direction, timesteps: list[int] | None = None
) -> list[tuple[int, Skip | None]]:
    """The network calls of one pass in order, visiting the states ``timesteps`` (ascending, from 0 to T); None: all.

    Each is its step k and the skip to draw; None for the kernel's own step.
    """
    timesteps = list(range(grid.T + 1)) if timesteps is None else timesteps
    pairs = list(pairwise(timesteps))
    if direction == "backward":
        return [(high, _skip(grid, high, low)) for low, high in pairs[::-1]]
    T, mirrored = grid.T, grid.mirror()
    return [(low + 1, _skip(mirrored, T - low, T - high)) for low, high in pairs]


def _skip(grid: Grid, k: int, j: int) -> Skip | None:
    """From k to j, for backward kernels; None where j is k − 1."""
    if j == k - 1:
        return None
    step = Reference(grid).pinned_start(k)
    kept = (0, j, k) if j else (0, k)
    far = Reference(grid.keep(*kept)).pinned_start(len(kept) - 1)
    gain = far.far / step.far
    return Skip(float(far.near - gain * step.near), float(gain), float(step.var), float(far.var))


def check_skips(direction: Direction, parametrisation: str, covariance: str, count: int, T: int) -> None:
    """CSBError unless kernels of this kind say what the far end of the path is, or no skip is asked for."""
    if count == T or (parametrisation != "drift" and covariance != "fixed"):
        return
    kind = "parametrisation=drift" if parametrisation == "drift" else "covariance=fixed"
    need = "kernels that predict an end of the path (x0, eps or v) with a learned covariance"
    raise CSBError(
        f"sample_steps={count} needs {need}; the {direction} ones have {kind}; leave sample_steps at T={T} or retrain"
    )
