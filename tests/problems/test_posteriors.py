"""Exact posteriors, and the cut normal laws of some, against computations that share nothing with them."""

import math

import pytest
import torch
from scipy import integrate, special, stats

from csb.errors import CSBError
from csb.problems import (
    BOD,
    LinearGaussian,
    SbiGaussianLinear,
    SbiGaussianLinearUniform,
    SbiGaussianMixture,
    TwoMoons,
    build_problem,
)
from csb.problems.mixture import TruncatedNormal
from csb.process import seeded

Y_BOD = torch.tensor([0.18, 0.32, 0.42, 0.49, 0.54])


def features(x, y):
    """Functions whose means under p(x, y) a posterior must reproduce, (N, F), float64."""
    x, y = x.double(), y.double().flatten(1).nan_to_num(0.0)
    products = (x[:, :, None] * x[:, None]).flatten(1), (x[:, :, None] * y[:, None]).flatten(1)
    return torch.cat([x, *products, x**3, x.abs(), (x[:, :1] + x[:, 1:2]).abs() * y[:, :1]], dim=1)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("linear_gaussian", 3000), ("two_moons", 1000), ("gaussian_mixture", 1000), ("sbi_gaussian_linear", 2000),
        ("sbi_gaussian_linear_uniform", 500), ("sbi_gaussian_mixture", 500), ("bod", 20), ("normal_set", 1000),
        ("linear_gaps", 1000), ("counts", 100),
    ],
)  # fmt: skip
def test_draws_over_observations_reproduce_the_prior(name, n):
    """x' ~ p(x | y) with y ~ p(y) must have, together with y, the law of (x, y); paired, five standard errors.

    Of the other problems, test_many_dimensions.py has the ranks.
    """
    problem, generator = build_problem({"name": name}), seeded(11)
    x, y, _ = problem.pairs("test", n)
    drawn = torch.cat([problem.posterior(y[i]).sample(1, generator) for i in range(n)])
    difference = features(drawn, y) - features(x, y)
    assert bool((difference.mean(dim=0).abs() <= 5 * difference.std(dim=0) / math.sqrt(n)).all())


@pytest.mark.parametrize("problem", [LinearGaussian(), BOD()], ids=["linear_gaussian", "bod"])
def test_draws_have_the_moments(problem):
    posterior = problem.posterior(Y_BOD if isinstance(problem, BOD) else problem.pairs("test", 1).y[0])
    draws = posterior.sample(200_000, seeded(4)).double()
    torch.testing.assert_close(draws.mean(0), posterior.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(draws.T.cov(), posterior.cov, atol=0.01, rtol=0)
    skew = ((draws - draws.mean(0)) / draws.std(0)).pow(3).mean(0)
    exact = posterior.moments["skew"] if isinstance(problem, BOD) else torch.zeros(5).double()
    torch.testing.assert_close(skew, exact, atol=0.1, rtol=0)
    assert len(draws.unique(dim=0)) > 199_000  # of a grid: the jitter, no two draws at one cell's centre


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
        with pytest.raises(CSBError, match=r"\(nearly\) impossible under the prior of two_moons"):
            TwoMoons().posterior(torch.tensor([5.0, 0.0])).sample(1, seeded(0))


CASES = [  # mean, std, low, high
    (0.0, 1.0, -1.0, 2.0), (3.0, 0.3, -1.0, 1.0), (-3.0, 0.3, -1.0, 1.0), (0.2, 0.01, -1.0, 1.0),
    (9.95, 1.0, -10.0, 10.0), (0.0, 50.0, -1.0, 1.0), (10.4, 0.1, -10.0, 10.0),
]  # fmt: skip


def one(mean, std, low, high):
    mean, low, high = torch.tensor([[mean], [low], [high]], dtype=torch.float64)
    return TruncatedNormal(mean, std, low, high)


def by_quadrature(mean, std, low, high):
    """Mass, mean and variance by adaptive quadrature on the density itself."""
    low, high = max(low, min(mean, high) - 12 * std), min(high, max(mean, low) + 12 * std)

    def moment(f):
        return integrate.quad(
            lambda x: f(x) * stats.norm.pdf(x, mean, std), low, high, epsabs=0, epsrel=1e-11, limit=400
        )[0]

    mass = moment(lambda x: 1.0)
    centre = low + moment(lambda x: x - low) / mass
    return mass, centre, moment(lambda x: (x - centre) ** 2) / mass


@pytest.mark.parametrize("case", CASES, ids=str)
class TestTruncatedNormal:
    def test_mass_and_moments_by_quadrature(self, case):
        law, (mass, mean, variance) = one(*case), by_quadrature(*case)
        found = law.moments()
        assert float(law.log_mass) == pytest.approx(math.log(mass), abs=1e-9)
        assert float(found[0]) == pytest.approx(mean, abs=1e-9 * case[1])
        assert float(found[1]) == pytest.approx(variance, rel=1e-8)

    def test_draws_have_the_law(self, case):
        mean, std, low, high = case
        draws = one(*case).sample(20_000, seeded(1))[:, 0]
        assert float(draws.min()) >= low
        assert float(draws.max()) <= high
        cut = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
        assert stats.kstest(draws.numpy(), cut.cdf).pvalue > 1e-4


@pytest.mark.parametrize("distance", [10.0, 1e3, 1e6])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_far_in_the_tails_the_law_is_exponential(side, distance):
    """N(0, 1) beyond a: (t − a)·a → Exp(1), with mean (1 − 1/a² …)."""
    law = one(side * (1 + distance), 1.0, -1.0, 1.0)
    assert float(law.log_mass) == pytest.approx(special.log_ndtr(-distance), rel=1e-10)
    gap = (side - law.sample(20_000, seeded(2))[:, 0]) * side * distance
    mean, variance = (float(v) for v in law.moments())
    assert (side - mean) * side * distance == pytest.approx(1, abs=max(3 / distance**2, 1e-9 * distance))
    assert variance * distance**2 == pytest.approx(1, abs=max(7 / distance**2, 1e-9 * distance))
    assert float(gap.mean()) == pytest.approx(1, abs=0.04)
    assert float(gap.min()) >= 0


def test_gaussian_linear_by_regression_and_conditioning():
    problem = SbiGaussianLinear()
    x, y, _ = problem.pairs("train", 50_000)
    assert float(x.var()) == pytest.approx(0.1, rel=0.01)
    assert float((y - x).var()) == pytest.approx(0.1, rel=0.01)
    residual = x - y / 2
    torch.testing.assert_close(residual.T.cov(), 0.05 * torch.eye(10), atol=0.002, rtol=0)
    law = problem.posterior(y[0])
    torch.testing.assert_close(law.mean, y[0].double() / 2)
    torch.testing.assert_close(law.cov, 0.05 * torch.eye(10, dtype=torch.float64))


def assert_draws(problem, law, draws, mean, cov):
    """Draws inside the box, with the law's mean and covariance to these tolerances."""
    assert bool(problem.support.contains(draws).all())
    torch.testing.assert_close(draws.mean(0).double(), law.mean, atol=mean, rtol=0)
    torch.testing.assert_close(draws.T.cov().double(), law.cov, atol=cov, rtol=0)


def test_gaussian_linear_uniform_by_reweighting_the_prior():
    """Coordinates are independent: each is reweighted by itself, one of them beyond the bound."""
    problem = SbiGaussianLinearUniform()
    y = torch.linspace(-1.6, 1.2, 10)
    x = problem.prior(400_000, seeded(3)).double()
    w = (-0.5 * (x - y).square() / 0.1).softmax(0)
    mean = (w * x).sum(0)
    variance = (w * (x - mean).square()).sum(0)
    error = 6 * w.square().sum(0).sqrt()
    law = problem.posterior(y)
    assert bool(((law.mean - mean).abs() < error * variance.sqrt()).all())
    assert bool(((law.cov.diagonal() / variance - 1).abs() < 2 * error).all())
    assert float((law.cov - law.cov.diagonal().diag()).abs().max()) < 1e-15
    assert_draws(problem, law, law.sample(100_000, seeded(4)), 0.006, 0.002)


@pytest.mark.parametrize("y", [(9.8, -4.0), (11.5, 0.0), (-10.15, -10.1)])
def test_gaussian_mixture_on_a_grid(y):
    """The density on two grids, a coarse one and a fine one near y, against moments, weights and draws."""
    problem, y = SbiGaussianMixture(), torch.tensor(y)
    low, high = (y.double() - 8).clamp_min(-10), (y.double() + 8).clamp_max(10)
    axes = [a + (b - a) * (torch.arange(1600, dtype=torch.float64) + 0.5) / 1600 for a, b in zip(low, high)]
    x = torch.cartesian_prod(*axes)
    square = (x - y).square().sum(1)
    parts = torch.stack([(-0.5 * square).exp(), (-0.5 * square / 0.01).exp() / 0.01])
    w = parts.sum(0) / parts.sum()
    mean = w @ x
    cov = (x - mean).T @ ((x - mean) * w[:, None])
    law = problem.posterior(y)
    torch.testing.assert_close(law.weights, parts.sum(1) / parts.sum(), atol=2e-3, rtol=0)
    torch.testing.assert_close(law.mean, mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(law.cov, cov, atol=2e-3, rtol=0)
    draws = law.sample(50_000, seeded(5)).double()
    assert_draws(problem, law, draws, 0.03, 0.03)
    near = (draws - y).square().sum(1) < 0.3**2
    exact = float(w[square < 0.3**2].sum())
    assert float(near.double().mean()) == pytest.approx(exact, abs=0.015)


def test_the_mixtures_error_is_broad_or_narrow_in_both_coordinates_at_once():
    x, y, _ = SbiGaussianMixture().pairs("train", 50_000)
    error = (y - x).double()
    assert float(error.square().mean()) == pytest.approx(0.505, rel=0.03)
    both = (error[:, 0].square() * error[:, 1].square()).mean()  # ½(1 + 10⁻⁴); apart it would be .505²
    assert float(both) == pytest.approx(0.5, rel=0.08)
