r"""The benchmark task "Gaussian mixture" (Lueckmann et al. 2021, appendix T.7; Sisson et al. 2007).

x ~ U[−10, 10]², y | x ~ ½ N(x, I) + ½ N(x, .01 I): a mean known up to a broad and a narrow error. p(x | y) is the
mixture of N(y, I) and N(y, .01 I), each cut to the box and weighted by its mass in it.
"""

import torch
from torch import Tensor

from csb.problems.base import register
from csb.problems.bounded import Bounded
from csb.problems.exact.truncated import TruncatedMixture
from csb.problems.support import Support
from csb.process import noise_like

_BOUND = 10.0
_SCALES = (1.0, 0.1)  # standard deviations


@register
class SbiGaussianMixture(Bounded):
    """x in [−10, 10]², y in ℝ²."""

    name = "sbi_gaussian_mixture"
    x_shape = y_shape = (2,)
    support = Support((-_BOUND,) * 2, (_BOUND,) * 2)
    has_exact_posterior = True

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return _BOUND * (2 * torch.rand(n, 2, dtype=torch.float32, generator=generator) - 1)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(len(x), 1, dtype=torch.float32, generator=generator, device=x.device)  # one for both coordinates
        return x + torch.where(u < 0.5, *x.new_tensor(_SCALES)) * noise_like(x, generator)

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), _SCALES, self.support)
