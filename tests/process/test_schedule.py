"""Schedules and grids: end points, monotony, horizon, errors."""

import math

import pytest
import torch

from csb.errors import CSBError
from csb.process import SCHEDULES, Cosine, Grid, LinearBeta, Power

HORIZONS = [0.3, 4.3e-5]


@pytest.mark.parametrize("end", HORIZONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_bar_falls_from_one_to_the_horizon(name, end):
    schedule = SCHEDULES[name](alpha_bar_end=0.2).replace(alpha_bar_end=end)
    assert schedule == SCHEDULES[name](alpha_bar_end=end)
    alpha_bar = schedule.alpha_bar(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert alpha_bar.dtype == torch.float64
    assert alpha_bar[0] == 1
    assert float(alpha_bar[-1]) == pytest.approx(end, rel=1e-9)
    assert bool((alpha_bar[1:] < alpha_bar[:-1]).all())


def test_power_of_one_is_a_constant_beta():
    tau = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(Power(0.3, 1.0).log_alpha_bar(tau), math.log(0.3) * tau)


def test_linear_beta_integrates_beta():
    schedule = LinearBeta(4.3e-5)
    tau = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    beta = schedule.beta_min + (schedule.beta_max - schedule.beta_min) * tau
    integral = torch.trapezoid(beta, tau)
    assert float(schedule.log_alpha_bar(tau[-1])) == pytest.approx(-float(integral), rel=1e-9)
    assert schedule.beta_max == pytest.approx(20, abs=0.05)


def test_cosine_is_the_published_curve_where_it_is_not_cut():
    # With a horizon of 1e-12 the cut is at 1 − 6e-7, so that ᾱ(τ) is cos²((τ + s)/(1 + s) π/2) over its value at 0.
    tau, s = torch.linspace(0, 0.9, 10, dtype=torch.float64), 0.008
    f = torch.cos((tau + s) / (1 + s) * math.pi / 2) ** 2
    assert torch.allclose(Cosine(1e-12).alpha_bar(tau), f / f[0], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        *((lambda end=end: Power(end), f"alpha_bar_end={end!r} is not possible") for end in (0.0, 1.0)),
        (lambda: LinearBeta(0.3, beta_min=2.0), "beta_min=2.0 is outside .0, 1.2., the range that alpha_bar_end=0.3"),
        *((lambda T=T: Grid.from_schedule(Power(0.3), T), "T=") for T in (0, "10")),
        (lambda: Grid(torch.tensor([0.9, 0.5])), "fall strictly"),
        (lambda: Grid(torch.tensor([1.0, 0.5, 0.5])), "fall strictly"),
        (lambda: Grid(torch.tensor([1.0, 0.5, 0.0])), "stay above 0"),
        (lambda: Grid(torch.tensor([1.0, math.nan])), "fall strictly"),
        (lambda: Grid.from_schedule(Power(0.1, 1e-300), 10), "^alpha_bar of T=10 steps must fall strictly from 1"),
    ],
)
def test_arguments_out_of_range(make, match):
    with pytest.raises(CSBError, match=match) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("T", [1, 2, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_grid_beta_and_mirror(name, T):
    grid = Grid.from_schedule(SCHEDULES[name](alpha_bar_end=0.1), T)
    assert grid.T == T
    assert grid.beta.shape == (T + 1,)
    assert grid.beta[0] == 0
    assert bool(((grid.beta[1:] > 0) & (grid.beta[1:] < 1)).all())
    assert torch.allclose((1 - grid.beta).cumprod(0), grid.alpha_bar, rtol=1e-12)
    mirror = grid.mirror()
    assert torch.allclose(mirror.beta[1:], grid.beta[1:].flip(0), atol=1e-14)
    assert torch.allclose(mirror.mirror().alpha_bar, grid.alpha_bar, rtol=1e-14)
