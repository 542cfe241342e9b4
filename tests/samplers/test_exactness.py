"""Samplers against closed forms.

For a prior N(m, s² I) of z the denoiser is affine, so that the unconditional chain of any grid ends in a Gaussian with
known moments. That, not the prior, is what the particle filters weigh by the likelihood: their target is known for any
T.
"""

import math
from typing import NamedTuple

import pytest
import torch

from csb.networks.diffusion import Denoiser, MixtureDenoiser
from csb.problems import GaussianMixture, LinearGaussian, Mixture
from csb.process import Grid, LinearBeta, Noise, Power, Reference, seeded
from csb.samplers import DPS, RESAMPLING, TDS, BootstrapSMC, GaussianLikelihood, Replacement
from tests.conftest import Moved

PROBLEM = LinearGaussian(dx=2, dy=2, seed=3)
Y = torch.tensor([[0.8, -1.2], [-0.5, 0.3]])
COARSE = Grid.from_schedule(Power(1e-3, 2.0), 5)


class Gaussian(Denoiser):
    """The exact denoiser of x ~ N(0, I) in other units: z = (x − shift)/scale."""

    def __init__(self, shift=0.0, scale=1.0, d=2):
        super().__init__(torch.full((d,), shift), scale)
        self.mean, self.var = -shift / scale, 1 / scale**2

    def gain(self, alpha_bar):
        return alpha_bar**0.5 * self.var / (alpha_bar * self.var + 1 - alpha_bar)

    def forward(self, z, alpha_bar):
        gain = self.gain(float(alpha_bar))
        return self.mean + gain * (z - float(alpha_bar) ** 0.5 * self.mean)

    def end(self, grid):
        """Mean and variance of a coordinate of x at the end of the unconditional chain."""
        mean, var, reference = 0.0, 1.0, Reference(grid)
        for k in range(grid.T, 0, -1):
            law, alpha_bar = reference.pinned_start(k), float(grid.alpha_bar[k])
            near, far, gain = float(law.near), float(law.far), self.gain(alpha_bar)
            mean = near * mean + far * (self.mean + gain * (mean - alpha_bar**0.5 * self.mean))
            var = (near + far * gain) ** 2 * var + float(law.var)
        return float(self.shift[0]) + self.scale * mean, self.scale**2 * var


class Target(NamedTuple):
    mean: torch.Tensor
    cov: torch.Tensor
    evidence: torch.Tensor


def target(prior_mean, prior_var, y):
    """Posterior of N(prior_mean, prior_var I) by the problem's likelihood, and log p(y)."""
    A, noise, eye = PROBLEM.A, PROBLEM.noise**2, torch.eye(2, dtype=torch.float64)
    start = torch.full((2,), prior_mean, dtype=torch.float64)
    cov = torch.linalg.inv(eye / prior_var + A.T @ A / noise)
    mean = cov @ (start / prior_var + A.T @ y.double() / noise)
    law = torch.distributions.MultivariateNormal(A @ start, prior_var * A @ A.T + noise * eye)
    return Target(mean, cov, law.log_prob(y.double()))


def build(method, denoiser, grid, **options):
    model = GaussianLikelihood.of(PROBLEM, denoiser, PROBLEM.pairs("train", 1000))
    return method(denoiser, model, grid, batch_size=4096, **options)


def assert_posterior(found, exact, runs):
    """Weighted mean and covariance over many runs, within five standard errors and the bias of a finite run."""
    x, W = found.x.double().unflatten(0, (runs, -1)), found.log_weights.exp().unflatten(0, (runs, -1)) * runs
    means = (W[..., None] * x).sum(1)
    centred = x - exact.mean
    seconds = torch.einsum("rk,rki,rkj->rij", W, centred, centred)
    for values, expected in ((means, exact.mean), (seconds, exact.cov)):
        error = values.std(0) / runs**0.5
        assert bool(((values.mean(0) - expected).abs() < 5 * error + 4 / x.shape[1]).all())
        assert float(error.max()) < 0.03  # the comparison means something


@pytest.mark.parametrize("method", [TDS, BootstrapSMC])
class TestParticleFilters:
    @pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 2.0)])
    @pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 1.0])
    def test_they_hit_their_target_on_a_coarse_grid(self, method, shift, scale, ess_threshold):
        denoiser = Gaussian(shift, scale)
        sampler = build(method, denoiser, COARSE, particles=1000, ess_threshold=ess_threshold)
        found = sampler.sample(Y, 30_000, seeded(1))
        for i in range(2):
            exact = target(*denoiser.end(COARSE), Y[i])
            assert_posterior(type(found)(found.x[i], found.info, found.log_weights[i]), exact, 30)

    @pytest.mark.parametrize("resampling", RESAMPLING)
    def test_with_every_scheme(self, method, resampling):
        sampler = build(method, Gaussian(), COARSE, particles=1000, ess_threshold=1.0, resampling=resampling)
        assert_posterior(sampler.sample(Y[0], 30_000, seeded(2)), target(*Gaussian().end(COARSE), Y[0]), 30)

    @pytest.mark.parametrize("particles", [1000, pytest.param(2000, marks=pytest.mark.nightly)])
    def test_they_reach_the_posterior_on_a_fine_grid(self, method, particles):
        mixture = Mixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.eye(2).double()[None])
        grid = Grid.from_schedule(LinearBeta(1e-4), 200)
        sampler = build(method, MixtureDenoiser(mixture), grid, particles=particles)
        found = sampler.sample(Y[0], 10 * particles, seeded(3))
        law = PROBLEM.posterior(Y[0])
        assert_posterior(found, Target(law.mean, law.cov, torch.zeros(())), 10)

    def test_the_weights_telescope_to_the_likelihood_and_the_evidence(self, method):
        """Without resampling: log w = log p(y | x) + Σ log N(μ) − log N(μ̃), of which exp averages p(y)."""
        sums = []

        class Recorded(method):
            def _propose(self, *arguments):
                z, ratio = super()._propose(*arguments)
                sums.append(ratio)
                return z, ratio

        sampler = build(Recorded, Gaussian(), COARSE, ess_threshold=0.0)
        found = sampler.sample(Y[0], 50_000, seeded(4))
        whole = sampler.likelihood.log_prob(Y[:1].expand(50_000, 2), found.x, 1.0) + torch.stack(sums).sum(0)
        torch.testing.assert_close(found.log_weights, whole.log_softmax(0), rtol=0, atol=1e-4)
        exact, w = target(*Gaussian().end(COARSE), Y[0]).evidence.exp(), whole.exp()
        error = float(w.std()) / 50_000**0.5
        assert error < 0.03 * float(exact)
        assert abs(float(w.mean() - exact)) < 5 * error


def test_guidance_spares_particles():
    """The twisted proposals leave far more effective particles than the bootstrap filter's, for a sharp likelihood."""
    kept = {}
    problem = LinearGaussian(dx=2, dy=2, seed=3, noise=0.05)
    grid = Grid.from_schedule(LinearBeta(1e-4), 60)
    for method in (TDS, BootstrapSMC):
        model = GaussianLikelihood.of(problem, Gaussian(), problem.pairs("train", 1000))
        kept[method] = int(method(Gaussian(), model, grid).sample(Y[0], 1000, seeded(5)).info.unique_ancestors)
    assert kept[TDS] > 2 * kept[BootstrapSMC]


class TestUnconditionalChain:
    def test_dps_without_guidance_is_the_chain(self):
        problem = GaussianMixture(dx=4, dy=2)
        denoiser = MixtureDenoiser(problem.mixture)
        model = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 500))
        sampler = DPS(denoiser, model, COARSE, step_size=0.0)
        noise = Noise(seeded(6), 2)
        z = noise.normal(50, 4)
        for k in range(5, 0, -1):
            alpha, before = float(COARSE.alpha_bar[k]), float(COARSE.alpha_bar[k - 1])
            beta = 1 - alpha / before
            z_0 = problem.mixture.denoise(z, alpha)
            z = (math.sqrt(before) * beta * z_0 + math.sqrt(1 - beta) * (1 - before) * z) / (1 - alpha)
            if k > 1:
                z = z + math.sqrt(beta * (1 - before) / (1 - alpha)) * noise.normal(50, 4)
        found = sampler.sample(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), 50, seeded(6)).x
        torch.testing.assert_close(found.flatten(0, 1), z, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("n", [3000, pytest.param(8000, marks=pytest.mark.nightly)])
    def test_it_reproduces_the_prior(self, n):
        """Mean, covariance and weights of the modes; the grid is long and fine, as deviations of 11 need."""
        problem = GaussianMixture(dx=2, dy=1, seed=2)
        denoiser = MixtureDenoiser(problem.mixture)
        model = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 500))
        grid = Grid.from_schedule(LinearBeta(1e-6), 150)
        sampler = DPS(denoiser, model, grid, batch_size=4096, step_size=0.0)
        x = sampler.sample(torch.zeros(1), n, seeded(7)).x.double()
        cov, error = problem.mixture.cov, (problem.mixture.cov.diagonal() / n).sqrt()
        assert bool(((x.mean(0) - problem.mixture.mean).abs() < 5 * error).all())
        assert float((x.T.cov() - cov).abs().max()) < 5 * (2 / n) ** 0.5 * float(cov.diagonal().max())
        found, weights = problem.mixture.responsibilities(x).mean(0), problem.mixture.weights
        assert bool(((found - weights).abs() < 5 * (weights * (1 - weights) / n).sqrt() + 1e-3).all())


class TestReplacement:
    @pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 2.0)])
    def test_it_is_exact_where_what_is_seen_says_nothing_of_the_rest(self, shift, scale):
        """x ~ N(0, I): A x = y, and across it the end of the unconditional chain."""
        problem, denoiser, n = LinearGaussian(dx=3, dy=1, seed=1), Gaussian(shift, scale, 3), 20_000
        model = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 500))
        y = torch.tensor([1.7])
        x = Replacement(denoiser, model, COARSE, batch_size=4096).sample(y, n, seeded(8)).x.double()
        torch.testing.assert_close(x @ problem.A.T, y.expand(n, 1).double(), rtol=0, atol=1e-4)
        across = torch.linalg.svd(problem.A).Vh[1:]
        rest = x @ across.T
        mean, var = denoiser.end(COARSE)
        assert bool(((rest.mean(0) - mean * across.sum(1)).abs() < 5 * (var / n) ** 0.5).all())
        assert bool(((rest.T.cov() - var * torch.eye(2)).abs() < 5 * (2 / n) ** 0.5 * var).all())

    @pytest.mark.parametrize("scale", [1.0, 2.0])
    def test_correlated_coordinates_follow_a_linear_recursion(self, scale):
        """Not the posterior, but known: the means and covariances of the chain, pushed through its own steps."""
        problem, n, shift, y = LinearGaussian(dx=3, dy=1, seed=1), 20_000, 0.5, torch.tensor([1.7])
        eye, reference = torch.eye(3, dtype=torch.float64), Reference(COARSE)
        S = torch.tensor([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]], dtype=torch.float64)
        m = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
        denoiser = Moved(Mixture(torch.ones(1).double(), m[None], S[None]), shift, scale)
        P = problem.A.T @ problem.A / (problem.A @ problem.A.T)
        known = (problem.A.T @ y.double() / (problem.A @ problem.A.T)[0] - P @ torch.full((3,), shift).double()) / scale
        mean, cov, Q = torch.zeros(3).double(), eye, eye - P
        for k in range(COARSE.T, 0, -1):
            level, law = COARSE.alpha_bar[k], reference.pinned_start(k)
            mean, cov = Q @ mean + level.sqrt() * known, Q @ cov @ Q + (1 - level) * P
            gain = level.sqrt() * S @ torch.linalg.inv(level * S + (1 - level) * eye)
            step = law.near * eye + law.far * gain
            mean = step @ mean + law.far * (eye - level.sqrt() * gain) @ m
            cov = step @ cov @ step.T + law.var * eye
        mean, cov = shift + scale * (Q @ mean + known), scale**2 * Q @ cov @ Q
        model = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 500))
        x = Replacement(denoiser, model, COARSE, batch_size=4096).sample(y, n, seeded(8)).x.double()
        var = cov.diagonal()
        assert bool(((x.mean(0) - mean).abs() < 5 * (var / n).sqrt()).all())
        assert bool(((x.T.cov() - cov).abs() < 5 * (2 / n) ** 0.5 * torch.outer(var, var).sqrt() + 1e-4).all())


def test_dps_moves_towards_the_observation():
    """A longer step, a smaller residual, until it is too long."""
    residuals = []
    for step_size in (0.0, 0.1, 0.3):
        sampler = build(DPS, Gaussian(), Grid.from_schedule(LinearBeta(1e-4), 50), step_size=step_size)
        x = sampler.sample(Y[0], 500, seeded(9)).x
        residuals.append(float((Y[0] - PROBLEM.forward(x)).norm(dim=1).mean()))
    assert residuals[0] > 1.2 * residuals[1] > 1.2 * residuals[2]


def test_dps_takes_the_norm_of_each_sample():
    """One step by hand: ∇‖y − H(x̂_0)‖ of each sample alone has length ‖Aᵀ u‖, u a unit vector, whatever the batch."""
    sampler = build(DPS, Gaussian(), Grid.from_schedule(LinearBeta(0.3), 1), step_size=0.7)
    y, z = Y.repeat_interleave(4, 0), torch.randn(8, 2, generator=seeded(10))
    root, A = 0.3**0.5, PROBLEM.A.float()
    misfit = y - root * z @ A.T
    expected = root * z + 0.7 * root * (misfit / misfit.norm(dim=1, keepdim=True)) @ A
    torch.testing.assert_close(sampler.sample(Y, 4, seeded(10)).x.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)
