"""The exact law of a sampler's output where it is affine in its noise.

With the exact denoiser of a Gaussian prior every sampler without weights is an affine map of all the standard normal
numbers that it draws: x = m + B ξ, so that its output is N(m, BBᵀ). One run on the unit vectors of ξ gives m and B, to
the precision of the arithmetic and without a single random number.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from csb.metrics.distances import MomentErrors
from csb.problems import Mixture
from csb.process import Grid, Noise, seeded
from csb.samplers import GaussianLikelihood
from tests.conftest import Moved


class Transition(NamedTuple):
    """N(mean (d,), cov (d, d)), float64."""

    mean: Tensor
    cov: Tensor


class Scripted(Noise):
    """Hands out ``numbers`` (n, calls, d) call by call, or zeros where there are none, and counts the calls."""

    def __init__(self, numbers: Tensor | None = None) -> None:
        super().__init__(None, 1)
        self.numbers, self.calls = numbers, 0

    def normal(self, n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        self.calls += 1
        found = torch.zeros(n, *shape) if self.numbers is None else self.numbers[:, self.calls - 1].view(n, *shape)
        return found.to(dtype)

    def uniform(self, n: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        raise AssertionError("a sampler that draws uniform numbers is not affine in normal ones")


def output_law(sampler, y: Tensor) -> Transition:
    """The law of a sampler's x for one observation. AssertionError where it is not affine in its noise."""
    d, counter = torch.Size(sampler.x_shape).numel(), Scripted()
    with torch.no_grad():
        sampler._sample(y[None], 1, counter)
        size = counter.calls * d
        unit = torch.cat([torch.zeros(1, size), torch.eye(size), torch.randn(2, size, generator=seeded(0))])
        x = sampler._sample(y[None], size + 3, Scripted(unit.unflatten(1, (counter.calls, d)))).x
    x = x[0].flatten(1).double()
    mean, B = x[0], (x[1:-2] - x[0]).T
    scale = float((B @ B.T).trace().sqrt())
    assert float((mean + unit[-2:].double() @ B.T - x[-2:]).abs().max()) < 1e-3 * scale, "the sampler is not affine"
    return Transition(mean, B @ B.T)


def output_mean(sampler, y: Tensor) -> Tensor:
    """The mean alone (d,), float64, of a sampler that is affine in its noise: one chain."""
    with torch.no_grad():
        return sampler._sample(y[None], 1, Scripted()).x.flatten().double()


def law_errors(found: Transition, exact: Transition) -> MomentErrors:
    """As :func:`csb.metrics.distances.moment_errors`, from the law itself."""
    gap = float((found.mean - exact.mean).norm())
    return MomentErrors(
        gap / float(exact.cov.trace().sqrt()),
        gap / float(exact.mean.norm()),
        float((found.cov - exact.cov).norm() / exact.cov.norm()),
    )


class GaussianTask:
    """x ~ N(m, S), y = A x + σ N(0, I): a linear problem with another prior; its exact denoiser and posterior.

    Args:
        problem: gives A and σ.
        mean, cov: m (d,) and S (d, d), float64; None: those of LinearGaussian, N(0, I).
        shift, scale: z = (x − shift)/scale.
    """

    def __init__(
        self, problem, mean: Tensor | None = None, cov: Tensor | None = None, shift: float = 0.0, scale: float = 1.0
    ) -> None:
        d = problem.x_shape[0]
        self.problem, self.A, self.std, self.shift, self.scale = problem, problem.A, problem.noise_std, shift, scale
        self.mean = torch.zeros(d, dtype=torch.float64) if mean is None else mean
        self.cov = torch.eye(d, dtype=torch.float64) if cov is None else cov
        prior = Mixture(torch.ones(1, dtype=torch.float64), self.mean[None], self.cov[None])
        units = torch.full((d,), 1 / scale, dtype=torch.float64), torch.full((d,), -shift / scale, dtype=torch.float64)
        self.prior = prior.affine(*units)  # of z
        self.denoiser = Moved(self.prior, shift, scale)
        self.spread = (self.A @ self.cov @ self.A.T).diagonal()
        self.z_variance = float(self.prior.cov.diagonal().mean())
        self.likelihood = GaussianLikelihood(problem.operator, self.std).with_scales(self.spread, self.z_variance)

    def build(self, method, grid: Grid, **options):
        return method(self.denoiser, self.likelihood, grid, **{"batch_size": 4096, **options})

    def posterior(self, y: Tensor) -> Transition:
        S, A = self.cov, self.A
        gain = S @ A.T @ torch.linalg.inv(A @ S @ A.T + self.std**2 * torch.eye(len(A), dtype=torch.float64))
        return Transition(self.mean + gain @ (y.double() - A @ self.mean), S - gain @ A @ S)
