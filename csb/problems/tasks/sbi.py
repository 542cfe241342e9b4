r"""Benchmark tasks of Lueckmann et al. 2021 with posteriors in closed form.

- "Gaussian linear" (appendix T.1): x ~ N(0, .1 I) in ℝ¹⁰, y | x ~ N(x, .1 I); .1 is the variance of both.
  p(x | y) = N(y/2, .05 I).
- "Gaussian linear uniform" (T.2): x ~ U[−1, 1]¹⁰, y | x ~ N(x, .1 I). p(x | y): independent coordinates N(y_i, .1) cut
  to [−1, 1].
- "Gaussian mixture" (T.7; Sisson et al. 2007): x ~ U[−10, 10]², y | x ~ ½ N(x, I) + ½ N(x, .01 I): a mean known up to a
  broad and a narrow error. p(x | y) is the mixture of N(y, I) and N(y, .01 I), each cut to the box and weighted by its
  mass in it.
"""

import math

import torch
from torch import Tensor

from csb.problems.base import PROBLEMS, LinearProblem, Simulated
from csb.problems.bounded import Bounded
from csb.problems.exact.mixture import Mixture
from csb.problems.exact.truncated import TruncatedMixture
from csb.problems.operators import Matrix
from csb.problems.tasks.gaussians import GaussianPosterior
from csb.problems.transform import Support
from csb.process import noise_like

_DIMENSIONS, _VARIANCE = 10, 0.1
_BOUND, _SCALES = 10.0, (1.0, 0.1)  # of the mixture; standard deviations


class NoisyCopy(LinearProblem):
    """y | x ~ N(x, .1 I) in ℝ¹⁰."""

    x_shape = y_shape = (_DIMENSIONS,)
    noise_std = math.sqrt(_VARIANCE)

    @property
    def operator(self) -> Matrix:
        return Matrix(torch.eye(_DIMENSIONS, dtype=torch.float32))


@PROBLEMS.register
class SbiGaussianLinear(Simulated, NoisyCopy):
    """x and y in ℝ¹⁰."""

    name = "sbi_gaussian_linear"

    @property
    def mixture(self) -> Mixture:
        """The prior, a mixture of one."""
        return Mixture.isotropic(_DIMENSIONS, _VARIANCE)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return math.sqrt(_VARIANCE) * torch.randn(n, _DIMENSIONS, dtype=torch.float32, generator=generator)

    def posterior(self, y: Tensor) -> GaussianPosterior:
        return GaussianPosterior(self.check_observation(y) / 2, _VARIANCE / 2 * torch.eye(_DIMENSIONS).double())


@PROBLEMS.register
class SbiGaussianLinearUniform(Bounded, NoisyCopy):
    """x in [−1, 1]¹⁰, y in ℝ¹⁰."""

    name = "sbi_gaussian_linear_uniform"
    support = Support((-1.0,) * _DIMENSIONS, (1.0,) * _DIMENSIONS)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, _DIMENSIONS, dtype=torch.float32, generator=generator) - 1

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), (self.noise_std,), self.support)


@PROBLEMS.register
class SbiGaussianMixture(Bounded):
    """x in [−10, 10]², y in ℝ²."""

    name = "sbi_gaussian_mixture"
    x_shape = y_shape = (2,)
    support = Support((-_BOUND,) * 2, (_BOUND,) * 2)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return _BOUND * (2 * torch.rand(n, 2, dtype=torch.float32, generator=generator) - 1)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(len(x), 1, dtype=torch.float32, generator=generator, device=x.device)  # one for both coordinates
        return x + torch.where(u < 0.5, *x.new_tensor(_SCALES)) * noise_like(x, generator)

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), _SCALES, self.support)
