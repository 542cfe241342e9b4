r"""Benchmarks of simulation-based inference whose posteriors are known.

- Two moons (Greenberg et al. 2019): x ~ U[−1, 1]², a ~ U(−π/2, π/2), r ~ N(.1, .01²),
  y = (r cos a + .25, r sin a) + (−|x_1 + x_2|, x_2 − x_1)/√2. With u = (x_1 + x_2)/√2 and v = (x_2 − x_1)/√2, a
  rotation, y = m + (−|u|, v) with m the point on the noisy crescent. Given y the map m ↦ (|u|, v) =
  (m_1 − y_1, y_2 − m_2) has a Jacobian of absolute value 1 and the prior is flat, so that the posterior of (|u|, v) is
  the law of m kept where |u| ≥ 0 and x lies in the box. The sign of u is a fair coin: the box is symmetric under
  (x_1, x_2) ↦ (−x_2, −x_1).
- Biochemical oxygen demand (Parno & Marzouk 2018), two parameters and five noisy readings of a saturating curve:
  y_t = A(1 − e^{−Bt}) + N(0, 10⁻³), t = 1..5 (10⁻³ is the variance), A = .4 + .4(1 + erf(x_1/√2)),
  B = .01 + .15(1 + erf(x_2/√2)), x ~ N(0, I). The posterior is known by quadrature on a grid.
- Of Lueckmann et al. 2021, "Gaussian linear" (appendix T.1): x ~ N(0, .1 I) in ℝ¹⁰, y | x ~ N(x, .1 I); .1 is the
  variance of both. p(x | y) = N(y/2, .05 I).
- "Gaussian linear uniform" (T.2): x ~ U[−1, 1]¹⁰, y | x ~ N(x, .1 I). p(x | y): independent coordinates N(y_i, .1) cut
  to [−1, 1].
- "Gaussian mixture" (T.7; Sisson et al. 2007): x ~ U[−10, 10]², y | x ~ ½ N(x, I) + ½ N(x, .01 I): a mean known up to a
  broad and a narrow error. p(x | y) is the mixture of N(y, I) and N(y, .01 I), each cut to the box and weighted by its
  mass in it.
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import PROBLEMS, AdditiveNoise, Bounded, LinearProblem, Posterior, Simulated
from csb.problems.bounded import KINDS, Support
from csb.problems.gaussians import GaussianPosterior
from csb.problems.grid import GridProblem
from csb.problems.mixture import Mixture, TruncatedMixture
from csb.problems.operators import Matrix
from csb.process import noise_like
from csb.schema import OneOf

_ROUNDS, _BATCH = 2000, 4096  # of proposals for the posterior of two moons
_VAR = 1e-3  # of BOD's readings
_DIMENSIONS, _VARIANCE = 10, 0.1  # of "Gaussian linear"
_BOUND, _SCALES = 10.0, (1.0, 0.1)  # of "Gaussian mixture"; standard deviations


class _UniformPrior(Bounded):
    """x ~ U[−b, b]^d, the box of ``support``."""

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        b, d = self.support.high[0], len(self.support.high)
        return b * (2 * torch.rand(n, d, dtype=torch.float32, generator=generator) - 1)


def _crescent(n: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """n draws of m, (n, 2), float64."""
    u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    r = 0.1 + 0.01 * torch.randn(n, generator=generator, dtype=torch.float64, device=device)
    a = math.pi * (u - 0.5)
    return torch.stack([r * a.cos() + 0.25, r * a.sin()], dim=1)


class TwoMoonsPosterior(Posterior):
    """Exact draws for one y (2,), float64, by inverting the simulator's noise and keeping what lies in the prior."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.y = y

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2), float32. CSBError where y is (nearly) impossible under the prior."""
        kept, missing = [torch.empty(0, 2, dtype=torch.float64)], n
        for _ in range(_ROUNDS):
            if missing <= 0:
                break
            kept.append(self._propose(max(_BATCH, 2 * missing), generator)[:missing])
            missing -= len(kept[-1])
        if missing > 0:
            raise CSBError(
                f"y=({self.y[0]:.4g}, {self.y[1]:.4g}) is (nearly) impossible under the prior of two_moons: "
                f"{n - missing} of {n} draws found; pass an observation that the simulator can produce"
            )
        return torch.cat(kept).float()

    def _propose(self, n: int, generator: torch.Generator) -> Tensor:
        m = _crescent(n, generator)
        sign = torch.randint(0, 2, (n,), generator=generator, dtype=torch.int64) * 2 - 1
        size, v = m[:, 0] - self.y[0], self.y[1] - m[:, 1]
        u = sign * size
        x = torch.stack([u - v, u + v], dim=1) / math.sqrt(2)
        return x[(size >= 0) & (x.abs() <= 1).all(dim=1)]


@PROBLEMS.register
class TwoMoons(_UniformPrior):
    """x in [−1, 1]², y in ℝ²."""

    transform: Annotated[str, OneOf(KINDS)] = "standardise"

    name = "two_moons"
    x_shape = y_shape = (2,)
    support = Support((-1.0, -1.0), (1.0, 1.0))

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        shift = torch.stack([-(x[:, 0] + x[:, 1]).abs(), x[:, 1] - x[:, 0]], dim=1) / math.sqrt(2)
        return _crescent(len(x), generator, x.device).to(x.dtype) + shift

    def posterior(self, y: Tensor) -> TwoMoonsPosterior:
        return TwoMoonsPosterior(self.check_observation(y))


def curve(x: Tensor) -> Tensor:
    """The noise-free readings, (…, 2) → (…, 5)."""
    t = torch.arange(1, 6, dtype=x.dtype, device=x.device)
    A = 0.4 + 0.4 * (1 + torch.erf(x[..., :1] / math.sqrt(2)))
    B = 0.01 + 0.15 * (1 + torch.erf(x[..., 1:] / math.sqrt(2)))
    return A * (1 - torch.exp(-B * t))


@PROBLEMS.register
class BOD(GridProblem, AdditiveNoise):
    """x in ℝ², standard normal; y in ℝ⁵."""

    name = "bod"
    y_shape = (5,)
    noise_std = math.sqrt(_VAR)

    def forward(self, x: Tensor) -> Tensor:
        return curve(x)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return -0.5 * (curve(x) - y).square().sum(dim=1) / _VAR


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
class SbiGaussianLinearUniform(_UniformPrior, NoisyCopy):
    """x in [−1, 1]¹⁰, y in ℝ¹⁰."""

    name = "sbi_gaussian_linear_uniform"
    support = Support((-1.0,) * _DIMENSIONS, (1.0,) * _DIMENSIONS)

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), (self.noise_std,), self.support)


@PROBLEMS.register
class SbiGaussianMixture(_UniformPrior):
    """x in [−10, 10]², y in ℝ²."""

    name = "sbi_gaussian_mixture"
    x_shape = y_shape = (2,)
    support = Support((-_BOUND,) * 2, (_BOUND,) * 2)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(len(x), 1, dtype=torch.float32, generator=generator, device=x.device)  # one for both coordinates
        return x + torch.where(u < 0.5, *x.new_tensor(_SCALES)) * noise_like(x, generator)

    def posterior(self, y: Tensor) -> TruncatedMixture:
        return TruncatedMixture(self.check_observation(y), _SCALES, self.support)
