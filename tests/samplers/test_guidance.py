"""Guidance by a class: the sampled law against quadrature of the chain, and against the exact conditional law."""

import math

import pytest
import torch

from csb.errors import CSBError
from csb.metrics.distances import moment_errors
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import GaussianMixture, Mixture, MixtureClass
from csb.process import Grid, Power, seeded
from csb.samplers import GUIDED, TDS, BootstrapSMC, ClassifierGuidance, ClassLikelihood, GaussianLikelihood
from csb.samplers.diffusion import Guidance

M, S = 1.2, 0.5  # two Gaussians at ±M of variance S, on a line
MEANS = torch.tensor([[-M], [M]], dtype=torch.float64)
PAIR = Mixture(torch.full((2,), 0.5).double(), MEANS, torch.full((2, 1, 1), S).double())
CLASS = torch.tensor([0.0, 1.0])  # that at +M


class Line(MixtureClass):
    """The two Gaussians as a problem."""

    x_shape, classes, mixture = (1,), 2, PAIR


LINE = Line()


def grid_of(T):
    return Grid.from_schedule(Power(1e-3, 1.5), T)


def log_odds(z, alpha_bar):
    """ℓ of p(y | z_k), in closed form."""
    return 2 * M * math.sqrt(alpha_bar) * z / (alpha_bar * S + 1 - alpha_bar)


def exact(z, alpha_bar):
    """log p(y = +M | z_k)."""
    return torch.nn.functional.logsigmoid(log_odds(z, alpha_bar))


def at_the_mean(z, alpha_bar):
    """log p(y = +M | x̂_0(z_k)), by the formula of :mod:`csb.samplers.likelihood`."""
    more = 2 * M**2 / S * (1 - alpha_bar) / (alpha_bar * S + 1 - alpha_bar) * (log_odds(z, alpha_bar) / 2).tanh()
    return torch.nn.functional.logsigmoid(log_odds(z, alpha_bar) + more)


class Exactly:
    """Mixed into a sampler: guided by the exact p(y | z_k) in place of p(y | x̂_0(z_k))."""

    def guide(self, z, k, y, score=None, gradient=True):
        if k == 0:
            return super().guide(z, k, y, score, gradient)
        at, alpha_bar = z.detach().requires_grad_(), float(self.grid.alpha_bar[k])
        with torch.enable_grad():
            eye = torch.eye(at.shape[1], dtype=torch.float64)
            diffused = self.denoiser.mixture.observed(alpha_bar**0.5 * eye, (1 - alpha_bar) * eye)
            chance = diffused.log_responsibilities(at)
            value = (y * chance).sum(1)
            (slope,) = torch.autograd.grad(value.sum(), at)
        return Guidance(z, self.denoise(z, k), value.detach().double(), slope)


class ExactGuidance(Exactly, ClassifierGuidance):
    pass


class ExactTDS(Exactly, TDS):
    pass


def make(method, problem, grid, **options):
    twist = ClassLikelihood.of(problem, lambda x, _: problem.log_probabilities(x))
    return method(MixtureDenoiser(problem.mixture), twist, grid, batch_size=100_000, **options)


def law_of_the_chain(log_twist, grid, scale, given=False):
    """Mean and variance of what guidance samples, by quadrature: the density of z_k pushed through its steps.

    ``given``: weighted by p(y | x) at the end.
    """
    z = torch.linspace(-7, 7, 401, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2)
    for k in range(grid.T, 0, -1):
        now, before, beta = float(grid.alpha_bar[k]), float(grid.alpha_bar[k - 1]), float(grid.beta[k])
        at = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_twist(at, now).sum(), at)
        v, half = now * S + 1 - now, (log_odds(z, now) / 2).tanh()
        x_0 = (math.sqrt(now) * S * z + (1 - now) * M * half) / v
        mean = (math.sqrt(before) * beta * x_0 + math.sqrt(1 - beta) * (1 - before) * z) / (1 - now)
        var = beta * (1 - before) / (1 - now)
        mean = mean + scale * var * gradient
        if k > 1:
            density = torch.exp(-0.5 * (z[:, None] - mean) ** 2 / var) @ density / math.sqrt(var)
        density = density / density.sum()
    if given:
        density = density * exact(mean, 1.0).exp()
        density = density / density.sum()
    average = density @ mean
    return float(average), float(density @ (mean - average) ** 2)


@pytest.mark.parametrize("alpha_bar", [0.95, 0.5, 0.05])
def test_a_clean_classifier_at_the_mean_is_surer_than_the_exact_twist(alpha_bar):
    z = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]
    x_0 = PAIR.denoise(z, alpha_bar)
    twist = ClassLikelihood(lambda x, _: PAIR.log_responsibilities(x), 2)
    found = twist.log_prob(CLASS.double().expand(25, 2), x_0, alpha_bar)
    torch.testing.assert_close(found, at_the_mean(z, alpha_bar)[:, 0], rtol=1e-9, atol=1e-9)
    surer = (found - exact(z, alpha_bar)[:, 0]) * z[:, 0].sign()
    assert bool((surer[z[:, 0].abs() > 0.1] > 0).all())


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(("method", "log_twist"), [(ClassifierGuidance, at_the_mean), (ExactGuidance, exact)])
def test_the_sampled_law_is_that_of_the_chain(method, log_twist, scale):
    grid, n = grid_of(20), 60_000
    x = make(method, LINE, grid, scale=scale).sample(CLASS, n, seeded(3)).x.double()
    mean, var = law_of_the_chain(log_twist, grid, scale)
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(var / n)
    assert float(x.var()) == pytest.approx(var, rel=0.03)


def test_guidance_is_exact_with_the_exact_twist_and_biased_with_that_of_the_mean():
    """Errors of order 1/T go to 0, and to the bias of the twist: too far out, and too narrow."""
    laws = [law_of_the_chain(exact, grid_of(T), 1) for T in (20, 40, 80)]
    errors = [M - mean for mean, _ in laws]
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([2, 2], rel=0.05)
    limit_mean, limit_var = (2 * fine - coarse for coarse, fine in zip(*laws[1:]))  # Richardson
    assert limit_mean == pytest.approx(M, rel=0.005)
    assert limit_var == pytest.approx(S, rel=0.05)
    (mean, var), (finer, wider) = (law_of_the_chain(at_the_mean, grid_of(T), 1) for T in (40, 80))
    assert 2 * finer - mean > M + 0.05
    assert 2 * wider - var < 0.9 * S


@pytest.mark.parametrize("method", [ExactTDS, TDS, BootstrapSMC])
def test_particles_draw_from_the_law_of_the_chain_given_the_class(method):
    """Which tends to the law of the class as T → ∞."""
    targets = [law_of_the_chain(exact, grid_of(T), 0, given=True) for T in (40, 80)]
    limit = (2 * fine - coarse for coarse, fine in zip(*targets))  # Richardson
    assert tuple(limit) == (pytest.approx(M, rel=0.01), pytest.approx(S, rel=0.05))
    found = make(method, LINE, grid_of(40)).sample(CLASS.expand(4, 2), 2000, seeded(1))
    x, w = found.x.flatten().double(), found.log_weights.exp().flatten() / 4  # of four runs
    mean, var = targets[0]
    assert float(w @ x) == pytest.approx(mean, abs=0.06)
    assert float(w @ (x - w @ x) ** 2) == pytest.approx(var, rel=0.1)


def test_without_weights_the_overstated_twist_shows():
    alone = make(ClassifierGuidance, LINE, grid_of(40)).sample(CLASS, 8000, seeded(2)).x
    assert abs(float(alone.mean()) - law_of_the_chain(exact, grid_of(40), 0, given=True)[0]) > 0.1


def test_methods_that_need_residuals_and_what_is_no_class():
    problem, grid = MixtureClass(), grid_of(4)
    runs = {name for name, method in GUIDED.items() if method.any_likelihood}
    assert {"tds", "smc", "guidance"} <= runs
    for name in set(GUIDED) - runs:
        with pytest.raises(CSBError, match=f"mixture_class has no likelihood y = H.x. . noise, whose residuals {name}"):
            make(GUIDED[name], problem, grid)
    for name in runs:
        assert make(GUIDED[name], problem, grid).sample(torch.eye(4), 4, seeded(0)).x.shape == (4, 4, 2)
    with pytest.raises(CSBError, match="y holds rows that are no class; give one 1 among zeros in each"):
        make(ClassifierGuidance, problem, grid).sample(torch.full((4,), 0.25), 4, seeded(0))


def test_guidance_runs_with_a_gaussian_likelihood_too():
    """N(0, I) seen through orthonormal rows: p̃_k is the exact p(y | z_k), so that guidance reaches the posterior."""
    problem = GaussianMixture(dx=2, dy=1, noise=0.7, seed=1)
    prior = Mixture.isotropic(2, 1.0)
    likelihood = GaussianLikelihood(problem.operator, problem.noise_std).with_scales(torch.ones(1))
    y = torch.tensor([1.5])
    sampler = ClassifierGuidance(MixtureDenoiser(prior), likelihood, grid_of(150), batch_size=100_000)
    x = sampler.sample(y, 8000, seeded(5)).x
    law = prior.conditioned(problem.A, problem.R, y.double())
    errors = moment_errors(x, {"mean": law.mean, "cov": law.cov})
    assert errors.mean_scaled < 0.08  # of order 1/T: .093, .051 and .036 at T = 75, 150 and 300
    assert errors.cov_relative < 0.1
