"""Exact posteriors against computations that share nothing with them, and simulation-based checks."""

import math

import pytest
import torch

from csb.errors import CSBError
from csb.problems import BOD, LinearGaussian, TwoMoons, build_problem
from csb.process import seeded

Y_BOD = torch.tensor([0.18, 0.32, 0.42, 0.49, 0.54])


def features(x, y):
    """Functions whose means under p(x, y) a posterior must reproduce, (N, F), float64."""
    x, y = x.double(), y.double()
    products = (x[:, :, None] * x[:, None]).flatten(1), (x[:, :, None] * y[:, None]).flatten(1)
    return torch.cat([x, *products, x**3, x.abs(), (x[:, :1] + x[:, 1:2]).abs() * y[:, :1]], dim=1)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("linear_gaussian", 3000), ("two_moons", 1000), ("gaussian_mixture", 1000), ("sbi_gaussian_linear", 2000),
        ("sbi_gaussian_linear_uniform", 500), ("sbi_gaussian_mixture", 500), ("bod", 10),
    ],
)  # fmt: skip
def test_draws_over_observations_reproduce_the_prior(name, n):
    """x' ~ p(x | y) with y ~ p(y) must have, together with y, the law of (x, y); paired, five standard errors."""
    problem, generator = build_problem({"name": name}), seeded(11)
    x, y, _ = problem.pairs("test", n)
    drawn = torch.cat([problem.posterior(y[i]).sample(1, generator) for i in range(n)])
    difference = features(drawn, y) - features(x, y)
    assert bool((difference.mean(dim=0).abs() < 5 * difference.std(dim=0) / math.sqrt(n)).all())


@pytest.mark.parametrize("problem", [LinearGaussian(), BOD()], ids=["linear_gaussian", "bod"])
def test_draws_have_mean_and_covariance(problem):
    posterior = problem.posterior(Y_BOD if isinstance(problem, BOD) else problem.pairs("test", 1).y[0])
    draws = posterior.sample(200_000, seeded(4)).double()
    torch.testing.assert_close(draws.mean(0), posterior.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(draws.T.cov(), posterior.cov, atol=0.01, rtol=0)


class TestLinearGaussian:
    def test_gain_and_covariance_by_regression(self):
        problem = LinearGaussian()
        x, y, _ = problem.pairs("train")
        x, y = x.double(), y.double()
        G = torch.linalg.lstsq(y, x).solution.T
        residual = x - y @ G.T
        torch.testing.assert_close(G, problem.G, atol=0.02, rtol=0)
        torch.testing.assert_close(residual.T @ residual / len(x), problem.C, atol=0.01, rtol=0)

    def test_the_operator_is_fixed_by_the_seed_and_the_posterior_correlated(self):
        A, C = LinearGaussian().A, LinearGaussian().C
        assert torch.equal(A, LinearGaussian().A)
        assert not torch.equal(A, LinearGaussian(seed=1).A)
        assert float(torch.linalg.cond(A)) == pytest.approx(5)
        wide = LinearGaussian(dx=4, dy=2)
        precision = torch.eye(4).double() + wide.A.T @ wide.A / wide.noise**2
        torch.testing.assert_close(wide.C, torch.linalg.inv(precision))
        torch.testing.assert_close(wide.G, wide.C @ wide.A.T / wide.noise**2)
        assert 0.2 < float((C / C.diagonal().sqrt().outer(C.diagonal().sqrt()) - torch.eye(5)).abs().max()) < 0.95


class TestBOD:
    def test_moments_of_the_literature(self):
        moments = BOD().posterior(Y_BOD).moments
        assert moments["mean"].tolist() == pytest.approx([0.0436, 0.9265], abs=5e-5)
        assert moments["cov"].diagonal().tolist() == pytest.approx([0.1693, 0.3995], abs=5e-5)
        assert moments["skew"].tolist() == pytest.approx([2.012, 0.642], abs=5.1e-4)
        assert moments["kurtosis"].tolist() == pytest.approx([9.061, 3.400], abs=5.1e-4)

    def test_by_importance_sampling(self):
        y = BOD().pairs("test", 1).y[0].double()
        x = torch.randn(1_000_000, 2, generator=seeded(3), dtype=torch.float64)
        t = torch.arange(1, 6, dtype=torch.float64)
        cdf = torch.special.ndtr(x)  # (1 + erf(x/√2))/2
        readings = (0.4 + 0.8 * cdf[:, :1]) * (1 - (-(0.01 + 0.3 * cdf[:, 1:]) * t).exp())
        w = (-0.5 * (readings - y).square().sum(1) / 1e-3).softmax(0)
        error = 5 * w.square().sum().sqrt()
        posterior = BOD().posterior(y)
        torch.testing.assert_close(w @ x, posterior.mean, atol=float(error), rtol=0)
        centred = x - w @ x
        torch.testing.assert_close((centred * w[:, None]).T @ centred, posterior.cov, atol=2 * float(error), rtol=0)

    def test_the_skew_of_draws(self):
        posterior = BOD().posterior(Y_BOD)
        draws = posterior.sample(200_000, seeded(4)).double()
        skew = ((draws - draws.mean(0)) / draws.std(0)).pow(3).mean(0)
        torch.testing.assert_close(skew, posterior.moments["skew"], atol=0.1, rtol=0)
        assert len(draws.unique(dim=0)) > 199_000  # the jitter: no two draws at one cell's centre

    def test_the_noise_has_variance_a_thousandth(self):
        problem = BOD()
        x, y, _ = problem.pairs("test")
        assert float((y - problem.forward(x)).var()) == pytest.approx(1e-3, rel=0.03)


class TestTwoMoons:
    @pytest.mark.parametrize("x", [(0.95, -0.9), (0.02, -0.03), (0.98, 0.97)])
    def test_by_quadrature(self, x):
        y = TwoMoons().observe(torch.tensor([x]), seeded(5))[0]
        axis = (torch.arange(1000, dtype=torch.float64) + 0.5) / 500 - 1
        grid = torch.cartesian_prod(axis, axis)
        m = y.double() - torch.stack([-(grid.sum(1)).abs(), grid[:, 1] - grid[:, 0]], 1) / math.sqrt(2)
        p, q = m[:, 0] - 0.25, m[:, 1]
        r = (p**2 + q**2).sqrt()
        weight = torch.where(p > 0, (-0.5 * ((r - 0.1) / 0.01) ** 2).exp() / r, torch.zeros(()))
        w = weight / weight.sum()
        draws = TwoMoons().posterior(y).sample(40_000, seeded(6)).double()

        def statistics(z):
            u, v = z.sum(1), z[:, 1] - z[:, 0]
            upper = torch.heaviside(u.round(decimals=9), torch.tensor(0.5).double())
            return torch.stack([z[:, 0], z[:, 1], u.abs(), v, u**2, v**2, u.abs() * v, upper], 1)

        exact, found = w @ statistics(grid), statistics(draws)
        error = found.std(0) / math.sqrt(len(draws))
        assert bool(((found.mean(0) - exact).abs() < 5 * error + 1e-4).all())
        assert bool((draws.abs() <= 1).all())

    def test_an_impossible_observation(self):
        with pytest.raises(CSBError, match=r"\(nearly\) impossible under the prior of two_moons") as error:
            TwoMoons().posterior(torch.tensor([5.0, 0.0])).sample(1, seeded(0))
        assert "\n" not in str(error.value)
