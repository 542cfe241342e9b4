r"""The benchmark task "Gaussian linear uniform" (Lueckmann et al. 2021, appendix T.2).

x ~ U[−1, 1]¹⁰, y | x ~ N(x, .1 I); .1 is the variance. p(x | y): independent coordinates N(y_i, .1) cut to [−1, 1].
"""

import torch
from torch import Tensor

from csb.problems.base import register
from csb.problems.bounded import Bounded
from csb.problems.exact.truncated import TruncatedMixture
from csb.problems.support import Support
from csb.problems.tasks.sbi_gaussian_linear import DIMENSIONS, NoisyCopy


@register
class SbiGaussianLinearUniform(Bounded, NoisyCopy):
    """x in [−1, 1]¹⁰, y in ℝ¹⁰."""

    name = "sbi_gaussian_linear_uniform"
    support = Support((-1.0,) * DIMENSIONS, (1.0,) * DIMENSIONS)
    has_exact_posterior = True

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, DIMENSIONS, dtype=torch.float32, generator=generator) - 1

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), (self.noise_std,), self.support)
