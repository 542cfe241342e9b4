"""CoPaint against closed forms: its gradient steps are affine for a Gaussian prior, and its limit is the posterior."""

from itertools import pairwise

import pytest
import torch

from csb.errors import CSBError
from csb.problems import LinearGaussian, Mixture
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import CoPaint, GaussianLikelihood
from tests.conftest import Moved
from tests.samplers.painting_chains import M, Y, assert_chain, assert_moments, chain_of, correlated

VAR = 0.6  # of z, in the isotropic problem
NEAR = torch.tensor([1.7])  # its observation
EYE = torch.eye(3, dtype=torch.float64)


def model_of(sampler, chain, y=Y):
    """Level k ↦ v_k, B, g for :meth:`Chain.copaint`, from formulas of their own."""
    A, shift, scale = sampler.likelihood.operator.A, sampler.denoiser.shift.double(), sampler.denoiser.scale

    def model(k):
        C, c = chain.denoiser(k)
        v = 1.0
        if k < chain.grid.T:
            a, b, up = chain.grid.alpha_bar[k], chain.grid.alpha_bar[k + 1], chain.grid.beta[k + 1]
            v = float(0.5 * (1 + sampler.eta**2) * up * (1 - a) / (1 - b))
        s = float(sampler.likelihood.variance(float(chain.grid.alpha_bar[k]))) * sampler.xi**2
        J = scale * A @ C
        return v, J.T @ J / s, J.T @ (y.double() - A @ (shift + scale * c)) / s

    return model


def isotropic(T, **options):
    """z ~ N(M, VAR I), for which the likelihood's s_k² makes p(y | z_k) exact; and the posterior of x."""
    problem, shift, scale = LinearGaussian(dx=3, dy=1, seed=1), 0.5, 2.0
    denoiser = Moved(Mixture(torch.ones(1).double(), M[None], VAR * EYE[None]), shift, scale)
    likelihood = GaussianLikelihood(problem.operator, 0.5).with_scales(torch.full((1,), 2.25 * scale**2 * VAR), VAR)
    grid = Grid.from_schedule(LinearBeta(1e-4), T)
    sampler = CoPaint(denoiser, likelihood, grid, batch_size=4096, **options)
    A, prior = problem.A, shift + scale * M
    cov = torch.linalg.inv(EYE / (scale**2 * VAR) + A.T @ A / 0.25)
    mean = cov @ (prior / (scale**2 * VAR) + A.T @ NEAR.double() / 0.25)
    chain = chain_of(sampler)
    chain.S = VAR * EYE
    return sampler, chain, mean, cov


@pytest.mark.parametrize(
    ("options", "G", "rate"),
    [
        ({"xi": 2.0}, 1, 1.0),
        ({"gradient_steps": 3, "learning_rate": 0.4}, 3, 0.4),
        ({"eta": 1.0, "xi": 2.0, "gradient_steps": 2, "learning_rate": 0.5}, 2, 0.5),
        ({"eta": 0.5, "xi": 2.0, "jump_length": 2, "resamples": 2}, 1, 1.0),
    ],
    ids=["one step", "three steps", "noise", "time travel"],
)
def test_samples_follow_the_recursion(options, G, rate):
    sampler = correlated(CoPaint, **options)
    chain = chain_of(sampler)
    travel = options.get("jump_length", 1), options.get("resamples", 1)
    assert_chain(sampler, chain.copaint(model_of(sampler, chain), options.get("eta", 0.0), G, rate, *travel))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_its_limit_is_the_posterior(eta):
    """Errors of mean and deviations, in posterior deviations, fall as 1/T."""
    errors = []
    for T in (50, 100, 200, 400):
        sampler, chain, mean, cov = isotropic(T, eta=eta)
        chain.copaint(model_of(sampler, chain, NEAR), eta, 1, 1.0)
        std = cov.diagonal().sqrt()
        found = 0.5 + 2.0 * chain.mean, (4 * chain.cov).diagonal().sqrt()
        errors.append((float(((found[0] - mean) / std).abs().max()), float((found[1] / std - 1).abs().max())))
    assert max(errors[-1]) < 0.03
    assert all(b[0] < 0.7 * a[0] and b[1] < 0.7 * a[1] for a, b in pairwise(errors))


def test_it_reaches_the_posterior():
    sampler, chain, mean, cov = isotropic(100)
    x = sampler.sample(NEAR, 4000, seeded(2)).x
    chain.copaint(model_of(sampler, chain, NEAR), 0.0, 1, 1.0)
    assert_moments(x, 0.5 + 2 * chain.mean, 4 * chain.cov)
    assert float(((x.double().mean(0) - mean) / cov.diagonal().sqrt()).abs().max()) < 0.12  # its bias and 5/√n


class TestTheOptimiser:
    START = torch.randn(64, 3, generator=seeded(3))
    EACH = Y.expand(64, 1)

    def test_it_reaches_the_minimum(self):
        for k in (1, 3, 5):
            sampler = correlated(CoPaint, gradient_steps=80, learning_rate=8.0)
            v, B, g = model_of(sampler, chain_of(sampler))(k)
            best = torch.linalg.solve(EYE / v + B, (self.START.double() / v + g).T).T
            found = sampler.optimise(self.START, k, self.EACH)
            torch.testing.assert_close(found.z.double(), best, rtol=0, atol=2e-3)
            torch.testing.assert_close(found.z_0, sampler.denoise(found.z, k))

    @pytest.mark.parametrize("rate", [3.0, 1000.0])
    def test_a_step_never_makes_it_worse(self, rate):
        values = [
            correlated(CoPaint, gradient_steps=G, learning_rate=rate).optimise(self.START, 2, self.EACH).value
            for G in (1, 2, 4, 12)
        ]
        start = correlated(CoPaint)._at(self.START, self.START, 2, self.EACH, False).value
        for one, more in pairwise([start, *values]):
            assert bool((more <= one + 1e-9).all())
        assert bool((values[-1] < start).all())

    def test_a_refused_step_leaves_the_state_and_halves_the_rate(self):
        at = correlated(CoPaint, learning_rate=1000.0).optimise(self.START, 2, self.EACH)
        assert torch.equal(at.z, self.START)
        two, half = (
            correlated(CoPaint, gradient_steps=G, learning_rate=rate).optimise(self.START, 2, self.EACH).z
            for G, rate in ((12, 1024.0), (2, 1.0))
        )
        torch.testing.assert_close(two, half)

    def test_each_sample_has_its_own_rate(self):
        sampler = correlated(CoPaint, gradient_steps=6, learning_rate=3.0)
        far = self.START * torch.linspace(0.1, 30, 64)[:, None]
        together = sampler.optimise(far, 5, self.EACH).z
        alone = torch.cat([sampler.optimise(one[None], 5, Y[None]).z for one in far[::9]])
        torch.testing.assert_close(together[::9], alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xi": 0.0}, "copaint.xi=0.0 is not possible; give a finite number above 0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(CSBError, match=message):
        correlated(CoPaint, **options)
