r"""The benchmark task "Gaussian linear uniform" (Lueckmann et al. 2021, appendix T.2).

x ~ U[−1, 1]¹⁰, y | x ~ N(x, .1 I); .1 is the variance. p(x | y): independent coordinates N(y_i, .1) cut to [−1, 1].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from csb.problems.base import LinearProblem, Simulated, register
from csb.problems.bounded import check_kind, make_bounded
from csb.problems.operators import Matrix
from csb.problems.support import Support
from csb.problems.transform import Transform
from csb.problems.truncated import TruncatedMixture

_D = 10
_VAR = 0.1


@register
@dataclass(frozen=True, eq=False)
class SbiGaussianLinearUniform(Simulated, LinearProblem):
    """x in [−1, 1]¹⁰, y in ℝ¹⁰.

    Args:
        transform: "probit", "reflect" or "standardise"; see :mod:`csb.problems.bounded`.
        n_train, n_val, n_test, seed: as in :class:`Simulated`.
    """

    n_train: int = 100_000
    n_val: int = 10_000
    n_test: int = 10_000
    seed: int = 0
    transform: str = "reflect"

    name = "sbi_gaussian_linear_uniform"
    has_exact_posterior = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.transform)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (_D,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (_D,)

    @property
    def support(self) -> Support:
        return Support((-1.0,) * _D, (1.0,) * _D)

    @property
    def operator(self) -> Matrix:
        return Matrix(torch.eye(_D))

    @property
    def noise_std(self) -> float:
        return math.sqrt(_VAR)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, _D, generator=generator) - 1

    def new_transform(self) -> Transform:
        return make_bounded(self.transform, self.x_shape, self.y_shape, self.support)

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), (math.sqrt(_VAR),), self.support)
