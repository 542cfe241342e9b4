"""Guided samplers with the exact denoiser of a Gaussian prior: their whole law, against theory and the posterior's.

Errors of a mean are in units of the exact mean's length and of the posterior's standard deviation (√tr C), those of a
covariance relative in Frobenius norm, as :func:`csb.metrics.distances.moment_errors` has them.
"""

from itertools import pairwise

import pytest
import torch

from csb.errors import CSBError
from csb.metrics.distances import moment_errors
from csb.problems import LinearGaussian
from csb.process import Grid, Power, seeded
from csb.samplers import DDRM, MMPS, SCORE, SDA, TDS, TMPD, PiGDM
from tests.samplers.conditional_models import ExactDenoiser
from tests.samplers.gaussian_moments import GaussianTask, Transition, law_errors, output_law, output_mean
from tests.samplers.gaussian_theory import ddrm_law, guided_law

PROBLEM = LinearGaussian(dx=3, dy=2, seed=3)
Y = PROBLEM.pairs("test", 1).y[0]
COARSE = Grid.from_schedule(Power(1e-3, 2.0), 12)
FINE = Grid.from_schedule(Power(1e-6, 3.0), 250)


def rotated(*variances):
    Q = torch.linalg.qr(torch.randn(len(variances), len(variances), generator=seeded(1), dtype=torch.float64)).Q
    return Q @ torch.diag(torch.tensor(variances, dtype=torch.float64)) @ Q.T


MEAN = torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64)
TASKS = {
    "unit": GaussianTask(PROBLEM),
    "anisotropic": GaussianTask(PROBLEM, MEAN, rotated(2.0, 0.5, 0.1)),
    "other units": GaussianTask(PROBLEM, MEAN, rotated(2.0, 0.5, 0.1), shift=0.4, scale=1.7),
}
METHODS = {
    "ΠGDM": (PiGDM, {}, "pigdm", {}),
    "ΠGDM, η = 0": (PiGDM, {"eta": 0.0}, "pigdm", {"eta": 0.0}),
    "ΠGDM, η = 0.5": (PiGDM, {"eta": 0.5}, "pigdm", {"eta": 0.5}),
    "TMPD, full": (TMPD, {"solver": "full"}, "tmpd", {}),
    "TMPD, diagonal": (TMPD, {"solver": "diagonal", "eta": 0.3}, "rows", {"eta": 0.3}),
    "MMPS": (MMPS, {"iterations": 2, "eta": 0.7}, "tmpd", {"eta": 0.7}),
    "SDA": (SDA, {}, "sda", {"eta": 0.0, "corrections": 2}),
    "SDA, γ = 0.2": (SDA, {"gamma": 0.2, "corrections": 0}, "sda", {"eta": 0.0, "gamma": 0.2}),
    "SDA, τ = 1": (
        SDA,
        {"gamma": 3.0, "corrections": 1, "step": 1.0},
        "sda",
        {"eta": 0.0, "gamma": 3.0, "corrections": 1, "step": 1.0},
    ),
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
    task, n = TASKS["anisotropic"], 20_000
    sampler = task.build(PiGDM, COARSE)
    law, x = output_law(sampler, Y), sampler.sample(Y, n, seeded(1)).x.double()
    var = law.cov.diagonal()
    assert bool(((x.mean(0) - law.mean).abs() < 5 * (var / n).sqrt()).all())
    assert bool(((x.T.cov() - law.cov).abs() < 5 * ((var.outer(var) + law.cov**2) / n).sqrt()).all())


class TestWithinThreePercent:
    """Of the exact mean, on the linear-Gaussian problem with its own prior N(0, I), 250 steps.

    The mean is the sampler's own; its covariance is that of the formulas, which TestTheory compares with the sampler's.
    """

    @pytest.mark.parametrize("method", ["ΠGDM", "ΠGDM, η = 0", "TMPD, full", "MMPS", "SDA"])
    def test_of_the_posteriors_mean_and_covariance(self, method):
        made, options, kind, theory = METHODS[method]
        task = TASKS["unit"]
        mean = output_mean(task.build(made, FINE, **options), Y)
        law = guided_law(kind, task, Y, FINE, **theory)
        errors = law_errors(Transition(mean, law.cov), task.posterior(Y))
        assert max(errors.mean_relative, errors.mean_scaled) < 0.03
        assert errors.cov_relative < 0.03

    def test_ddrms_mean_where_the_noise_is_small(self):
        """No covariance is claimed."""
        problem = LinearGaussian(dx=3, dy=2, seed=3, noise=0.05)
        task, y = GaussianTask(problem), problem.pairs("test", 1).y[0]
        law = Transition(output_mean(task.build(DDRM, FINE), y), ddrm_law(task, y, FINE).cov)
        errors = law_errors(law, task.posterior(y))
        assert max(errors.mean_relative, errors.mean_scaled) < 0.03

    @pytest.mark.parametrize("method", SCORE)
    def test_a_conditional_score(self, method):
        """Its covariance: test_conditional_exact.py."""
        sampler, exact = SCORE[method](ExactDenoiser(PROBLEM), FINE), TASKS["unit"].posterior(Y)
        errors = law_errors(Transition(output_mean(sampler, Y), exact.cov), exact)
        assert max(errors.mean_relative, errors.mean_scaled) < 0.03

    def test_tds(self):
        task, n = TASKS["unit"], 12_000
        found = task.build(TDS, Grid.from_schedule(Power(1e-6, 3.0), 60), particles=3000).sample(Y, n, seeded(2))
        errors = moment_errors(found.x, task.posterior(Y)._asdict(), found.log_weights)
        assert max(errors.mean_relative, errors.mean_scaled) < 0.03
        assert errors.cov_relative < 0.15  # 60 ancestral steps and 12,000 weighted particles


class TestAnisotropicPriors:
    @pytest.mark.parametrize("noise", [0.5, 0.1])
    def test_the_jacobians_covariance_is_exact_and_one_variance_is_not(self, noise):
        problem = LinearGaussian(dx=3, dy=2, seed=3, noise=noise)
        task, y = GaussianTask(problem, MEAN, rotated(2.0, 0.5, 0.1)), problem.pairs("test", 1).y[0]
        exact, grid = task.posterior(y), Grid.from_schedule(Power(1e-6, 3.0), 60)
        for made, options in ((TMPD, {}), (MMPS, {"iterations": 2})):
            mean = output_mean(task.build(made, grid, **options), y)
            assert law_errors(Transition(mean, exact.cov), exact).mean_scaled < 2e-3
        assert law_errors(guided_law("tmpd", task, y, FINE), exact).cov_relative < 0.03
        errors = law_errors(guided_law("pigdm", task, y, FINE), exact)
        assert errors.mean_scaled > (0.08 if noise == 0.5 else 0.8)

    def test_the_bias_of_pigdm_does_not_go_with_the_steps(self):
        task = TASKS["anisotropic"]
        grids = (Grid.from_schedule(Power(1e-6, 3.0), T) for T in (100, 1000))
        few, many = (law_errors(guided_law("pigdm", task, Y, g), task.posterior(Y)).mean_scaled for g in grids)
        assert many > 0.9 * few > 0.08


class NoiseFree(LinearGaussian):
    """y = A x."""

    noise_std = 0.0


class TestDDRM:
    def test_it_is_exact_without_noise_for_independent_coordinates_and_no_fresh_noise(self):
        problem = NoiseFree(dx=3, dy=2, seed=3)
        task, y = GaussianTask(problem), problem.forward(torch.tensor([[0.7, -1.0, 0.4]]))[0]
        exact = task.posterior(y)
        torch.testing.assert_close(output_mean(task.build(DDRM, FINE, eta=0.0), y), exact.mean, rtol=0, atol=1e-4)
        law = ddrm_law(task, y, FINE, eta=0.0)
        torch.testing.assert_close(law.cov, exact.cov, rtol=0.03, atol=1e-3)

    @pytest.mark.parametrize("eta", [0.5, 0.85, 1.0])
    def test_fresh_noise_takes_variance_from_what_is_not_seen(self, eta):
        """The chain at a level forgets within steps of its own: (1 + √(1−η²))/2 of the variance is left as T → ∞."""
        task = GaussianTask(LinearGaussian(dx=3, dy=2, seed=3))
        unseen = torch.linalg.svd(task.A).Vh[2]
        law = ddrm_law(task, Y, Grid.from_schedule(Power(1e-6, 3.0), 1000), eta=eta)
        assert float(unseen @ law.cov @ unseen) == pytest.approx((1 + (1 - eta**2) ** 0.5) / 2, abs=0.02)

    def test_more_steps_bring_the_mean_nearer_to_what_y_says_alone(self):
        """With noise, η < 1; with η = 1 to the prior's: neither is the posterior's."""
        problem = LinearGaussian(dx=1, dy=1, seed=3)
        task, y = GaussianTask(problem), torch.tensor([1.5])
        said = float(y[0] / problem.A[0, 0])
        grids = [Grid.from_schedule(Power(1e-6, 4.0), T) for T in (100, 1000)]
        below = [abs(float(ddrm_law(task, y, grid, eta=0.5).mean[0]) / said - 1) for grid in grids]
        gone = [abs(float(ddrm_law(task, y, grid, eta=1.0).mean[0]) / said) for grid in grids]
        assert below[1] < below[0] < float(problem.noise_std**2 / problem.A[0, 0] ** 2)
        assert gone[1] < gone[0] / 2


class TestTMPDAndMMPS:
    def test_row_sums_are_exact_for_one_number(self):
        problem = LinearGaussian(dx=3, dy=1, seed=4)
        task, y = GaussianTask(problem, MEAN, rotated(2.0, 0.5, 0.1)), torch.tensor([0.8])
        full, rows, cg = (
            output_law(task.build(made, COARSE, **options), y)
            for made, options in ((TMPD, {"solver": "full"}), (TMPD, {"solver": "diagonal"}), (MMPS, {"iterations": 1}))
        )
        assert_law(rows, full)
        assert_law(cg, full)

    def test_more_iterations_come_nearer(self):
        problem = LinearGaussian(dx=6, dy=6, seed=5, noise=0.1)
        task, y = GaussianTask(problem), problem.pairs("test", 1).y
        exact = task.build(TMPD, COARSE, solver="full")
        z, c = torch.randn(64, 6, generator=seeded(3)), y.expand(64, 6)
        expected = exact.posterior_mean(z, 5, c)
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


class TestSDA:
    def test_corrections_and_steps_lead_to_the_posterior(self):
        task, errors = TASKS["anisotropic"], []
        for T, corrections in ((100, 0), (100, 2), (100, 8), (300, 8)):
            law = guided_law("sda", task, Y, Grid.from_schedule(Power(1e-6, 3.0), T), 0.0, corrections)
            errors.append(law_errors(law, task.posterior(Y)).mean_scaled)
        assert errors[0] > 1.5 * errors[1] > 1.5 * 1.2 * errors[2] > 1.5 * 1.2 * 1.2 * errors[3]

    def test_its_steps_are_stable_up_to_the_bound(self):
        """In the direction of largest curvature, close to the data, a Langevin step shrinks by less than −1."""
        problem = LinearGaussian(dx=2, dy=2, seed=3, noise=1e-3)
        task, y = GaussianTask(problem, cov=rotated(9.0, 9.0)), torch.tensor([0.5, 0.2])
        grid = Grid.from_schedule(Power(1e-6, 3.0), 25)
        for gamma in (0.1, 1.0, 10.0):
            x = task.build(SDA, grid, gamma=gamma, corrections=10, step=1.9).sample(y, 8, seeded(1)).x
            assert float(x.abs().max()) < 100


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (PiGDM, {"eta": 1.5}, "pigdm.eta=1.5 is not possible; give a number in [0, 1]"),
        (TMPD, {"solver": "cg"}, "tmpd.solver='cg' is unknown; choose one of auto, full, diagonal"),
        (SDA, {"step": 2.0}, "sda.step=2.0 is not possible; give a number in (0, 2)"),
    ],
    ids=str,
)
def test_errors(method, options, message):
    with pytest.raises(CSBError) as error:
        TASKS["unit"].build(method, COARSE, **options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
