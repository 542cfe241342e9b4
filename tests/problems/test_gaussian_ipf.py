"""The exact IPF recursion: the design's table, its fixed points, and every kernel against simulation."""

import pytest
import torch

from csb.problems import LinearGaussian
from csb.problems.gaussian_ipf import AffineGaussian, AffineKernel, compose, coupling, exact_ipf
from csb.process import Grid, Power, seeded

TABLE = [  # C, objective, (mean error, variance ratio) after iterations 1, 2, 3, 5 of 10 steps
    (0.1, "likelihood", [(-0.041, 1.015), (-0.002, 1.000), (0, 1), (0, 1)]),
    (0.5, "likelihood", [(-0.176, 1.031), (-0.035, 1.001), (-0.007, 1.000), (0, 1)]),
    (0.1, "mean_matching", [(-0.056, 1.357), (-0.025, 1.318), (-0.024, 1.309), (-0.023, 1.296)]),
    (0.5, "mean_matching", [(-0.211, 1.154), (-0.097, 1.115), (-0.077, 1.110), (-0.070, 1.104)]),
]


def one_dimensional(C, T, objective, iterations=5):
    """(mean error, variance ratio) after each backward half-step, for the posterior N(1, C)."""
    grid = Grid.from_schedule(Power(0.3, 2.0), T)
    eye = torch.eye(1, dtype=torch.float64)
    steps = exact_ipf(grid, 0 * eye, eye[0], C * eye, iterations, objective)
    return [(float(s.end.u) - 1, float(s.end.P) / C) for s in steps if s.direction == "backward"]


@pytest.mark.parametrize(("C", "objective", "expected"), TABLE)
def test_table_of_the_design(C, objective, expected):
    found = one_dimensional(C, 10, objective)
    for n, values in zip((1, 2, 3, 5), expected):
        assert found[n - 1] == pytest.approx(values, abs=5.01e-4)


@pytest.mark.parametrize(("C", "left"), [(0.1, 1.06), (0.5, 1.02)])
def test_variance_that_mean_matching_is_left_with_at_fifty_steps(C, left):
    assert one_dimensional(C, 50, "mean_matching")[-1][1] == pytest.approx(left, abs=0.005)


def test_likelihood_does_not_depend_on_the_number_of_steps():
    # Without a projection the half-steps change the end laws only, and T does not matter.
    for few, many in zip(one_dimensional(0.5, 2, "likelihood"), one_dimensional(0.5, 50, "likelihood")):
        assert few == pytest.approx(many, abs=1e-9)


@pytest.fixture(scope="module")
def problem():
    return LinearGaussian(dx=2, dy=2, seed=1)


@pytest.fixture(scope="module")
def grid():
    return Grid.from_schedule(Power(0.3, 2.0), 4)


def ipf(problem, grid, iterations, objective):
    return exact_ipf(grid, problem.G, torch.zeros(problem.dx), problem.C, iterations, objective)


def close(found, expected, atol):
    torch.testing.assert_close(tuple(found), tuple(expected), atol=atol, rtol=0)


def static_bridge(alpha_bar_end, G, g, C):
    """The law of (x_0, x_T) given y of the Schrödinger bridge between N(G y + g, C) and N(0, I), float64."""
    signal, var = alpha_bar_end**0.5, 1 - alpha_bar_end
    values, vectors = torch.linalg.eigh(C.double())
    cross = (
        vectors @ torch.diag(((4 * alpha_bar_end * values.clamp_min(0) + var**2).sqrt() - var) / 2) @ vectors.T / signal
    )
    eye, zero = torch.eye(len(C), dtype=torch.float64), torch.zeros(len(C), dtype=torch.float64)
    P = torch.cat([torch.cat([C.double(), cross], 1), torch.cat([cross.T, eye], 1)])
    return AffineGaussian(torch.cat([G.double(), torch.zeros_like(G.double())]), torch.cat([g.double(), zero]), P)


@pytest.mark.parametrize(
    ("objective", "T", "alpha_bar_end", "iterations"),
    [
        ("likelihood", 4, 0.3, 40),
        ("bridge_matching", 1, 0.05, 25),
        ("bridge_matching", 4, 0.3, 25),
        ("bridge_matching", 2, 0.8, 200),  # a short horizon is slow to forget the start
    ],
)
def test_ends_at_the_static_bridge(objective, T, alpha_bar_end, iterations):
    """In coupling and both marginals, from either end."""
    problem = LinearGaussian(dx=3, dy=2, seed=1)
    zero = torch.zeros(3, dtype=torch.float64)
    data, noise = AffineGaussian(problem.G, zero, problem.C), AffineGaussian(0 * problem.G, zero, torch.eye(3).double())
    steps = ipf(problem, Grid.from_schedule(Power(alpha_bar_end, 3.0), T), iterations, objective)
    expected = static_bridge(alpha_bar_end, problem.G, zero, problem.C)
    close(coupling(noise, compose(steps[-2].kernels[::-1]), False), expected, 1e-6)
    close(coupling(data, compose(steps[-1].kernels), True), expected, 1e-6)
    close(steps[-2].end, data, 1e-6)
    close(steps[-1].end, noise, 1e-6)


def test_the_first_half_step_of_bridge_matching_is_that_of_ipf(problem, grid):
    one, two = (ipf(problem, grid, 1, objective)[0] for objective in ("bridge_matching", "likelihood"))
    for ours, theirs in zip(one.kernels, two.kernels):
        close(ours, theirs, 1e-10)


def test_the_coupling_of_a_kernel_that_turns(problem):
    law = AffineGaussian(problem.G, torch.ones(2).double(), problem.C)
    kernel = AffineKernel(problem.A, problem.G, torch.ones(2).double(), problem.C)
    cross = law.P @ problem.A.T  # Cov(start, end), not symmetric
    torch.testing.assert_close(coupling(law, kernel, True).P[:2, 2:], cross)
    torch.testing.assert_close(coupling(law, kernel, False).P[2:, :2], cross)


def simulate(start, kernels, y, generator):
    """States along a path of affine kernels, (steps + 1) of (N, d)."""
    path = [start]
    for kernel in kernels:
        noise = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        path.append(kernel.mean(path[-1], y) + noise @ torch.linalg.cholesky(kernel.S).T)
    return path


def regress(target, x, y):
    """(M, N, c, residual covariance) of target on (x, y), with the largest standard error of a coefficient."""
    X = torch.cat([x, y, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    w = torch.linalg.lstsq(X, target).solution.T
    residual = target - X @ w.T
    cov = residual.T @ residual / len(x)
    error = (cov.diagonal().max() * torch.linalg.inv(X.T @ X).diagonal().max()).sqrt()
    return (w[:, :2], w[:, 2:4], w[:, 4], cov), float(error)


@pytest.mark.parametrize("objective", ["likelihood", "likelihood_diagonal", "mean_matching"])
@pytest.mark.parametrize("n", [1, 2])
def test_one_half_step_against_simulation(problem, grid, objective, n):
    """Half-step n as the design states it: trajectories of π^n, then a regression at every step."""
    steps, T, N = ipf(problem, grid, 2, objective), grid.T, 200_000
    generator, backward = seeded(5, n), n % 2 == 0
    y = 1.3 * torch.randn(N, 2, generator=generator, dtype=torch.float64) + 0.2
    start = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    if backward:
        start = y @ problem.G.T + start @ torch.linalg.cholesky(problem.C).T
    path_kernels = list(steps[n - 1].kernels)  # in the order k = 1..T
    path = simulate(start, path_kernels if backward else path_kernels[::-1], y, generator)
    states = path if backward else path[::-1]  # states[k] = x_k
    for k in range(1, T + 1):
        x, target = (states[k], states[k - 1]) if backward else (states[k - 1], states[k])
        kernel, fitted = path_kernels[k - 1], steps[n].kernels[k - 1]
        if objective == "mean_matching":
            target = x + kernel.mean(target, y) - kernel.mean(x, y)
        (M, N_, c, cov), error = regress(target, x, y)
        for found, expected in zip((M, N_, c), fitted):
            torch.testing.assert_close(found, expected, atol=5 * error, rtol=0)
        if objective == "mean_matching":
            torch.testing.assert_close(fitted.S, grid.beta[k] * torch.eye(2).double())
            continue
        if objective == "likelihood_diagonal":
            cov = torch.diag(cov.diagonal())
        torch.testing.assert_close(cov, fitted.S, atol=5 * (2 / N) ** 0.5 * float(cov.diagonal().max()), rtol=0)
