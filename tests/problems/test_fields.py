"""Random fields: the posterior against the precision form of Bayes' rule, and draws against it."""

import math

import pytest
import torch

from csb.problems import RandomField
from csb.problems.fields import SEEN, strips
from csb.process import seeded
from csb.runs.stages import exact_denoiser
from csb.samplers import GUIDED, GaussianLikelihood

EYE = torch.eye(256, dtype=torch.float64)


@pytest.fixture(scope="module", params=SEEN)
def problem(request):
    return RandomField(seen=request.param, side=16, n_train=500)


@pytest.fixture(scope="module")
def observed(problem):
    return problem.pairs("test", 1).y[0]


def test_the_posterior_is_that_of_the_precision_form(problem, observed):
    """(C⁻¹ + AᵀA/σ²)⁻¹, and it times A* y/σ²: all that y says of x stands in A* y."""
    C, A = problem.stationary(EYE.unflatten(1, problem.x_shape)).flatten(1), problem.seen_of
    cov = torch.linalg.inv(torch.linalg.inv(C) + A.T @ A / problem.noise_std**2)
    found = problem.posterior(observed)
    torch.testing.assert_close(found.cov, cov, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.mean, cov @ A.T @ observed.double().flatten() / problem.noise_std**2)


def test_draws_of_the_posterior(problem, observed):
    """Projections on its principal axes are standard normal numbers."""
    posterior = problem.posterior(observed)
    values, axes = torch.linalg.eigh(posterior.cov)
    drawn = posterior.sample(4000, seeded(1)).flatten(1).double()
    scaled = ((drawn - posterior.mean) @ axes / values.sqrt())[:, values > 1e-6]
    off = scaled.T @ scaled / 4000 - torch.eye(scaled.shape[1], dtype=torch.float64)
    assert float(scaled.mean(0).abs().max()) < 5 / math.sqrt(4000)
    assert float(off.abs().max()) < 7 / math.sqrt(4000)


def test_what_is_seen(problem):
    x, y, _ = problem.pairs("train", 400)
    noise = y.flatten(1).double() - x.flatten(1).double() @ problem.seen_of.T
    assert float(noise.std()) == pytest.approx(problem.noise_std, rel=0.05)
    assert float(y.std() / noise.std()) == pytest.approx(10, rel=0.1)


def test_fields_have_their_spectrum():
    problem = RandomField(side=16)
    x = problem.prior(4000, seeded(0)).double()
    assert float(x.var()) == pytest.approx(1, rel=0.03)
    power = torch.fft.fft2(x).abs().square().mean((0, 1)) / 256
    torch.testing.assert_close(power / problem.spectrum, torch.ones(16, 16).double(), rtol=0, atol=0.15)


def test_the_denoiser_is_the_regression_of_a_field_on_a_noisy_one():
    """(ᾱ C + (1 − ᾱ) I)⁻¹ √ᾱ C z, at one noise level and at one for each field."""
    problem = RandomField(side=16)
    denoiser = exact_denoiser(problem)
    z, level = torch.randn(2, 1, 16, 16, generator=seeded(1)), torch.tensor([0.3, 0.9], dtype=torch.float64)
    C = problem.stationary(EYE.unflatten(1, problem.x_shape)).flatten(1)
    for i, a in enumerate(level):
        exact = a.sqrt() * C @ torch.linalg.solve(a * C + (1 - a) * EYE, z[i].double().flatten())
        for found in (denoiser(z, level)[i], denoiser(z[i : i + 1], a)[0]):
            torch.testing.assert_close(found.flatten().double(), exact, rtol=0, atol=1e-5)


def test_strips_share_each_point():
    """Along each direction the weights of a point within reach sum to 1, at any number of points a side."""
    for side in (16, 32):
        weights = strips(side).unflatten(0, (12, 32)).sum(1).unflatten(1, (side, side))
        inner = weights[:, side // 4 : -side // 4, side // 4 : -side // 4]
        torch.testing.assert_close(inner, torch.ones_like(inner))


@pytest.mark.parametrize("seen", ["points", "tomography"])
@pytest.mark.parametrize("name", ["dps", "pigdm", "ddrm", "tmpd", "mmps", "tds", "copaint", "sda"])
def test_guided_samplers_take_images_that_are_seen_as_something_else(name, seen):
    problem = RandomField(seen=seen, side=16, n_train=300)
    likelihood = GaussianLikelihood.of(problem, denoiser := exact_denoiser(problem), problem.pairs("train"))
    drawn = GUIDED[name](denoiser, likelihood, T=4).sample(problem.pairs("test", 2).y, 3, seed=1)
    assert drawn.x.shape == (2, 3, 1, 16, 16)
    assert bool(drawn.x.isfinite().all())


@pytest.mark.nightly
def test_moment_matching_with_the_exact_denoiser_has_the_exact_mean():
    problem = RandomField(seen="points", side=16, n_train=300)
    likelihood = GaussianLikelihood.of(problem, denoiser := exact_denoiser(problem), problem.pairs("train"))
    y = problem.pairs("test", 1).y[0]
    drawn = GUIDED["mmps"](denoiser, likelihood, T=100, iterations=40).sample(y, 200, seed=1).x.flatten(1).double()
    posterior = problem.posterior(y)
    error = (drawn.mean(0) - posterior.mean).square().mean() / posterior.cov.diagonal().mean()
    assert float(error) < 4 / 200
