"""The reverse process's steps against closed forms, its clock against the forward SDE, and the grid of Karras et al."""

import math
from itertools import pairwise

import pytest
import torch

from csb.errors import CSBError
from csb.process import Cosine, Grid, LinearBeta, Power, Reference, ddim, euler_maruyama

SCHEDULES = {"linear": LinearBeta(1e-4), "cosine": Cosine(1e-3), "power": Power(1e-4, 3.0)}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.fixture
def grid(schedule):
    return Grid.from_schedule(schedule, 12)


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


def test_noise_ratio(grid):
    torch.testing.assert_close(1 / (1 + grid.noise_ratio**2), grid.alpha_bar)


@pytest.mark.parametrize("k", [1, 2, 7, 12])
class TestSteps:
    def test_ddim_with_eta_one_is_the_ancestral_step(self, grid, k):
        one, two = ddim(grid, k, 1.0), Reference(grid).pinned_start(k)
        torch.testing.assert_close(tuple(one), tuple(two), rtol=1e-9, atol=1e-12)
        noisy = [float(law.var) > 0 for law in (two, euler_maruyama(grid, k), one)]
        assert noisy == [k > 1] * 3  # the last step is noiseless
        assert float(ddim(grid, k).var) == 0

    @pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
    def test_ddim_keeps_the_marginals_where_the_guess_is_right(self, grid, k, eta):
        """X_{k−1} | X_0 is N(√ᾱ_{k−1} x_0, (1−ᾱ_{k−1}) I) again, for any η."""
        law, here, before = ddim(grid, k, eta), grid.alpha_bar[k], grid.alpha_bar[k - 1]
        torch.testing.assert_close(law.near * here.sqrt() + law.far, before.sqrt())
        torch.testing.assert_close(law.near**2 * (1 - here) + law.var, 1 - before)

    def test_euler_maruyama_by_hand(self, grid, k):
        z, z_0 = torch.tensor([0.7, -1.1]).double(), torch.tensor([0.2, 0.5]).double()
        alpha_bar, h = grid.alpha_bar[k], float(grid.alpha_bar[k - 1].log() - grid.alpha_bar[k].log())
        score = (alpha_bar.sqrt() * z_0 - z) / (1 - alpha_bar)
        law = euler_maruyama(grid, k)
        torch.testing.assert_close(law.near * z + law.far * z_0, z + h * (z / 2 + score))
        assert float(law.var) == pytest.approx(h if k > 1 else 0.0, rel=1e-9)


def test_the_last_step_ends_at_the_guess(grid):
    for law in (Reference(grid).pinned_start(1), ddim(grid, 1)):
        assert float(law.near) == pytest.approx(0, abs=1e-12)
        assert float(law.far) == pytest.approx(1, abs=1e-12)
    fine = euler_maruyama(Grid.from_schedule(Power(1e-4, 3.0), 100), 1)
    assert float(fine.near) == pytest.approx(0, abs=1e-4)
    assert float(fine.far) == pytest.approx(1, abs=1e-4)


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
