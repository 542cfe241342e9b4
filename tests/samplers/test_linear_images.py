"""Guided samplers of linear problems on images: the posterior's mean for independent Gaussian pixels."""

import pytest
import torch

from csb.problems import MnistDeblur, MnistInpaint, MnistSuperres, PhotoColour
from csb.process import Grid, Power, expand, seeded
from csb.samplers import DDRM, MMPS, SDA, TMPD, GaussianLikelihood, PiGDM
from tests.samplers.laws import output_mean
from tests.samplers.models import Pixels

GRID, LONG = (Grid.from_schedule(Power(1e-4, 3.0), T) for T in (20, 100))
MIDDLE, WIDTH = 0.5, 0.1  # of every pixel
PRIOR = torch.full((1, 28, 28), MIDDLE), WIDTH
DEBLUR, SUPERRES, INPAINT = MnistDeblur(noise=0.02), MnistSuperres(noise=0.02), MnistInpaint()
COLOUR = PhotoColour(side=32)


def basis_of(problem, dtype=torch.float32):
    return torch.eye(torch.Size(problem.x_shape).numel(), dtype=dtype).unflatten(1, problem.x_shape)


def build(method, problem, grid=GRID, **options):
    basis = basis_of(problem)
    spread = WIDTH**2 * problem.forward(basis).square().sum(0)  # the diagonal of A A*
    likelihood = GaussianLikelihood(problem.operator, problem.noise_std, impose=problem.impose).with_scales(spread)
    return method(Pixels(torch.full(problem.x_shape, MIDDLE), WIDTH), likelihood, grid, **options)


def observation(problem):
    """y, and the posterior's mean MIDDLE + V s/(s² + σ²/WIDTH²) U*(y − A MIDDLE), by the dense matrix."""
    y = problem.observe(MIDDLE + WIDTH * torch.randn(1, *problem.x_shape, generator=seeded(1)), seeded(2))[0]
    A = problem.operator(basis_of(problem, torch.float64)).flatten(1).T
    system = A @ A.T + (problem.noise_std / WIDTH) ** 2 * torch.eye(len(A), dtype=torch.float64)
    gap = y.flatten().double() - A @ torch.full(A.shape[1:], MIDDLE, dtype=torch.float64)
    return y, MIDDLE + A.T @ (torch.linalg.pinv(system, hermitian=True) @ gap)


@pytest.mark.parametrize(
    ("method", "options", "problem"),
    [
        (PiGDM, {}, DEBLUR),
        (PiGDM, {"eta": 0.0}, SUPERRES),
        (TMPD, {}, SUPERRES),  # A A* is diagonal: row sums are exact
        (MMPS, {"iterations": 1}, SUPERRES),  # and one direction is enough
        (MMPS, {"iterations": 12}, DEBLUR),
        (SDA, {"corrections": 2}, SUPERRES),
        (DDRM, {}, MnistSuperres(noise=0.0)),
        (PiGDM, {}, MnistSuperres(noise=0.0)),
        *((method, {}, INPAINT) for method in (PiGDM, DDRM, MMPS, TMPD)),
        *((method, {}, COLOUR) for method in (PiGDM, TMPD)),
        (DDRM, {}, PhotoColour(side=32, noise=0.0)),
    ],
    ids=str,
)
def test_the_mean_is_the_posteriors(method, options, problem):
    y, exact = observation(problem)
    flow = method is SDA or options.get("eta") == 0  # deterministic steps: an error of first order in 1/T
    grid, near = (LONG, 0.05) if flow else (GRID, 0.002)
    found = output_mean(build(method, problem, grid, **options), y)
    assert float((exact - MIDDLE).norm()) > 0.1  # y says something
    assert float((found - exact).norm()) < near * float((exact - MIDDLE).norm()) + 1e-4


class Uneven(Pixels):
    """The exact denoiser of independent pixels of variance 10⁻⁶ to 1, in units of WIDTH²."""

    variance = torch.logspace(-6, 0, 784).view(28, 28)

    def forward(self, z, alpha_bar):
        return expand(alpha_bar.sqrt(), z) * self.variance / (alpha_bar * self.variance + 1 - alpha_bar) * z


@pytest.mark.parametrize("method", [SDA, TMPD, PiGDM, MMPS])
def test_pixels_that_hardly_vary_are_no_trouble_without_noise(method):
    """INPAINT's known pixels are not put in."""
    spread = WIDTH**2 * Uneven.variance[None] * INPAINT.operator.mask
    likelihood = GaussianLikelihood(INPAINT.operator, 0.0).with_scales(spread, float(Uneven.variance.mean()))
    x = MIDDLE + WIDTH * Uneven.variance.sqrt() * torch.randn(1, 1, 28, 28, generator=seeded(1))
    found = method(Uneven(*PRIOR), likelihood, GRID).sample(INPAINT.operator(x)[0], 16, seeded(2)).x
    assert float((found - x).abs().max()) < 8 * WIDTH  # nothing runs away, seen or not
