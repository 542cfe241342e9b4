r"""Likelihood: the KL projection of the half-step.

The half-step asks for the path law of Markov kernels nearest to the trajectories' law π. Given x_k its kernel is
π(x_{k−1} | x_k, y), and among Gaussians the one that maximises E_π log N(x_{k−1}; m(x_k, y), S(x_k, y)), which has π's
conditional mean and conditional covariance (its diagonal, where S is diagonal). With Gaussian kernels this recursion
reaches the exact posterior at any T, where a variance fixed at β_k keeps it too wide.

In the first half-step π is the reference pinned at data, x_{k−1} | x_k, x_0 is Gaussian, and its variance is integrated
out of the loss: less noise in the gradient, the same minimum.
"""

from torch import Tensor

from csb.bridge.kernel import Kernel
from csb.bridge.objectives.base import Objective, Target, pinned_target
from csb.bridge.transitions import Transition
from csb.process import Reference, expand


class Likelihood(Objective):
    """Gaussian negative log-likelihood of the previous state, relative to log β_k so that steps are comparable."""

    name = "likelihood"
    caches = "states"

    def first_target(self, reference: Reference, k: Tensor, x_k: Tensor, x_0: Tensor) -> Target:
        return pinned_target(reference, k, x_k, x_0)

    def cached_target(
        self, other: Kernel, k: Tensor, start: Tensor, end: Tensor, mean: Tensor, context: Tensor
    ) -> Tensor:
        return start

    def loss(self, law: Transition, target: Target, beta: Tensor) -> Tensor:
        return law.nll(target.mean, target.var) - 0.5 * expand(beta, target.mean).log()
