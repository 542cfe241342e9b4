r"""The benchmark task "Gaussian linear uniform" (Lueckmann et al. 2021, appendix T.2).

x ~ U[−1, 1]¹⁰, y | x ~ N(x, .1 I); .1 is the variance. p(x | y): independent coordinates N(y_i, .1) cut to [−1, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from csb.problems.base import register
from csb.problems.bounded import Bounded
from csb.problems.exact.truncated import TruncatedMixture
from csb.problems.support import Support
from csb.problems.tasks.sbi_gaussian_linear import DIMENSIONS, NoisyCopy


@register
@dataclass(frozen=True, eq=False)
class SbiGaussianLinearUniform(Bounded, NoisyCopy):
    """x in [−1, 1]¹⁰, y in ℝ¹⁰.

    Args:
        transform: "probit", "reflect" or "standardise"; see :mod:`csb.problems.bounded`.
        n_train, n_val, n_test, seed: as in :class:`csb.problems.base.Simulated`.
    """

    n_train: int = 100_000
    n_val: int = 10_000
    n_test: int = 10_000
    seed: int = 0
    transform: str = "reflect"

    name = "sbi_gaussian_linear_uniform"
    has_exact_posterior = True

    @property
    def support(self) -> Support:
        return Support((-1.0,) * DIMENSIONS, (1.0,) * DIMENSIONS)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, DIMENSIONS, dtype=torch.float32, generator=generator) - 1

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), (self.noise_std,), self.support)
