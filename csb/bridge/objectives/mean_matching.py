r"""Mean matching (Shi, De Bortoli, Deligiannidis & Doucet 2022, "Conditional simulation using diffusion Schrödinger
bridges"; De Bortoli et al. 2021, Proposition 3).

With x_k = m_F(x_{k−1}) + √β_k ε the backward mean is regressed on x_k + m_F(x_{k−1}) − m_F(x_k), which agrees with the
time reversal to first order in β_k and has less noise than x_{k−1} itself; likewise for the forward mean with m_B. The
variance stays at β_k. At few steps the recursion ends at a posterior that is too wide by an amount known in closed form
for Gaussians (:mod:`csb.problems.exact.gaussian`); it vanishes as T grows.
"""

from torch import Tensor

from csb.bridge.kernel import Kernel
from csb.bridge.objectives.base import Objective, Target, pinned_target
from csb.bridge.transitions import Transition
from csb.process import Reference, expand


class MeanMatching(Objective):
    """Squared error of the mean in units of β_k: ½ (target − mean)²/β_k."""

    name = "mean_matching"
    caches = "targets"

    def first_target(self, reference: Reference, k: Tensor, x_k: Tensor, x_0: Tensor) -> Target:
        # m_F is the reference step √(1−β_k) x, and x_{k−1} enters linearly: its pinned mean takes its place.
        scale = expand(reference.step(k).scale, x_k)
        return Target(x_k + scale * (pinned_target(reference, k, x_k, x_0).mean - x_k))

    def cached_target(
        self, other: Kernel, k: Tensor, start: Tensor, end: Tensor, mean: Tensor, context: Tensor
    ) -> Tensor:
        return end + mean - other(end, k, context).mean

    def loss(self, law: Transition, target: Target, beta: Tensor) -> Tensor:
        return 0.5 * (target.mean - law.mean) ** 2 / expand(beta, law.mean)
