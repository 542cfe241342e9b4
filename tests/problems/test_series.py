"""Grid posteriors against closed forms; epidemic, oscillator and counts against scipy and their moments."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from csb.problems import SIR, Counts, GridPosterior, Mixture, Oscillator
from csb.process import seeded


def mixture(*components):
    """Of (weight, mean, deviations, correlation)."""
    weights, means, deviations, rho = (torch.tensor(part, dtype=torch.float64) for part in zip(*components))
    corr = torch.eye(2).double() + rho[:, None, None] * (1 - torch.eye(2).double())
    return Mixture(weights, means, corr * deviations[:, :, None] * deviations[:, None])


@pytest.mark.parametrize(
    "law",
    [
        mixture((1.0, (0.3, -0.2), (1.0, 0.5), 0.0)),
        mixture((1.0, (0.312, -0.2), (0.01, 0.02), 0.95)),
        mixture((1.0, (-3.01, 4.2), (1e-3, 1e-4), -0.5)),
        mixture((0.7, (-2.0, 1.0), (0.3, 0.2), 0.5), (0.3, (2.0, 0.0), (0.4, 0.3), -0.8)),
    ],
    ids=["broad", "narrow and correlated", "a needle", "two modes"],
)
class TestGridPosterior:
    def posterior(self, law):
        return GridPosterior(law.log_prob, torch.full((2,), -6.0).double(), torch.full((2,), 6.0).double())

    def test_moments_are_those_of_the_closed_form(self, law):
        moments, scale = self.posterior(law).moments, law.cov.diagonal().sqrt()
        torch.testing.assert_close(moments["mean"] / scale, law.mean / scale, atol=1e-5, rtol=1e-7)
        correlation = scale.outer(scale)
        torch.testing.assert_close(moments["cov"] / correlation, law.cov / correlation, atol=1e-5, rtol=0)
        if len(law.weights) == 1:
            torch.testing.assert_close(moments["skew"], torch.zeros(2).double(), atol=1e-5, rtol=0)
            torch.testing.assert_close(moments["kurtosis"], torch.full((2,), 3.0).double(), atol=1e-4, rtol=0)

    def test_draws_have_the_marginal_laws(self, law):
        draws = self.posterior(law).sample(100_000, seeded(1)).double()
        for direction in torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, -0.8]]).double():
            means, deviations = law.means @ direction, ((law.covs @ direction) @ direction).sqrt()
            z = draws @ direction
            below = sum(w * torch.special.ndtr((z - m) / s) for w, m, s in zip(law.weights, means, deviations))
            assert stats.kstest(below.numpy(), "uniform").pvalue > 1e-4


class TestSIR:
    @pytest.mark.parametrize("x", [(-0.9, -2.1), (0.3, -1.7), (-2.4, -1.6)])
    def test_the_curve_solves_the_three_equations(self, x):
        beta, gamma = np.exp(x)
        days = 4.0 * np.arange(1, 21)
        solved = integrate.solve_ivp(
            lambda t, v: (-beta * v[0] * v[1], beta * v[0] * v[1] - gamma * v[1], gamma * v[1]),
            (0, 80), (0.999, 0.001, 0.0), t_eval=days, rtol=1e-10, atol=1e-12,
        ).y[1]  # fmt: skip
        found = SIR().infected(torch.tensor([x], dtype=torch.float64), 20)[0].numpy()
        np.testing.assert_allclose(found, solved, atol=1e-3)
        fine = SIR().infected(torch.tensor([x], dtype=torch.float64), 20, steps=80)[0].numpy()
        np.testing.assert_allclose(fine, solved, atol=1e-7)

    def test_readings_have_the_moments_of_a_binomial_law(self):
        problem, x = SIR(), torch.tensor([[-0.9, -2.1]]).expand(40_000, 2)
        y = problem.observe(x, seeded(2))[..., 0].double()
        share, found = problem.infected(x[:1].double(), 20)[0], y.square()
        count = (~y.isnan()).sum(0)
        torch.testing.assert_close(count / len(y), torch.arange(20, 0, -1) / 20, atol=0.01, rtol=0)
        error = (share * (1 - share) / 100).sqrt()
        assert bool(((found.nanmean(0) - share).abs() < 5 * error / count.sqrt() + 1e-6).all())
        variance = (found - found.nanmean(0)).square().nanmean(0)
        torch.testing.assert_close(variance, error.square(), rtol=0.15, atol=0)

    def test_the_likelihood_is_binomial(self):
        problem = SIR()
        y = problem.pairs("test", 1).y
        x = problem.prior(50, seeded(3)).double()
        k = (100 * y[0, :, 0].double().square()).round()
        there = ~k.isnan()
        share = problem.infected(x, 20)[:, there]
        exact = stats.binom.logpmf(k[there].numpy(), 100, share.numpy()).sum(1)
        found = problem.log_likelihood(x, y[0].double()).numpy()
        np.testing.assert_allclose(found - found[0], exact - exact[0], rtol=1e-4, atol=1e-3)


class TestOscillator:
    omega, gamma = 0.7, 0.1

    def kernel(self, omega, gamma, length):
        lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        return np.exp(-gamma * lag) * np.cos(omega * lag) + 0.09 * np.eye(length)

    def test_the_filter_gives_the_density_of_a_dense_normal_law(self):
        problem = Oscillator(gaps=0.8)
        others = problem.prior(5, seeded(4)).double()
        for one in problem.pairs("test", 5).y.double():
            there = (~one[:, 0].isnan()).numpy()
            values = one[there, 0].numpy()
            exact = [
                stats.multivariate_normal(cov=self.kernel(*point.exp().tolist(), 40)[there][:, there]).logpdf(values)
                for point in others
            ]
            found = problem.log_likelihood(others, one) - there.sum() / 2 * math.log(2 * math.pi)
            np.testing.assert_allclose(found.numpy(), exact, rtol=1e-9)

    def test_series_have_the_kernel_as_covariance(self):
        x = torch.tensor([[self.omega, self.gamma]]).log().expand(100_000, 2)
        y = Oscillator(length=12, gaps=0.0).observe(x, seeded(5))[..., 0].double()
        exact = torch.from_numpy(self.kernel(self.omega, self.gamma, 12))
        torch.testing.assert_close(y.T.cov(), exact, atol=0.025, rtol=0)  # five standard errors
        assert float(y.mean(0).abs().max()) < 0.02

    def test_the_share_of_gaps_is_uniform(self):
        y = Oscillator(length=400).observe(torch.zeros(400, 2), seeded(9))[..., 0]
        assert stats.kstest(y.isnan().double().mean(1).numpy() / 0.5, "uniform").pvalue > 1e-4


class TestCounts:
    def pmf(self, k, logit, log_rate):
        share = 1 / (1 + math.exp(-logit))
        return share * (k == 0) + (1 - share) * stats.poisson.pmf(k, math.exp(log_rate))

    def test_the_likelihood_is_that_of_a_zero_inflated_poisson_law(self):
        problem = Counts()
        for y, x in zip(problem.pairs("test", 10).y.double(), problem.prior(10, seeded(6)).double()):
            points = torch.stack([x, x + 0.5])
            values = y[~y.isnan()].square().round().numpy()
            exact = [np.log(self.pmf(values, *point.tolist())).sum() for point in points]
            found = problem.log_likelihood(points, y)
            assert float(found[1] - found[0]) == pytest.approx(exact[1] - exact[0], rel=1e-6, abs=1e-5)

    def test_counts_have_the_probabilities(self):
        x = torch.tensor([[-0.5, 0.6]]).expand(20_000, 2)
        y = Counts(largest=5).observe(x, seeded(7)).double()
        values = y[~y.isnan()].square().round().numpy()
        for k in range(6):
            chance = self.pmf(np.array(k), -0.5, 0.6)
            assert (values == k).mean() == pytest.approx(chance, abs=5 * math.sqrt(chance / len(values)))


@pytest.mark.parametrize("problem", [SIR(), Oscillator(), Counts()], ids=lambda problem: problem.name)
def test_without_readings_the_posterior_is_the_prior(problem):
    posterior = problem.posterior(torch.full(problem.y_shape, torch.nan))
    torch.testing.assert_close(posterior.mean, torch.tensor(problem.centre).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(posterior.cov.diagonal().sqrt(), torch.tensor(problem.spread).double())
    draws = problem.prior(50_000, seeded(8)).double()
    torch.testing.assert_close(draws.mean(0), posterior.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.T.cov(), posterior.cov, atol=0.05, rtol=0)
