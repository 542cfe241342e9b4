"""Guided samplers with the exact denoiser of a Gaussian prior: their whole law, against theory and the posterior's.

Errors of a mean are in units of the exact mean's length and of the posterior's standard deviation (√tr C), those of a
covariance relative in Frobenius norm, as :func:`csb.metrics.distances.moment_errors` has them.
"""

from itertools import pairwise

import pytest
import torch

from csb.networks.diffusion import MixtureDenoiser
from csb.problems import LinearGaussian, Mixture
from csb.process import Grid, LinearBeta, Power, seeded
from csb.samplers import DDRM, MMPS, SCORE, SDA, TMPD, GaussianLikelihood, PiGDM
from tests.samplers.laws import Transition, assert_moments, ddrm_law, guided_law, law_errors, output_law, output_mean
from tests.samplers.models import ExactDenoiser, GaussianTask

PROBLEM = LinearGaussian(dx=3, dy=2, seed=3)
Y = PROBLEM.pairs("test", 1).y[0]
COARSE = Grid.from_schedule(Power(1e-3, 2.0), 12)
FINE = Grid.from_schedule(Power(1e-6, 3.0), 250)


def rotated(*variances):
    Q = torch.linalg.qr(torch.randn(len(variances), len(variances), generator=seeded(1), dtype=torch.float64)).Q
    return Q @ torch.diag(torch.tensor(variances, dtype=torch.float64)) @ Q.T


UNEVEN = torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64), rotated(2.0, 0.5, 0.1)
TASKS = {
    "unit": GaussianTask(PROBLEM),
    "anisotropic": GaussianTask(PROBLEM, *UNEVEN),
    "other units": GaussianTask(PROBLEM, *UNEVEN, shift=0.4, scale=1.7),
}
METHODS = {  # the method, its options, its formula and what that takes of them
    "ΠGDM": (PiGDM, {}, "pigdm", {}),
    "ΠGDM, η = 0": (PiGDM, {"eta": 0.0}, "pigdm", {"eta": 0.0}),
    "ΠGDM, η = 0.5": (PiGDM, {"eta": 0.5}, "pigdm", {"eta": 0.5}),
    "TMPD, full": (TMPD, {"solver": "full"}, "tmpd", {}),
    "TMPD, diagonal": (TMPD, {"solver": "diagonal", "eta": 0.3}, "rows", {"eta": 0.3}),
    "MMPS": (MMPS, {"iterations": 2, "eta": 0.7}, "tmpd", {"eta": 0.7}),
    "SDA": (SDA, {}, "sda", {"eta": 0.0, "corrections": 2}),
    "SDA, γ = 0.2": (SDA, own := {"gamma": 0.2, "corrections": 0}, "sda", {"eta": 0.0, **own}),
    "SDA, τ = 1": (SDA, own := {"gamma": 3.0, "corrections": 1, "step": 1.0}, "sda", {"eta": 0.0, **own}),
}


def assert_law(found, expected):
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.cov, expected.cov, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("prior", TASKS)
class TestTheory:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_methods_law_is_that_of_its_formulas(self, method, prior):
        made, options, kind, theory = METHODS[method]
        task = TASKS[prior]
        assert_law(output_law(task.build(made, COARSE, **options), Y), guided_law(kind, task, Y, COARSE, **theory))

    @pytest.mark.parametrize("options", [{}, {"eta": 0.2}, {"eta": 1.0, "eta_b": 0.7}], ids=str)
    def test_ddrms_law_is_that_of_its_formulas(self, options, prior):
        task = TASKS[prior]
        assert_law(output_law(task.build(DDRM, COARSE, **options), Y), ddrm_law(task, Y, COARSE, **options))


def test_samples_have_the_law():
    """Through the public door, with random numbers."""
    sampler = TASKS["anisotropic"].build(PiGDM, COARSE)
    assert_moments(sampler.sample(Y, 20_000, seeded(1)).x, output_law(sampler, Y))


def worst(mean, cov, exact):
    """The largest of both errors of the mean and that of the covariance."""
    return max(law_errors(Transition(mean, cov), exact)[:3])


class TestWithinThreePercent:
    """The mean is the sampler's own, in T = 250 steps; its covariance is that of the formulas, as in TestTheory."""

    @pytest.mark.parametrize("method", ["ΠGDM", "ΠGDM, η = 0", "TMPD, full", "MMPS", "SDA"])
    def test_of_the_posteriors_mean_and_covariance(self, method):
        (made, options, kind, theory), task = METHODS[method], TASKS["unit"]
        mean = output_mean(task.build(made, FINE, **options), Y)
        assert worst(mean, guided_law(kind, task, Y, FINE, **theory).cov, task.posterior(Y)) < 0.03

    def test_ddrms_mean_where_the_noise_is_small(self):
        """No covariance is claimed."""
        problem = LinearGaussian(dx=3, dy=2, seed=3, noise=0.05)
        task, y = GaussianTask(problem), problem.pairs("test", 1).y[0]
        exact = task.posterior(y)
        assert worst(output_mean(task.build(DDRM, FINE), y), exact.cov, exact) < 0.03

    @pytest.mark.parametrize("method", SCORE)
    def test_a_conditional_scores_mean(self, method):
        """Its covariance: test_conditional_exact.py."""
        exact = TASKS["unit"].posterior(Y)
        assert worst(output_mean(SCORE[method](ExactDenoiser(PROBLEM), FINE), Y), exact.cov, exact) < 0.03


@pytest.mark.parametrize("noise", [0.5, 0.1])
def test_the_jacobians_covariance_is_exact_and_one_variance_is_not(noise):
    problem = LinearGaussian(dx=3, dy=2, seed=3, noise=noise)
    task, y = GaussianTask(problem, *UNEVEN), problem.pairs("test", 1).y[0]
    exact, grid = task.posterior(y), Grid.from_schedule(Power(1e-6, 3.0), 60)
    for made, options in ((TMPD, {}), (MMPS, {"iterations": 2})):
        mean = output_mean(task.build(made, grid, **options), y)
        assert law_errors(Transition(mean, exact.cov), exact).mean_scaled < 2e-3
    assert law_errors(guided_law("tmpd", task, y, FINE), exact).cov_relative < 0.03
    assert law_errors(guided_law("pigdm", task, y, FINE), exact).mean_scaled > (0.08 if noise == 0.5 else 0.8)


class NoiseFree(LinearGaussian):
    """y = A x."""

    noise_std = 0.0


def test_ddrm_is_exact_without_noise_for_independent_coordinates_and_no_fresh_noise():
    problem = NoiseFree(dx=3, dy=2, seed=3)
    task, y = GaussianTask(problem), problem.forward(torch.tensor([[0.7, -1.0, 0.4]]))[0]
    exact = task.posterior(y)
    torch.testing.assert_close(output_mean(task.build(DDRM, FINE, eta=0.0), y), exact.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(ddrm_law(task, y, FINE, eta=0.0).cov, exact.cov, rtol=0.03, atol=1e-3)


class TestTMPDAndMMPS:
    def test_row_sums_are_exact_for_one_number(self):
        task, y = GaussianTask(LinearGaussian(dx=3, dy=1, seed=4), *UNEVEN), torch.tensor([0.8])
        full = output_law(task.build(TMPD, COARSE, solver="full"), y)
        for made, options in ((TMPD, {"solver": "diagonal"}), (MMPS, {"iterations": 1})):
            assert_law(output_law(task.build(made, COARSE, **options), y), full)

    def test_more_iterations_come_nearer(self):
        problem = LinearGaussian(dx=6, dy=6, seed=5, noise=0.1)
        task, y = GaussianTask(problem), problem.pairs("test", 1).y
        z, c = torch.randn(64, 6, generator=seeded(3)), y.expand(64, 6)
        expected = task.build(TMPD, COARSE, solver="full").posterior_mean(z, 5, c)
        errors = [
            float((task.build(MMPS, COARSE, iterations=i).posterior_mean(z, 5, c) - expected).norm())
            for i in range(1, 7)
        ]
        assert all(two < one for one, two in pairwise(errors))
        assert errors[-1] < 1e-3 * errors[0]

    def test_more_iterations_than_numbers_do_no_harm(self):
        task = TASKS["anisotropic"]
        one, two = (task.build(MMPS, COARSE, iterations=i).sample(Y, 50, seeded(1)).x for i in (2, 12))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
def test_sdas_steps_are_stable_up_to_the_bound(gamma):
    """In the direction of largest curvature, close to the data, a Langevin step shrinks by less than −1."""
    task = GaussianTask(LinearGaussian(dx=2, dy=2, seed=3, noise=1e-3), cov=rotated(9.0, 9.0))
    sampler = task.build(SDA, Grid.from_schedule(Power(1e-6, 3.0), 25), gamma=gamma, corrections=10, step=1.9)
    assert float(sampler.sample(torch.tensor([0.5, 0.2]), 8, seeded(1)).x.abs().max()) < 100


LOW = torch.randn(4, 2, generator=seeded(3)) @ torch.randn(2, 6, generator=seeded(4))


@pytest.mark.parametrize(("method", "noise", "options"), [(DDRM, 1e-6, {"eta": 0.0}), (PiGDM, 1e-12, {})])
def test_a_matrix_that_float32_knows_to_be_of_rank_2_of_4(method, noise, options):
    x = torch.randn(1, 6, generator=seeded(5))
    seen = torch.linalg.pinv(LOW.double(), rtol=1e-5) @ LOW.double() @ x[0].double()
    likelihood = GaussianLikelihood(LOW, noise).with_scales(LOW.square().sum(1))
    grid = Grid.from_schedule(LinearBeta(1e-4), 100)
    sampler = method(MixtureDenoiser(Mixture.isotropic(6, 1.0)), likelihood, grid, **options)
    found = sampler.sample(x @ LOW.T, 2000, seeded(6)).x[0].double()
    assert float((found.mean(0) - seen).abs().max()) < 0.1  # of 2000 draws of variance at most 1: .022
