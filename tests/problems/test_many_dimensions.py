"""Posteriors of several modes, tails and dimensions: calibration, and computations that share nothing with them."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from csb.metrics.calibration import rank_uniformity, sbc_ranks
from csb.problems import GaussianPosterior, Logistic, Modes, NormalWishart, PushedGaussian, build_problem
from csb.problems.logistic import polya_gamma
from csb.problems.pushed import SHAPES, Pushed
from csb.problems.wishart import factors
from csb.process import seeded


def calibration(problem, n):
    """Of ranks of n prior draws among 40 draws given their observations: of x, |x| and products of neighbours."""
    x, y, _ = problem.pairs("test", n)
    drawn = torch.stack([problem.posterior(y[i]).sample(40, seeded(1, i)) for i in range(n)])
    drawn, x = (torch.cat([one, one.abs(), one * one.roll(1, -1)], -1) for one in (drawn, x))
    return rank_uniformity(sbc_ranks(drawn, x, seeded(2)), bins=10)


def reweighted(x, log_w):
    """Mean and covariance of prior draws x (n, d) given unnormalised log weights, with their errors (five of them)."""
    x, w = x.double(), log_w.double().softmax(0)
    mean = w @ x
    centred = x - mean
    products = (centred[:, :, None] * centred[:, None]).flatten(1)
    cov = w @ products
    errors = [5 * (w.square() @ value.square()).sqrt() for value in (centred, products - cov)]
    return mean, cov, *errors


def assert_moments(posterior, mean, cov, error_of_mean, error_of_cov):
    assert bool(((posterior.mean - mean).abs() < error_of_mean).all())
    assert bool(((posterior.cov.flatten() - cov).abs() < error_of_cov).all())
    assert bool((error_of_mean < 0.4 * posterior.cov.diagonal().sqrt()).all())  # which says something


def assert_draws(posterior, n, seed=4):
    """Draws have the posterior's mean and covariance, to five standard errors."""
    mean, cov, *errors = reweighted(posterior.sample(n, seeded(seed)), torch.zeros(n))
    assert_moments(posterior, mean, cov, *errors)


@pytest.mark.parametrize(
    ("spec", "n"),
    [
        ({"name": "normal_wishart"}, 500), ({"name": "normal_wishart", "d": 3}, 500), ({"name": "modes"}, 500),
        ({"name": "modes", "modes": 16}, 200), ({"name": "modes", "bounded": True}, 500),
        ({"name": "modes", "modes": 16, "bounded": True}, 200), ({"name": "pushed", "shape": "shell"}, 500),
        ({"name": "pushed", "shape": "funnel"}, 500), ({"name": "pushed", "shape": "student"}, 500),
        ({"name": "logistic"}, 100),
    ],
    ids=lambda value: "-".join(str(part) for part in value.values()) if isinstance(value, dict) else "",
)  # fmt: skip
def test_ranks_of_prior_draws_are_uniform(spec, n):
    found = calibration(build_problem(spec), n)
    assert found.p_value > 1e-3
    assert stats.chisquare(found.counts.numpy()).pvalue.min() > 1e-4


class TestNormalWishart:
    def test_three_dimensions_by_reweighting_the_prior(self):
        problem = NormalWishart(d=3, n=2)
        y = problem.pairs("test", 1).y[0].double()
        x = problem.prior(300_000, seeded(3)).double()
        L = torch.diag_embed(x[:, 3:6].exp())
        L[:, 1, 0], L[:, 2, 0], L[:, 2, 1] = x[:, 6], x[:, 7], x[:, 8]
        law = MultivariateNormal(x[:, :3], scale_tril=L, validate_args=False)
        assert_moments(problem.posterior(y), *reweighted(x, law.log_prob(y[:, None]).sum(0)))
        torch.testing.assert_close(factors(x, 3) @ factors(x, 3).mT, L @ L.mT)

    def test_moments_in_closed_form(self):
        """μ has Student's law with covariance Ψ'/(κ'(ν' − d − 1)), and Σ_ii that of Ψ'_ii/χ² of ν' − d + 1 degrees."""
        problem = NormalWishart()
        y = problem.pairs("test", 2).y[1].double()
        n, mean, kappa, nu = 4, y.mean(0), 4.25, 10
        scatter = (y - mean).T @ (y - mean)
        psi = 3 * torch.eye(2).double() + scatter + 0.25 * n / kappa * mean.outer(mean)
        law, degrees = problem.posterior(y), torch.tensor(nu - 1).double() / 2
        torch.testing.assert_close(law.mean[:2], n * mean / kappa, atol=1e-3, rtol=0)
        torch.testing.assert_close(law.cov[:2, :2], psi / (kappa * (nu - 3)), atol=1e-3, rtol=5e-3)
        log_std = ((psi.diagonal() / 2).log() - torch.digamma(degrees)) / 2
        torch.testing.assert_close(law.mean[2:4], log_std, atol=1e-3, rtol=0)
        exact = (torch.polygamma(1, degrees) / 4).expand(2)
        torch.testing.assert_close(law.cov.diagonal()[2:4], exact, atol=0, rtol=2e-3)
        assert_draws(law, 50_000)

    def test_observations_have_the_mean_and_the_covariance(self):
        x = torch.tensor([[1.0, -2.0, 0.3, -0.4, 0.9]])
        y = NormalWishart(n=2000).observe(x.expand(50, 5), seeded(6)).double().flatten(0, 1)
        rho, (a, b) = math.tanh(0.9), (math.exp(0.3), math.exp(-0.4))
        exact = torch.tensor([[a * a, rho * a * b], [rho * a * b, b * b]]).double()
        torch.testing.assert_close(y.mean(0), x[0, :2].double(), atol=0.02, rtol=0)
        torch.testing.assert_close(y.T.cov(), exact, atol=0, rtol=0.03)


class TestModes:
    @pytest.mark.parametrize("bounded", [False, True])
    def test_by_sums_over_a_grid(self, bounded):
        """a_1 with b_1 and b_3, a_2 with b_2, on grids of x itself; at the walls where there are any."""
        problem = Modes(bounded=bounded)
        y = torch.tensor([-0.1, -1.5, 1.0, -0.6, -0.9])
        reach = 1.0 if bounded else 6.0
        a, b = (reach * ((torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1) for n in (20_000, 400))

        def prior(x):
            return torch.zeros_like(x) if bounded else -0.5 * x.square()

        law = problem.posterior(y)
        for i, owned in enumerate(((0, 2), (1,))):
            w = (prior(a) - 0.5 * ((y[i] - a.abs().log()) / 0.2).square()).exp()
            first, second = [a], [a.square()]
            for j in owned:
                p = (prior(b) - 0.5 * ((y[2 + j] - b - 0.25 * a[:, None]) / 0.2).square()).exp()
                w, p = w * p.sum(1), p / p.sum(1, keepdim=True)
                first.append(p @ b)
                second.append(p @ b.square())
            w = w / w.sum()
            within, at = torch.stack(first, 1), [i, *(2 + j for j in owned)]
            mean = w @ within
            cov = within.T @ (w[:, None] * within)
            cov.diagonal().copy_(w @ torch.stack(second, 1))
            torch.testing.assert_close(law.mean[at], mean, atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(law.cov[at][:, at], cov - mean.outer(mean), atol=2e-4, rtol=1e-3)
            assert float(law.positive[i]) == pytest.approx(float(w[a > 0].sum()), abs=1e-4)
            draws = law.sample(20_000, seeded(5))[:, i].double()
            cumulative = w.cumsum(0)
            found = stats.kstest(cumulative[torch.searchsorted(a, draws).clamp_max(len(a) - 1)].numpy(), "uniform")
            assert found.pvalue > 1e-4
        assert_draws(law, 100_000)

    @pytest.mark.parametrize("modes", [4, 16])
    @pytest.mark.parametrize("bounded", [False, True])
    def test_each_sign_pattern_is_one_mode(self, modes, bounded):
        """They have their weights among draws, and comparable ones for most observations; no draw leaves the box."""
        problem = Modes(modes=modes, bounded=bounded)
        y = problem.pairs("test", 200).y
        k, laws = problem.hidden, [problem.posterior(one) for one in y]
        chances = torch.stack([law.positive for law in laws])
        assert float((chances - 0.5).abs().median()) < 0.25
        draws = laws[0].sample(20_000, seeded(7))
        pattern = (draws[:, :k] > 0).long() @ 2 ** torch.arange(k)
        p = laws[0].positive
        exact = torch.stack(
            [torch.where(torch.tensor([m >> i & 1 for i in range(k)]) == 1, p, 1 - p).prod() for m in range(modes)]
        )
        found = stats.chisquare(pattern.bincount(minlength=modes).numpy(), 20_000 * exact.numpy())
        assert found.pvalue > 1e-4
        if bounded:
            assert bool(problem.support.contains(draws).all())

    def test_the_box_is_a_support_only_where_there_is_one(self):
        assert Modes().support is None
        assert Modes().new_transform().name == "standardise"
        assert Modes(bounded=True).new_transform().name == "reflect"


class TestPushed:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_map_is_undone_and_the_posterior_that_by_reweighting_the_prior(self, shape):
        problem, (d, _, there, back) = PushedGaussian(shape=shape), SHAPES[shape]
        u = torch.randn(400_000, d, dtype=torch.float64, generator=seeded(3))
        x = there(u)
        torch.testing.assert_close(back(x[:10_000]), u[:10_000], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(back(x[:10_000].float().double()), u[:10_000], atol=3e-3, rtol=1e-3)
        y = problem.pairs("test", 1).y[0].double()
        law = problem.posterior(y)
        assert_moments(law, *reweighted(x, -0.5 * (y - u @ problem.linear.A.T).square().sum(1) / 0.25))
        assert_draws(law, 50_000)

    def test_the_shell_is_uniform_in_direction(self):
        x = PushedGaussian().prior(20_000, seeded(2)).double()
        radius = x.norm(dim=1)
        for axis in (x / radius[:, None]).unbind(1):
            assert stats.kstest(axis.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
        assert stats.kstest((radius.log() / 0.1).numpy(), "norm").pvalue > 1e-3

    def test_students_law_is_that_of_scipy(self):
        u = torch.linspace(-6, 6, 121, dtype=torch.float64)
        exact = torch.as_tensor(stats.t(4).isf(stats.norm.sf(u.numpy())))
        torch.testing.assert_close(SHAPES["student"].there(u[:, None])[:, 0], exact, atol=1e-7, rtol=1e-6)

    def test_moments_of_a_funnel_in_closed_form(self):
        """E[e^{av} w] = E[e^{av}] (E[w] + a Cov(v, w)) of normal v, w = u_i and v = 1.5 u_1."""
        y = torch.tensor([0.5, -1.0, 0.2, 0.7, -0.3])
        problem = PushedGaussian(shape="funnel")
        linear = GaussianPosterior(problem.linear.G @ y.double(), problem.linear.C)
        tilt = 0.75 * problem.linear.C[0]
        scale = (0.75 * linear.mean[0] + 0.5 * 0.75 * tilt[0]).exp()
        exact = torch.cat([1.5 * linear.mean[:1], scale * (linear.mean + tilt)[1:]])
        torch.testing.assert_close(problem.posterior(y).mean, exact, atol=2e-3, rtol=0)

    def test_a_linear_map_gives_a_normal_law(self):
        scale = torch.tensor([1.0, 0.1, 3.0], dtype=torch.float64)
        law = Pushed(lambda z: 1 + scale * z, 3)
        torch.testing.assert_close(law.mean, torch.ones(3).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(law.cov, scale.square().diag(), atol=1e-3, rtol=1e-3)


class TestLogistic:
    @pytest.mark.parametrize("c", [0.0, 0.7, -4.0, 12.0])
    def test_polya_gamma_has_its_laplace_transform(self, c):
        """E[e^{−tω}] = cosh(½c)/cosh √(¼c² + ½t)."""
        draws = polya_gamma(torch.full((100_000,), c, dtype=torch.float64), seeded(3))
        assert float(draws.min()) > 0
        for t in (0.5, 3.0, 20.0, 100.0):
            found, exact = (-t * draws).exp(), math.cosh(c / 2) / math.cosh(math.sqrt(c * c / 4 + t / 2))
            assert float(found.mean()) == pytest.approx(exact, abs=5 * float(found.std()) / math.sqrt(len(draws)))

    def test_the_density_is_that_of_the_labels(self):
        problem = Logistic(n=7)
        x, labels = problem.prior(2, seeded(4)).double(), torch.tensor([1, 0, 0, 1, 1, 0, 1]).double()
        logits = x @ problem.covariates.T
        chance = torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid()).log().sum(1)
        exact = chance - 0.5 * x.square().sum(1)
        found = problem.posterior(problem.covariates.T @ (labels - 0.5)).log_density(x)
        assert float(found[1] - found[0]) == pytest.approx(float(exact[1] - exact[0]), abs=1e-6)

    def test_moments_by_reweighting_the_prior(self):
        problem = Logistic(n=8)
        y = problem.pairs("test", 1).y[0].double()
        x, law = problem.prior(300_000, seeded(5)).double(), problem.posterior(y)
        assert_moments(law, *reweighted(x, x @ y - (x @ problem.covariates.T / 2).cosh().log().sum(1)))

    def test_chains_have_the_moments_that_importance_sampling_gives(self):
        law = Logistic().posterior(Logistic().pairs("test", 5).y[4])
        assert float((law.mean - law.mode).abs().max()) > 0.05  # no normal law
        assert_draws(law, 4000)

    def test_a_chain_forgets_where_it_starts(self):
        """Five sweeps leave less than a tenth of a coordinate's autocorrelation; a draw is the twentieth state."""
        problem, generator = Logistic(), seeded(6)
        law = problem.posterior(problem.pairs("test", 1).y[0])
        start = law.sample(2000, generator).double()
        x = start
        for _ in range(5):
            x = law.sweep(x, generator)
        both = torch.stack([start, x]) - law.mean
        correlation = both.prod(0).mean(0) / law.cov.diagonal()
        assert float(correlation.abs().max()) < 0.12
