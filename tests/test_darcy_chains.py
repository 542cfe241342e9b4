"""The chains that a log-permeability is compared with: a small nonlinear problem against quadrature."""

import math

import torch
from darcy import approximation, chain

from csb.process import seeded


def test_chains_have_the_moments_of_quadrature() -> None:
    """u ~ N(0, I) in the plane, y = u_0 + ½ u_1² + noise."""
    std, y = 0.5, torch.tensor([0.8], dtype=torch.float64)

    def forward(u: torch.Tensor) -> torch.Tensor:
        return (u[..., 0] + 0.5 * u[..., 1] ** 2)[..., None] if u.ndim > 1 else (u[0] + 0.5 * u[1] ** 2)[None]

    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weight = (-0.5 * grid.square().sum(1) - 0.5 * ((y - forward(grid)) ** 2).sum(1) / std**2).softmax(0)
    mean = weight @ grid
    sd = (weight @ (grid - mean) ** 2).sqrt()
    eye = torch.eye(2, dtype=torch.float64)
    of = approximation(forward, y, eye, std)
    states, accepted = chain(forward, y, eye, of, std, 20_000, seeded(1))
    assert accepted > 0.3
    torch.testing.assert_close(states.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(states.std(0), sd, rtol=0.05, atol=0)


def test_the_approximation_of_a_linear_problem_is_its_posterior() -> None:
    A = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64)
    y, eye = torch.tensor([1.5], dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    of = approximation(lambda u: A @ u, y, eye, 0.3)
    cov = torch.linalg.inv(eye + A.T @ A / 0.09)
    torch.testing.assert_close(of.mode, cov @ A.T @ y / 0.09, rtol=1e-6, atol=1e-6)
    states, accepted = chain(lambda u: A @ u, y, eye, of, 0.3, 16_000, seeded(2))
    assert accepted == 1
    torch.testing.assert_close(torch.cov(states.T), cov, rtol=0, atol=0.12)
    assert math.isclose(float(states.mean(0) @ A[0]), float(A @ of.mode), abs_tol=0.05)
