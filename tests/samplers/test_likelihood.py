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

NORMAL = Mixture.isotropic(4, 1.0)
GRID = Grid.from_schedule(LinearBeta(1e-4), 10)
LINEAR, MIXTURE = LinearGaussian(dx=4, dy=2, noise=0.3), GaussianMixture(dx=4, dy=2, noise=0.3)
X, Y = torch.randn(6, 4, generator=seeded(1)).double(), torch.randn(6, 2, generator=seeded(2)).double()


def likelihood(problem, spread, v=1.0):
    return GaussianLikelihood(problem.operator, problem.noise_std).with_scales(torch.tensor(spread), v)


class TestVariance:
    def test_it_grows_with_the_noise_between_its_ends(self):
        found = likelihood(LINEAR, [4.0, 9.0], 7.0)
        torch.testing.assert_close(found.variance(1.0), torch.full((2,), 0.09).double())
        torch.testing.assert_close(found.variance(1e-12), 0.09 + torch.tensor([4.0, 9.0]).double(), rtol=1e-9, atol=0)
        levels = torch.stack([found.variance(a) for a in torch.linspace(1, 1e-5, 50).tolist()])
        assert bool((levels.diff(dim=0) > 0).all())

    @pytest.mark.parametrize("scale", [1.0, 3.0])
    @pytest.mark.parametrize("alpha_bar", [0.01, 0.5, 0.99])
    def test_it_is_that_of_a_gaussian(self, scale, alpha_bar):
        """x ~ N(0, s² I), z = x/scale: Var[A x | z_k] + σ² in closed form, for orthonormal rows of A."""
        found = likelihood(MIXTURE, [4.0, 4.0], 4 / scale**2).variance(alpha_bar)
        precision = 1 / 4 + alpha_bar / ((1 - alpha_bar) * scale**2)
        torch.testing.assert_close(found, torch.full((2,), 0.09 + 1 / precision).double())

    @pytest.mark.parametrize(("std", "expected"), [(0.0, 0.2**2 * 2), (1e-3, 1e-6)])
    def test_noise_free_observations_get_a_floor(self, std, expected):
        found = GaussianLikelihood(lambda x: x[:, :2], std, min_std=0.2).with_scales(torch.tensor([4.0, 0.0]))
        torch.testing.assert_close(found.variance(1.0), torch.full((2,), expected).double())

    def test_from_pairs(self):
        problem = GaussianMixture(dx=4, dy=2)
        found = GaussianLikelihood.of(problem, Moved(problem.mixture, 3.0, 10.0), problem.pairs("train", 20_000))
        exact = (problem.A @ problem.mixture.cov @ problem.A.T).diagonal()
        torch.testing.assert_close(found.spread, exact, rtol=0.05, atol=0)
        assert abs(100 * found.z_variance / float(problem.mixture.cov.diagonal().mean()) - 1) < 0.05

    def test_errors(self):
        for min_std in (0.0, float("nan")):
            with pytest.raises(CSBError, match=f"min_std={min_std!r} is not possible; give a finite number above 0"):
                GaussianLikelihood(lambda x: x, 0.0, min_std=min_std)
        with pytest.raises(CSBError, match="two_moons has no likelihood y = H"):
            GaussianLikelihood.of(TwoMoons(), MixtureDenoiser(NORMAL), TwoMoons().pairs("train", 100))


def test_density():
    found = likelihood(LINEAR, [1.0, 5.0])
    law = Independent(Normal(LINEAR.forward(X), found.variance(0.3).sqrt()), 1)
    value = found.log_prob(Y.float(), X.float(), 0.3)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, law.log_prob(Y), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha_bar", [1e-4, 0.3, 0.999])
def test_it_is_the_exact_twist_of_a_gaussian(alpha_bar):
    A, R = MIXTURE.A, MIXTURE.R
    z_0 = MixtureDenoiser(NORMAL)(X, torch.tensor(alpha_bar, dtype=torch.float64))
    found = likelihood(MIXTURE, [1.0, 1.0]).log_prob(Y, z_0, alpha_bar)
    law = MultivariateNormal(alpha_bar**0.5 * X @ A.T, (1 - alpha_bar) * A @ A.T + R)
    torch.testing.assert_close(found, law.log_prob(Y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_its_gradient_in_closed_form(k, shift, scale):
    model = likelihood(LINEAR, [1.0, 3.0])
    found = DPS(Moved(NORMAL, shift, scale), model, GRID, batch_size=4).guide(X, k, Y, model.log_prob)
    root, A = math.sqrt(float(GRID.alpha_bar[k])), LINEAR.A
    torch.testing.assert_close(found.z_0, root * X)
    misfit = Y - (shift + scale * root * X) @ A.T
    torch.testing.assert_close(found.gradient, scale * root * (misfit / model.variance(root**2)) @ A)
    torch.testing.assert_close(found.value, model.log_prob(Y, shift + scale * root * X, root**2))


@pytest.mark.parametrize("k", [2, 5, 8])
@pytest.mark.parametrize("score", ["log_prob", "norm"])
def test_its_gradient_by_differences(k, score):
    problem, denoiser = GaussianMixture(dx=4, dy=2), MixtureDenoiser(GaussianMixture(dx=4, dy=2).mixture)
    model = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 500))
    sampler = DPS(denoiser, model, GRID, batch_size=4)
    function = model.log_prob if score == "log_prob" else sampler.residual_norm
    gradient = sampler.guide(X, k, Y, function).gradient
    for i, step in enumerate(1e-5 * torch.eye(4, dtype=torch.float64)):
        ahead, behind = (sampler.guide(X + s, k, Y, function).value for s in (step, -step))
        torch.testing.assert_close(gradient[:, i], (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-4)
