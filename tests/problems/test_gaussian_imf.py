"""Bridge matching in closed form: its fixed point is the Schrödinger bridge, coupling and both marginals."""

import pytest
import torch

from csb.problems import LinearGaussian
from csb.problems.exact.gaussian import AffineGaussian, compose, coupling, exact_ipf, reference_kernels, static_bridge
from csb.process import Grid, Power

PROBLEM = LinearGaussian(dx=3, dy=2, seed=1)
ZERO = torch.zeros(3, dtype=torch.float64)
NOISE = AffineGaussian(torch.zeros(3, 2).double(), ZERO, torch.eye(3).double())


def exact_imf(grid, iterations):
    return exact_ipf(grid, PROBLEM.G, ZERO, PROBLEM.C, iterations, "bridge_matching")


def close(found: AffineGaussian, expected: AffineGaussian, atol: float) -> None:
    for one, two in zip(found, expected):
        torch.testing.assert_close(one, two, atol=atol, rtol=0)


@pytest.mark.parametrize("T", [1, 2, 10])
@pytest.mark.parametrize("alpha_bar_end", [0.05, 0.3, 0.8])
def test_reaches_the_static_bridge(T, alpha_bar_end):
    grid = Grid.from_schedule(Power(alpha_bar_end, 3.0), T)
    iterations = 25 if alpha_bar_end < 0.5 else 200  # a short horizon is slow to forget the start
    steps = exact_imf(grid, iterations)
    expected = static_bridge(alpha_bar_end, PROBLEM.G, ZERO, PROBLEM.C)
    close(coupling(NOISE, compose(list(steps[-2].kernels)[::-1]), False), expected, 1e-6)
    data = AffineGaussian(PROBLEM.G, ZERO, PROBLEM.C)
    close(coupling(data, compose(list(steps[-1].kernels)), True), expected, 1e-6)


def test_the_static_bridge_is_where_ipf_ends():
    grid = Grid.from_schedule(Power(0.3, 3.0), 4)
    last = exact_ipf(grid, PROBLEM.G, ZERO, PROBLEM.C, 40)[-2]
    found = coupling(NOISE, compose(list(last.kernels)[::-1]), False)
    close(found, static_bridge(0.3, PROBLEM.G, ZERO, PROBLEM.C), 1e-6)


def test_the_first_half_step_is_that_of_ipf():
    grid = Grid.from_schedule(Power(0.2, 2.0), 5)
    one, two = exact_imf(grid, 1)[0], exact_ipf(grid, PROBLEM.G, ZERO, PROBLEM.C, 1)[0]
    for ours, theirs in zip(one.kernels, two.kernels):
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_each_iteration_comes_closer():
    grid = Grid.from_schedule(Power(0.3, 3.0), 4)
    ends = [step.end for step in exact_imf(grid, 4)[::2]]
    errors = [float((end.P - PROBLEM.C).norm() + (end.U - PROBLEM.G).norm()) for end in ends]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_composed_reference_is_the_marginal():
    grid = Grid.from_schedule(Power(0.3, 3.0), 4)
    whole = compose(reference_kernels(grid, 3, 2))
    torch.testing.assert_close(whole.M, 0.3**0.5 * torch.eye(3).double())
    torch.testing.assert_close(whole.S, 0.7 * torch.eye(3).double())
