r"""Bridge matching: iterative Markovian fitting (IMF; Shi, De Bortoli, Campbell & Doucet 2023; Peluchetti 2023), in
discrete time (Gushchin et al. 2024, "Adversarial Schrödinger bridge matching", section 3).

The frozen kernels give a coupling of end points (x_0, x_T) given y; their paths are forgotten. In their place stand the
reference process pinned at both ends, X_k | X_0, X_T: the *reciprocal projection*. The half-step then fits Markov
kernels to that law by Gaussian likelihood, the *Markovian projection*: backward kernels to X_{k−1} | X_k, y, where the
pinned step X_{k−1} | X_k, X_0 is Gaussian and its variance integrated out of the loss, forward ones to X_k | X_{k−1}, y
with the step pinned at X_T. Backward half-steps take the coupling from forward kernels started at data, forward ones
from backward kernels started at N(0, I), so that one end point's law is exact in each.

The fixed point is the Schrödinger bridge, as for IPF, and for Gaussian kernels of full covariance on Gaussian problems
the projections are exact at any T. Errors of the kernels along the path do not pile up in the training states, as those
of IPF's trajectories do, and the cache holds two states a trajectory.
"""

import torch
from torch import Tensor

from csb.bridge.objectives.base import Target
from csb.bridge.objectives.likelihood import Likelihood
from csb.bridge.parametrisation import Direction
from csb.process import Reference, draw_pinned, expand, mix


class BridgeMatching(Likelihood):
    """Gaussian likelihood of the pinned step, at states of the reference process between the cached end points."""

    name = "bridge_matching"
    caches = "ends"


def bridged(
    reference: Reference, direction: Direction, k: Tensor, x_0: Tensor, x_T: Tensor, generator: torch.Generator
) -> tuple[Tensor, Target]:
    """States between end points (B, *z_shape) at which the kernels of steps k (B,) are evaluated, and their targets.

    backward: x_k, and the law of x_{k−1} | x_k, x_0; forward: x_{k−1}, and the law of x_k | x_{k−1}, x_T.
    """
    at = k if direction == "backward" else k - 1
    x = draw_pinned(reference.pinned_both(at), x_0, x_T, generator)
    law, end = (reference.pinned_start(k), x_0) if direction == "backward" else (reference.pinned_end(k), x_T)
    return x, Target(mix(law, x, end), expand(law.var, x))
