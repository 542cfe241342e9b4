"""Schedules and grids: end points, monotony, horizon, the clock of the forward SDE, Karras et al., errors."""

import math
from itertools import pairwise

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
    torch.testing.assert_close(1 / (1 + grid.noise_ratio**2), grid.alpha_bar)
    mirror = grid.mirror()
    assert torch.allclose(mirror.beta[1:], grid.beta[1:].flip(0), atol=1e-14)
    assert torch.allclose(mirror.mirror().alpha_bar, grid.alpha_bar, rtol=1e-14)


@pytest.mark.parametrize("schedule", [LinearBeta(1e-4), Cosine(1e-3), Power(1e-4, 3.0)], ids=SCHEDULES)
def test_the_clock_is_that_of_the_forward_sde(schedule):
    """Euler–Maruyama on dx = −½ x ds + dW has mean m and variance v of X_k | X_0 = 1 that tend to √ᾱ and 1 − ᾱ."""
    errors = []
    for T in (200, 400, 800):
        grid = Grid.from_schedule(schedule, T)
        s, mean, var, error = grid.clock, 1.0, 0.0, 0.0
        for k in range(1, T + 1):
            h = float(s[k] - s[k - 1])
            mean, var = (1 - h / 2) * mean, (1 - h / 2) ** 2 * var + h
            alpha_bar = float(grid.alpha_bar[k])
            error = max(error, abs(mean - alpha_bar**0.5), abs(var - (1 - alpha_bar)))
        errors.append(error)
    assert errors[-1] < 0.03
    for one, two in pairwise(errors):
        assert math.log2(one / two) == pytest.approx(1, abs=0.15)


class TestKarras:
    @pytest.mark.parametrize("T", [1, 2, 18])
    def test_formula(self, T):
        grid = Grid.karras(T, 1e-4, sigma_min=0.01, rho=3.0)
        assert grid.T == T
        assert float(grid.alpha_bar[-1]) == pytest.approx(1e-4, rel=1e-9)
        roots = grid.noise_ratio[1:] ** (1 / 3)
        assert float(grid.noise_ratio[1]) == pytest.approx(0.01 if T > 1 else 9999**0.5, rel=1e-6)
        torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(T - 1), equal_nan=True)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ((0, 1e-4), "T=0 is not possible"),
            ((5, 1e-4, 0.0), "sigma_min=0.0 is not possible; give a finite number of at least 1e-06"),
            ((5, 0.5, 2.0), "sigma_min=2.0 is not below 1, the horizon"),
        ],
        ids=str,
    )
    def test_errors(self, values, message):
        with pytest.raises(CSBError, match=message):
            Grid.karras(*values)


@pytest.mark.parametrize(("T", "scale"), [(2, 0.01), (10, 0.005), (20, 0.1)])
def test_the_first_step_of_a_power_resolves_the_scale(T, scale):
    schedule = Power.resolving(0.1, T, scale)
    first = 1 - float(schedule.alpha_bar(torch.tensor(1 / T).double()))
    assert first**0.5 == pytest.approx(scale, rel=1e-6)


def test_the_power_stays_in_its_range():
    assert Power.resolving(0.1, 10, 0.9).power == 1
    assert Power.resolving(0.1, 2, 1e-5).power == 19
    assert Power.resolving(0.1, 1, 0.01) == Power(0.1)
    with pytest.raises(CSBError, match="scale"):
        Power.resolving(0.1, 10, 1.5)
