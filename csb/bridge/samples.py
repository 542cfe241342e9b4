"""What every posterior sampler returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class SampleInfo:
    """What the samples cost, and how they were reached.

    Attributes:
        forward_evaluations: network evaluations (forward passes), counted for one sample.
        backward_evaluations: passes back through the network (guidance), counted for one sample.
        seconds: wall time of the whole call.
        trajectory: (T + 1, B, n, *z_shape), bridge states from k = 0 to k = T, on the CPU; None unless asked for.
    """

    forward_evaluations: int
    backward_evaluations: int
    seconds: float
    trajectory: Tensor | None = None


@dataclass(frozen=True)
class Samples:
    """Posterior samples of B observations.

    Attributes:
        x: (B, n, *x_shape).
        info: see :class:`SampleInfo`.
        log_weights: (B, n) normalised log-weights, or None where all samples weigh the same.
    """

    x: Tensor
    info: SampleInfo
    log_weights: Tensor | None = field(default=None)
