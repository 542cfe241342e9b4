"""The softened likelihood against closed forms, and its gradient through the denoiser."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from csb.errors import CSBError
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import GaussianMixture, LinearGaussian, Mixture, TwoMoons
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import DPS, GaussianLikelihood
from tests.conftest import Moved

NORMAL = Mixture(torch.ones(1).double(), torch.zeros(1, 4).double(), torch.eye(4).double()[None])
GRID = Grid.from_schedule(LinearBeta(1e-4), 10)


def likelihood(problem, spread, v=1.0, **options):
    return GaussianLikelihood(problem.operator, problem.noise_std, **options).with_scales(spread, v)


class TestVariance:
    def test_ends(self):
        spread = torch.tensor([4.0, 9.0])
        found = likelihood(LinearGaussian(dx=4, dy=2, noise=0.3), spread, 7.0)
        torch.testing.assert_close(found.variance(1.0), torch.full((2,), 0.09).double())
        torch.testing.assert_close(found.variance(1e-12), 0.09 + spread.double(), rtol=1e-9, atol=0)

    def test_it_grows_with_the_noise(self):
        found = likelihood(LinearGaussian(dx=4, dy=2), torch.ones(2), 7.0)
        levels = torch.stack([found.variance(a) for a in torch.linspace(1, 1e-5, 50).tolist()])
        assert bool((levels.diff(dim=0) > 0).all())

    @pytest.mark.parametrize("scale", [1.0, 3.0])
    def test_it_is_that_of_a_gaussian(self, scale):
        """x ~ N(0, s² I), z = x/scale: Var[A x | z_k] + σ² in closed form, for orthonormal rows of A."""
        problem, s = GaussianMixture(dx=4, dy=2, noise=0.3), 2.0
        found = likelihood(problem, torch.full((2,), s**2), (s / scale) ** 2)
        for alpha_bar in (0.01, 0.5, 0.99):
            precision = 1 / s**2 + alpha_bar / ((1 - alpha_bar) * scale**2)
            torch.testing.assert_close(found.variance(alpha_bar), torch.full((2,), 0.09 + 1 / precision).double())

    def test_noise_free_observations_get_a_floor(self):
        spread = torch.tensor([4.0, 0.0])
        found = GaussianLikelihood(lambda x: x[:, :2], 0.0, min_std=0.2).with_scales(spread)
        torch.testing.assert_close(found.variance(1.0), torch.full((2,), (0.2 * 2**0.5) ** 2).double())
        noisy = GaussianLikelihood(lambda x: x[:, :2], 1e-3, min_std=0.2).with_scales(spread)
        torch.testing.assert_close(noisy.variance(1.0), torch.full((2,), 1e-6).double())

    def test_from_pairs(self):
        problem = GaussianMixture(dx=4, dy=2)
        train = problem.pairs("train", 20_000)
        found = GaussianLikelihood.of(problem, Moved(problem.mixture, 3.0, 10.0), train)
        exact = (problem.A @ problem.mixture.cov @ problem.A.T).diagonal()
        torch.testing.assert_close(found.spread, exact, rtol=0.05, atol=0)
        assert abs(100 * found.z_variance / float(problem.mixture.cov.diagonal().mean()) - 1) < 0.05

    @pytest.mark.parametrize("min_std", [0.0, -1.0, float("nan"), float("inf")])
    def test_errors(self, min_std):
        with pytest.raises(CSBError, match=f"min_std={min_std!r} is not possible; give a finite number above 0"):
            GaussianLikelihood(lambda x: x, 0.0, min_std=min_std)

    def test_a_problem_without_additive_noise(self):
        problem = TwoMoons()
        with pytest.raises(CSBError, match="two_moons has no likelihood y = H"):
            GaussianLikelihood.of(problem, MixtureDenoiser(GaussianMixture().mixture), problem.pairs("train", 100))


def test_density():
    problem = LinearGaussian(dx=4, dy=2, noise=0.3)
    found = likelihood(problem, torch.tensor([1.0, 5.0]))
    x, y = torch.randn(6, 4, generator=seeded(1)), torch.randn(6, 2, generator=seeded(2))
    law = Independent(Normal(problem.forward(x).double(), found.variance(0.3).sqrt()), 1)
    value = found.log_prob(y, x, 0.3)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, law.log_prob(y.double()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha_bar", [1e-4, 0.3, 0.999])
def test_it_is_the_exact_twist_of_a_gaussian(alpha_bar):
    problem = GaussianMixture(dx=4, dy=2, noise=0.3)
    denoiser = MixtureDenoiser(NORMAL)
    z, y = torch.randn(6, 4, generator=seeded(1)).double(), torch.randn(2, generator=seeded(2)).double()
    z_0 = denoiser(z, torch.tensor(alpha_bar, dtype=torch.float64))
    found = likelihood(problem, torch.ones(2)).log_prob(y.expand(6, 2), z_0, alpha_bar)
    law = MultivariateNormal(alpha_bar**0.5 * z @ problem.A.T, (1 - alpha_bar) * problem.A @ problem.A.T + problem.R)
    torch.testing.assert_close(found, law.log_prob(y), rtol=1e-5, atol=1e-5)


def test_the_residual_is_that_of_each_sample():
    problem = LinearGaussian(dx=4, dy=2)
    x, y = torch.randn(6, 4, generator=seeded(1)), torch.randn(6, 2, generator=seeded(2))
    sampler = DPS(MixtureDenoiser(NORMAL), likelihood(problem, torch.ones(2)), GRID)
    found = sampler.residual_norm(y, x, 1.0)
    torch.testing.assert_close(found, torch.stack([(y[i] - problem.forward(x)[i]).norm() for i in range(6)]))


class TestGuidance:
    @pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 2.0)])
    @pytest.mark.parametrize("k", [1, 5, 10])
    def test_the_gradient_in_closed_form(self, k, shift, scale):
        problem = LinearGaussian(dx=4, dy=2)
        denoiser = Moved(NORMAL, shift, scale)
        model = likelihood(problem, torch.tensor([1.0, 3.0]))
        sampler = DPS(denoiser, model, GRID, batch_size=4)
        z, y = (torch.randn(6, d, generator=seeded(d), dtype=torch.float64) for d in (4, 2))
        found = sampler.guide(z, k, y, model.log_prob)
        root, A = math.sqrt(float(GRID.alpha_bar[k])), problem.A
        torch.testing.assert_close(found.z_0, root * z)
        misfit = y - (shift + scale * root * z) @ A.T
        expected = scale * root * (misfit / model.variance(root**2)) @ A
        torch.testing.assert_close(found.gradient, expected)
        torch.testing.assert_close(found.value, model.log_prob(y, shift + scale * root * z, root**2))

    @pytest.mark.parametrize("k", [2, 5, 8])
    @pytest.mark.parametrize("score", ["log_prob", "norm"])
    def test_the_gradient_by_differences(self, k, score):
        problem = GaussianMixture(dx=4, dy=2)
        model = GaussianLikelihood.of(problem, MixtureDenoiser(problem.mixture), problem.pairs("train", 500))
        sampler = DPS(MixtureDenoiser(problem.mixture), model, GRID, batch_size=4)
        function = model.log_prob if score == "log_prob" else sampler.residual_norm
        z, y = (torch.randn(6, d, generator=seeded(d), dtype=torch.float64) for d in (4, 2))
        gradient = sampler.guide(z, k, y, function).gradient
        for i in range(4):
            step = 1e-5 * torch.eye(4, dtype=torch.float64)[i]
            ahead, behind = (sampler.guide(z + s, k, y, function).value for s in (step, -step))
            torch.testing.assert_close(gradient[:, i], (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-4)
