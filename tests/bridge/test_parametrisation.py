"""All parametrisations describe the same kernels, and their special cases are what the module says."""

import pytest
import torch

from csb.bridge.kernel import PARAMETRISATIONS, coefficients
from csb.problems.gaussian_ipf import AffineGaussian, exact_ipf, reference_kernels
from csb.process import Cosine, Grid, Power, Reference, mix, seeded

GRIDS = [
    pytest.param(Grid.from_schedule(Power(0.3, 2.0), 5), id="power"),
    pytest.param(Grid.from_schedule(Cosine(1e-3), 12), id="cosine"),
    pytest.param(Grid.from_schedule(Power(0.1, 4.0), 1), id="one-step"),
]
DIRECTIONS = ["backward", "forward"]
everywhere = pytest.mark.parametrize("grid", GRIDS)
both_ways = pytest.mark.parametrize("direction", DIRECTIONS)
each_name = pytest.mark.parametrize("name", list(PARAMETRISATIONS))


def random(*keys, shape=(6, 2)):
    return torch.randn(shape, generator=seeded(0, *keys), dtype=torch.float64)


def mean(given, x, output, k):
    """The kernel's mean of an output, for coefficients of x's dtype."""
    return given.skip[k] * x + given.gain[k] * output


def output_of(given, x, mean, k):
    """The output whose kernel mean is ``mean``."""
    return (mean - given.skip[k] * x) / given.gain[k]


@everywhere
@both_ways
@each_name
def test_each_converts_exactly_into_the_drift(grid, direction, name):
    one, two = coefficients(name, grid, direction), coefficients("drift", grid, direction)
    for k in range(1, grid.T + 1):
        x, output = random(1, k), random(2, k)
        expected = mean(one, x, output, k)
        converted = output_of(two, x, expected, k)
        torch.testing.assert_close(mean(two, x, converted, k), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(output_of(one, x, mean(two, x, converted, k), k), output, rtol=1e-7, atol=1e-7)


@everywhere
@both_ways
def test_output_zero_with_v_is_the_reference_step(grid, direction):
    found = coefficients("v", grid, direction)
    for k in range(1, grid.T + 1):
        x = random(k)
        torch.testing.assert_close(mean(found, x, torch.zeros_like(x), k), (1 - grid.beta[k]).sqrt() * x)


@everywhere
def test_x0_with_the_true_end_is_the_pinned_law(grid):
    reference = Reference(grid)
    backward, forward = coefficients("x0", grid, "backward"), coefficients("x0", grid, "forward")
    for k in range(1, grid.T + 1):
        x, end = random(1, k), random(2, k)
        torch.testing.assert_close(mean(backward, x, end, k), mix(reference.pinned_start(k), x, end))
        torch.testing.assert_close(mean(forward, x, end, k), mix(reference.pinned_end(k), x, end))


@everywhere
def test_x0_with_the_exact_denoiser_is_the_exact_first_half_step(grid):
    """E[x_0 | x_k, y] of a Gaussian, put through the coefficients, is the time reversal of the reference."""
    G, g, C = random(1, shape=(2, 3)), random(2, shape=(2,)), torch.tensor([[0.5, 0.2], [0.2, 0.4]]).double()
    kernels = exact_ipf(grid, G, g, C, 1)[0].kernels
    law, y = AffineGaussian(G, g, C), random(3, shape=(6, 3))
    prior = y @ G.T + g
    for k, step in enumerate(reference_kernels(grid, 2, 3), start=1):
        law, x = step.push(law), random(4, k)
        scale = grid.alpha_bar[k].sqrt()
        denoised = prior + (x - scale * prior) @ (scale * torch.linalg.solve(law.P, C))
        found = mean(coefficients("x0", grid, "backward"), x, denoised, k)
        torch.testing.assert_close(found, kernels[k - 1].mean(x, y), rtol=1e-9, atol=1e-9)


@everywhere
def test_eps_and_v_predict_the_end_they_say(grid):
    x0, eps, v = (coefficients(name, grid, "backward") for name in ("x0", "eps", "v"))
    for k in range(1, grid.T + 1):
        x, output, a = random(1, k), random(2, k), grid.alpha_bar[k]
        end = (x - (1 - a).sqrt() * output) / a.sqrt()
        torch.testing.assert_close(mean(eps, x, output, k), mean(x0, x, end, k), rtol=1e-9, atol=1e-9)
        end = a.sqrt() * x - (1 - a).sqrt() * output
        torch.testing.assert_close(mean(v, x, output, k), mean(x0, x, end, k), rtol=1e-9, atol=1e-9)


@everywhere
@both_ways
def test_drift_is_the_move_over_beta(grid, direction):
    found = coefficients("drift", grid, direction)
    for k in range(1, grid.T + 1):
        x, output = random(1, k), random(2, k)
        torch.testing.assert_close(mean(found, x, output, k), x + grid.beta[k] * output)


@everywhere
@each_name
def test_forward_is_backward_on_the_mirrored_grid(grid, name):
    forward, mirrored = coefficients(name, grid, "forward"), coefficients(name, grid.mirror(), "backward")
    for k in range(1, grid.T + 1):
        torch.testing.assert_close(forward.skip[k], mirrored.skip[grid.T + 1 - k])
        torch.testing.assert_close(forward.gain[k], mirrored.gain[grid.T + 1 - k])
    assert float(forward.skip[0]) == float(forward.gain[0]) == 0
