r"""The benchmark task "Gaussian mixture" (Lueckmann et al. 2021, appendix T.7; Sisson et al. 2007).

x ~ U[−10, 10]², y | x ~ ½ N(x, I) + ½ N(x, .01 I): a mean known up to a broad and a narrow error. p(x | y) is the
mixture of N(y, I) and N(y, .01 I), each cut to the box and weighted by its mass in it.
"""

from dataclasses import dataclass

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
@dataclass(frozen=True, eq=False)
class SbiGaussianMixture(Bounded):
    """x in [−10, 10]², y in ℝ².

    Args:
        transform: "probit", "reflect" or "standardise"; see :mod:`csb.problems.bounded`.
        n_train, n_val, n_test, seed: as in :class:`csb.problems.base.Simulated`.
    """

    n_train: int = 100_000
    n_val: int = 10_000
    n_test: int = 10_000
    seed: int = 0
    transform: str = "reflect"

    name = "sbi_gaussian_mixture"
    has_exact_posterior = True

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def support(self) -> Support:
        return Support((-_BOUND,) * 2, (_BOUND,) * 2)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return _BOUND * (2 * torch.rand(n, 2, dtype=torch.float32, generator=generator) - 1)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(len(x), 1, dtype=torch.float32, generator=generator, device=x.device)  # one for both coordinates
        return x + torch.where(u < 0.5, *x.new_tensor(_SCALES)) * noise_like(x, generator)

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), _SCALES, self.support)
