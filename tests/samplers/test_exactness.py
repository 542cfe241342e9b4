"""Particle filters, DPS and replacement against closed forms.

For a prior N(m, s² I) of z the denoiser is affine, so that the unconditional chain of any grid ends in a Gaussian with
known moments. That, not the prior, is what the particle filters weigh by the likelihood: their target is known for any
T.
"""

import pytest
import torch

from csb.errors import CSBError
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import GaussianMixture, LinearGaussian
from csb.process import Grid, LinearBeta, Power, seeded
from csb.samplers import DPS, RESAMPLING, TDS, BootstrapSMC, GaussianLikelihood, Replacement
from tests.samplers.laws import of_task
from tests.samplers.models import PROBLEM, GaussianTask

TASK = GaussianTask(PROBLEM)
Y = torch.tensor([[0.8, -1.2], [-0.5, 0.3]])
COARSE = Grid.from_schedule(Power(1e-3, 2.0), 5)
both_filters = pytest.mark.parametrize("method", [TDS, BootstrapSMC])


def at_the_end(task):
    """The task whose prior is the end of the unconditional chain of another's denoiser on COARSE."""
    chain = of_task(task, Y[0], COARSE)[0].unconditional()
    return GaussianTask(PROBLEM, task.shift + task.scale * chain.mean, task.scale**2 * chain.cov)


def assert_posterior(x, log_weights, exact, runs):
    """Weighted mean and covariance over many runs, within five standard errors and the bias of a finite run."""
    x, W = x.double().unflatten(0, (runs, -1)), log_weights.exp().unflatten(0, (runs, -1)) * runs
    centred = x - exact.mean
    seconds = torch.einsum("rk,rki,rkj->rij", W, centred, centred)
    for values, expected in (((W[..., None] * x).sum(1), exact.mean), (seconds, exact.cov)):
        error = values.std(0) / runs**0.5
        assert bool(((values.mean(0) - expected).abs() < 5 * error + 4 / x.shape[1]).all())
        assert float(error.max()) < 0.03  # the comparison means something


@both_filters
class TestParticleFilters:
    @pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 2.0)])
    @pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 1.0])
    def test_they_hit_their_target_on_a_coarse_grid(self, method, shift, scale, ess_threshold):
        task = GaussianTask(PROBLEM, shift=shift, scale=scale)
        found = task.build(method, COARSE, particles=1000, ess_threshold=ess_threshold).sample(Y, 30_000, seeded(1))
        for i in range(2):
            assert_posterior(found.x[i], found.log_weights[i], at_the_end(task).posterior(Y[i]), 30)

    @pytest.mark.parametrize("particles", [1000, pytest.param(2000, marks=pytest.mark.nightly)])
    def test_they_reach_the_posterior_on_a_fine_grid(self, method, particles):
        sampler = TASK.build(method, Grid.from_schedule(LinearBeta(1e-4), 200), particles=particles)
        found = sampler.sample(Y[0], 10 * particles, seeded(3))
        assert_posterior(found.x, found.log_weights, PROBLEM.posterior(Y[0]), 10)

    def test_the_weights_telescope_to_the_likelihood_and_the_evidence(self, method):
        """Without resampling: log w = log p(y | x) + Σ log N(μ) − log N(μ̃), of which exp averages p(y)."""
        sums = []

        class Recorded(method):
            def _propose(self, *arguments):
                z, ratio = super()._propose(*arguments)
                sums.append(ratio)
                return z, ratio

        sampler = TASK.build(Recorded, COARSE, ess_threshold=0.0)
        found = sampler.sample(Y[0], 50_000, seeded(4))
        whole = sampler.likelihood.log_prob(Y[:1].expand(50_000, 2), found.x, 1.0) + torch.stack(sums).sum(0)
        torch.testing.assert_close(found.log_weights, whole.log_softmax(0), rtol=0, atol=1e-4)
        exact, w = at_the_end(TASK).evidence(Y[0]), whole.exp()
        error = float(w.std()) / 50_000**0.5
        assert error < 0.03 * float(exact)
        assert abs(float(w.mean() - exact)) < 5 * error


def test_guidance_spares_particles():
    """The twisted proposals leave far more effective particles than the bootstrap filter's, for a sharp likelihood."""
    task, grid = GaussianTask(LinearGaussian(dx=2, dy=2, seed=3, noise=0.05)), Grid.from_schedule(LinearBeta(1e-4), 60)
    twisted, blind = (
        int(task.build(method, grid).sample(Y[0], 1000, seeded(5)).info.unique_ancestors)
        for method in (TDS, BootstrapSMC)
    )
    assert twisted > 2 * blind


def filtered(n=12, y=Y, **options):
    """TDS' samples for y in six steps."""
    return TASK.build(TDS, Grid.from_schedule(LinearBeta(1e-4), 6), **options).sample(y, n, seeded(1))


class TestRuns:
    def test_all_are_whole_and_weigh_the_same(self):
        found = filtered(40, Y[0], particles=8)
        torch.testing.assert_close(found.log_weights.exp().view(5, 8).sum(1), torch.full((5,), 0.2).double())
        with pytest.raises(CSBError, match="n=20 is no multiple of particles=8"):
            filtered(20, particles=8)

    def test_they_are_resampled_each_by_itself(self):
        """Three runs: even, with one heavy particle, and far less likely than the others, which must not count."""
        log_w = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -9.0, -9.0, -9.0], [-99.0, -99.0, -90.0, -99.0]]).double()
        middle, sampler = torch.full((3, 4), 0.5, dtype=torch.float64), TASK.build(TDS, COARSE)
        chosen, after = sampler._resample(log_w, middle)
        assert chosen.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 10, 10, 10, 10]
        assert torch.equal(after, torch.zeros_like(log_w))
        log_w[0, 0] = -0.1
        chosen, after = sampler._resample(log_w, middle)
        assert chosen.tolist()[:4] == [0, 1, 2, 3]
        assert torch.equal(after[0], log_w[0])  # weights of a run that is not resampled are kept

    def test_ancestors_stay_in_their_run_and_all_live_without_resampling(self):
        assert filtered(particles=1).info.unique_ancestors.tolist() == [12, 12]
        info = filtered(ess_threshold=0.0).info
        assert info.unique_ancestors.tolist() == [12, 12]
        assert float(info.ess.max()) < 12

    @pytest.mark.parametrize("resampling", RESAMPLING)
    def test_resampling_at_every_step_keeps_the_weights_even(self, resampling):
        even = filtered(32, ess_threshold=1.0, resampling=resampling).info.ess.min()
        assert even > filtered(32, ess_threshold=0.0).info.ess.min()


@pytest.mark.parametrize("n", [3000, pytest.param(8000, marks=pytest.mark.nightly)])
def test_the_unconditional_chain_reproduces_the_prior(n):
    """Mean, covariance and weights of the modes; the grid is long and fine, as deviations of 11 need."""
    problem = GaussianMixture(dx=2, dy=1, seed=2)
    denoiser = MixtureDenoiser(problem.mixture)
    model = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 500))
    sampler = DPS(denoiser, model, Grid.from_schedule(LinearBeta(1e-6), 150), batch_size=4096, step_size=0.0)
    x = sampler.sample(torch.zeros(1), n, seeded(7)).x.double()
    cov, error = problem.mixture.cov, (problem.mixture.cov.diagonal() / n).sqrt()
    assert bool(((x.mean(0) - problem.mixture.mean).abs() < 5 * error).all())
    assert float((x.T.cov() - cov).abs().max()) < 5 * (2 / n) ** 0.5 * float(cov.diagonal().max())
    found, weights = problem.mixture.responsibilities(x).mean(0), problem.mixture.weights
    assert bool(((found - weights).abs() < 5 * (weights * (1 - weights) / n).sqrt() + 1e-3).all())


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 2.0)])
def test_replacement_is_exact_where_what_is_seen_says_nothing_of_the_rest(shift, scale):
    """x ~ N(0, I): A x = y, and across it the end of the unconditional chain."""
    task, y, n = GaussianTask(LinearGaussian(dx=3, dy=1, seed=1), shift=shift, scale=scale), torch.tensor([1.7]), 20_000
    x = task.build(Replacement, COARSE).sample(y, n, seeded(8)).x.double()
    torch.testing.assert_close(x @ task.A.T, y.expand(n, 1).double(), rtol=0, atol=1e-4)
    across, chain = torch.linalg.svd(task.A).Vh[1:], of_task(task, y, COARSE)[0].unconditional()
    rest, var = x @ across.T, scale**2 * float(chain.cov[0, 0])
    assert bool(((rest.mean(0) - across @ (shift + scale * chain.mean)).abs() < 5 * (var / n) ** 0.5).all())
    assert bool(((rest.T.cov() - var * torch.eye(2)).abs() < 5 * (2 / n) ** 0.5 * var).all())


def test_dps_takes_the_norm_of_each_sample():
    """One step by hand: ∇‖y − H(x̂_0)‖ of each sample alone has length ‖Aᵀ u‖, u a unit vector, whatever the batch."""
    sampler = TASK.build(DPS, Grid.from_schedule(LinearBeta(0.3), 1), step_size=0.7)
    y, z = Y.repeat_interleave(4, 0), torch.randn(8, 2, generator=seeded(10))
    root, A = 0.3**0.5, PROBLEM.A.float()
    misfit = y - root * z @ A.T
    expected = root * z + 0.7 * root * (misfit / misfit.norm(dim=1, keepdim=True)) @ A
    torch.testing.assert_close(sampler.sample(Y, 4, seeded(10)).x.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)
