r"""The benchmark task "Gaussian linear" (Lueckmann et al. 2021, appendix T.1).

x ~ N(0, .1 I) in ℝ¹⁰, y | x ~ N(x, .1 I); .1 is the variance of both. p(x | y) = N(y/2, .05 I).
"""

import math

import torch
from torch import Tensor

from csb.problems.base import LinearProblem, Simulated, register
from csb.problems.exact.mixture import Mixture
from csb.problems.operators import Matrix
from csb.problems.tasks.linear_gaussian import GaussianPosterior

DIMENSIONS = 10
VARIANCE = 0.1


class NoisyCopy(LinearProblem):
    """y | x ~ N(x, .1 I) in ℝ¹⁰."""

    x_shape = y_shape = (DIMENSIONS,)
    noise_std = math.sqrt(VARIANCE)

    @property
    def operator(self) -> Matrix:
        return Matrix(torch.eye(DIMENSIONS, dtype=torch.float32))


@register
class SbiGaussianLinear(Simulated, NoisyCopy):
    """x and y in ℝ¹⁰."""

    name = "sbi_gaussian_linear"
    has_exact_posterior = True

    @property
    def mixture(self) -> Mixture:
        """The prior, a mixture of one."""
        return Mixture.isotropic(DIMENSIONS, VARIANCE)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return math.sqrt(VARIANCE) * torch.randn(n, DIMENSIONS, dtype=torch.float32, generator=generator)

    def posterior(self, y: Tensor) -> GaussianPosterior:
        return GaussianPosterior(
            self.check_observation(y) / 2, VARIANCE / 2 * torch.eye(DIMENSIONS, dtype=torch.float64)
        )
