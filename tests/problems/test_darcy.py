"""Darcy's law: its solution against a series and the dense matrix, its gradient against differences."""

import math

import numpy as np
import pytest
import torch

from csb.problems import Darcy
from csb.problems.darcy import balance, bands, pressure, solved
from csb.process import seeded


def _field(side: int) -> torch.Tensor:
    return torch.randn(2, side, side, dtype=torch.float64, generator=seeded(side))


def test_the_bands_are_those_of_the_balance() -> None:
    u, side = _field(5), 5
    eye = torch.eye(side**2, dtype=torch.float64).view(-1, side, side)
    for one in u:
        rows = [balance(one.expand(len(eye), -1, -1), a.expand_as(eye), eye) for a in eye]
        A = torch.stack(rows).numpy()
        found = bands(one.numpy())
        for below in range(side + 1):
            np.testing.assert_allclose(np.diagonal(A, -below), found[below][: side**2 - below], atol=1e-12)
        right = np.arange(side**2, dtype=float).reshape(1, side, side)
        np.testing.assert_allclose(A @ solved(one.numpy()[None], right).ravel(), right.ravel(), atol=1e-9)


def test_pressure_of_even_ground_is_that_of_the_series() -> None:
    """p = Σ 16/(π⁴ m n (m² + n²)) sin(mπx) sin(nπy) over odd m, n; the scheme's error falls as the grid's square."""
    errors = []
    for side in (16, 32):
        at = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        odd = torch.arange(1, 80, 2, dtype=torch.float64)
        wave = (math.pi * odd[:, None] * at).sin()
        weight = 16 / (math.pi**4 * odd[:, None] * odd * (odd[:, None] ** 2 + odd**2))
        exact = wave.T @ weight @ wave
        errors.append(float((pressure(torch.zeros(1, side, side, dtype=torch.float64))[0] - exact).abs().max()))
    assert errors[1] < 2e-4
    assert errors[1] < 0.35 * errors[0]


def test_the_gradient_is_that_of_differences() -> None:
    assert torch.autograd.gradcheck(pressure, _field(4).requires_grad_())


def test_sensors_see_the_pressure_with_noise() -> None:
    problem = Darcy(n_train=300, n_val=10, n_test=10)
    x, y, _ = problem.pairs("train")
    noise = y - problem.forward(x)
    assert y.shape == (300, 64)
    assert abs(float(noise.std()) / problem.noise_std - 1) < 0.05
    assert 0.03 < float(noise.std() / y.std(0).mean()) < 0.07


@pytest.mark.nightly
def test_no_field_is_solved_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, solved = Darcy(n_train=30, n_val=10, n_test=10), []
    assert problem.noise_std > 0
    forward = Darcy.forward
    monkeypatch.setattr(Darcy, "forward", lambda self, x: solved.append(len(x)) or forward(self, x))
    few, pairs, again = problem.pairs("train", 10), problem.pairs("train"), problem.pairs("train", 20)
    assert solved == [10, 20]
    for some in (few, again):
        assert torch.equal(some.x, pairs.x[: len(some.x)])
        assert torch.equal(some.y, pairs.y[: len(some.x)])
    assert Darcy(n_train=30).pairs("train", 5).y.allclose(pairs.y[:5])
