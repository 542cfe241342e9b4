"""Cut normal laws and the posteriors made of them, against quadrature, closed forms and reweighted prior draws."""

import math

import pytest
import torch
from scipy import integrate, special, stats

from csb.problems import SbiGaussianLinear, SbiGaussianLinearUniform, SbiGaussianMixture
from csb.problems.mixture import TruncatedNormal
from csb.process import seeded

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
