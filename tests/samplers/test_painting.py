"""RePaint, ILVR, replacement and CoPaint against closed forms.

For a Gaussian prior each is a chain of affine maps and Gaussian noise, so that the mean and covariance of its samples
follow from a recursion: not those of the posterior, but the bias that theory predicts. The limit of CoPaint is the
posterior.
"""

from itertools import pairwise

import pytest
import torch

from csb.errors import CSBError
from csb.problems import LinearGaussian, Mixture, MnistSuperres
from csb.process import Grid, LinearBeta, Power, seeded
from csb.samplers import ILVR, CoPaint, GaussianLikelihood, RePaint, Replacement
from csb.samplers.diffusion import levels
from tests.conftest import ROOT, Moved
from tests.samplers.laws import Chain, assert_moments
from tests.samplers.models import GaussianTask, Pixels

COARSE = Grid.from_schedule(Power(0.2, 2.0), 5)  # a short horizon, where ILVR and replacement differ
PROBLEM = LinearGaussian(dx=3, dy=1, seed=1)  # one row, of length 1.5
M = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
S = torch.tensor([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)
Y = torch.tensor([8.0])  # far from the prior's mean, so that what is done with it tells


def correlated(method, shift=0.5, scale=2.0, grid=COARSE, **options):
    """A sampler for a correlated prior N(M, S) of z = (x − shift)/scale."""
    denoiser = Moved(Mixture(torch.ones(1).double(), M[None], S[None]), shift, scale)
    likelihood = GaussianLikelihood(PROBLEM.operator, 0.5).with_scales(torch.full((1,), 2.0), 0.8)
    return method(denoiser, likelihood, grid, batch_size=4096, **options)


def chain_of(sampler, cov=S):
    """The chain of a sampler of N(M, cov)."""
    A, shift, scale = PROBLEM.A, sampler.denoiser.shift.double(), sampler.denoiser.scale
    c = A @ A.T
    P = A.T @ A / c
    return Chain(sampler.grid, M, cov, P, (A.T @ Y.double() / c[0] - P @ shift) / scale)


def assert_chain(sampler, chain, y=Y, n=20_000):
    assert_moments(sampler.sample(y, n, seeded(1)).x, chain.law(sampler))


def two(grid, y=1.5):
    """Two coordinates of correlation .9, of which the first is seen."""
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    P = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    return Chain(grid, torch.zeros(2).double(), cov, P, torch.tensor([y, 0.0], dtype=torch.float64))


def unseen(chain, y=1.5):
    """Of the unseen coordinate: the error of the mean in posterior deviations, and the ratio of variances."""
    return float((chain.mean[1] - 0.9 * y) / 0.19**0.5), float(chain.cov[1, 1] / 0.19)


class TestTravel:
    def test_the_levels_of_algorithm_1(self):
        assert levels(4, 1, 2) == [4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0]
        assert levels(5, 2, 2) == [5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]
        assert levels(3, 1, 1) == [3, 2, 1, 0]
        assert levels(1, 1, 5) == [1, 0]

    @pytest.mark.parametrize(("T", "j", "U"), [(10, 1, 3), (10, 3, 4), (11, 10, 2), (250, 10, 10)])
    def test_the_count(self, T, j, U):
        down = [a for a, b in pairwise(levels(T, j, U)) if b < a]
        assert len(down) == T + (U - 1) * j * ((T - 1) // j)
        reached = 1 + j * ((T - 1) // j)
        assert all(down.count(k) == (U if 1 < k <= reached else 1) for k in range(1, T + 1))

    @pytest.mark.parametrize("method", [RePaint, CoPaint])
    def test_a_jump_that_does_not_fit(self, method):
        with pytest.raises(CSBError, match="jump_length=5 does not fit in T=5 steps; give at most 4"):
            correlated(method, jump_length=5)


class TestRePaint:
    @pytest.mark.parametrize(("j", "U"), [(1, 3), (2, 2), (4, 5)])
    def test_samples_follow_the_recursion(self, j, U):
        sampler = correlated(RePaint, jump_length=j, resamples=U)
        chain = chain_of(sampler).repaint(j, U)
        assert_chain(sampler, chain)
        assert float((chain_of(sampler).repaint(1, 1).mean - chain.mean).abs().max()) > 0.05  # ten standard errors

    def test_the_table_of_the_documentation(self):
        page = (ROOT / "docs/pages/methods/repaint.md").read_text()
        grid = Grid.from_schedule(LinearBeta(1e-4), 100)
        for U in (1, 2, 5, 10, 50):
            found = [value for j in (1, 10) for value in unseen(two(grid).repaint(j, U))]
            row = f"| {U} | " + " | ".join(f"{value:.3f}" for value in found) + " |"
            assert row in page, row


class TestILVRAndReplacement:
    @pytest.mark.parametrize("until", [0.0, 0.5, 1.0])
    def test_ilvr_follows_the_recursion(self, until):
        sampler = correlated(ILVR, until=until)
        assert_chain(sampler, chain_of(sampler).ilvr(until))

    @pytest.mark.parametrize("scale", [1.0, 2.0])
    def test_replacement_follows_the_recursion(self, scale):
        sampler = correlated(Replacement, scale=scale)
        assert_chain(sampler, chain_of(sampler).replacement())

    def test_for_super_resolution_the_filter_is_the_mean_of_blocks(self):
        denoiser = Pixels(torch.full((1, 28, 28), 0.2), 0.5)
        sampler = ILVR(denoiser, GaussianLikelihood(MnistSuperres(factor=4).operator, 0.1), COARSE)
        x = torch.rand(2, 1, 28, 28, generator=seeded(1))
        blocks = x.reshape(2, 1, 7, 4, 7, 4).mean((3, 5), keepdim=True).expand(2, 1, 7, 4, 7, 4).reshape(x.shape)
        torch.testing.assert_close(sampler.project(x), blocks)


VAR = 0.6  # of z, in the isotropic problem
NEAR = torch.tensor([1.7])  # its observation


def model_of(sampler, chain, y=Y):
    """Level k ↦ v_k, B, g for :meth:`Chain.copaint`, from formulas of their own."""
    A, shift, scale, grid = PROBLEM.A, sampler.denoiser.shift.double(), sampler.denoiser.scale, chain.grid

    def model(k):
        D, b, _ = chain.denoiser(k)
        v = 1.0
        if k < grid.T:
            rest = (1 - grid.alpha_bar[k]) / (1 - grid.alpha_bar[k + 1])
            v = float(0.5 * (1 + sampler.eta**2) * grid.beta[k + 1] * rest)
        s = float(sampler.likelihood.variance(float(grid.alpha_bar[k]))) * sampler.xi**2
        J = scale * A @ D
        return v, J.T @ J / s, J.T @ (y.double() - A @ (shift + scale * b)) / s

    return model


def isotropic(T, **options):
    """z ~ N(M, VAR I), for which the likelihood's s_k² makes p(y | z_k) exact; its chain and the posterior of x."""
    task = GaussianTask(PROBLEM, 0.5 + 2 * M, 4 * VAR * EYE, 0.5, 2.0)
    sampler = task.build(CoPaint, Grid.from_schedule(LinearBeta(1e-4), T), **options)
    chain = chain_of(sampler, VAR * EYE)
    return sampler, chain.copaint(model_of(sampler, chain, NEAR), **options), task.posterior(NEAR)


class TestCoPaint:
    @pytest.mark.parametrize(
        "options",
        [
            {"xi": 2.0},
            {"gradient_steps": 3, "learning_rate": 0.4},
            {"eta": 1.0, "xi": 2.0, "gradient_steps": 2, "learning_rate": 0.5},
            {"eta": 0.5, "xi": 2.0, "jump_length": 2, "resamples": 2},
        ],
        ids=["one step", "three steps", "noise", "time travel"],
    )
    def test_samples_follow_the_recursion(self, options):
        sampler = correlated(CoPaint, **options)
        chain = chain_of(sampler)
        assert_chain(sampler, chain.copaint(model_of(sampler, chain), **options))

    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    def test_its_limit_is_the_posterior(self, eta):
        """Errors of mean and deviations, in posterior deviations, fall as 1/T."""
        errors = []
        for T in (50, 100, 200, 400):
            sampler, chain, exact = isotropic(T, eta=eta)
            law, std = chain.law(sampler), exact.cov.diagonal().sqrt()
            gaps = (law.mean - exact.mean) / std, law.cov.diagonal().sqrt() / std - 1
            errors.append([float(gap.abs().max()) for gap in gaps])
        assert max(errors[-1]) < 0.03
        assert all(b[0] < 0.7 * a[0] and b[1] < 0.7 * a[1] for a, b in pairwise(errors))


class TestTheOptimiserOfCoPaint:
    START = torch.randn(64, 3, generator=seeded(3))
    EACH = Y.expand(64, 1)

    def optimised(self, k=2, **options):
        return correlated(CoPaint, **options).optimise(self.START, k, self.EACH)

    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_it_reaches_the_minimum(self, k):
        sampler = correlated(CoPaint)
        v, B, g = model_of(sampler, chain_of(sampler))(k)
        best = torch.linalg.solve(EYE / v + B, (self.START.double() / v + g).T).T
        found = self.optimised(k, gradient_steps=80, learning_rate=8.0)
        torch.testing.assert_close(found.z.double(), best, rtol=0, atol=2e-3)
        torch.testing.assert_close(found.z_0, sampler.denoise(found.z, k))

    @pytest.mark.parametrize("rate", [3.0, 1000.0])
    def test_a_step_never_makes_it_worse(self, rate):
        values = [correlated(CoPaint)._at(self.START, self.START, 2, self.EACH, False).value]
        values += [self.optimised(gradient_steps=G, learning_rate=rate).value for G in (1, 2, 4, 12)]
        assert all(bool((more <= one + 1e-9).all()) for one, more in pairwise(values))
        assert bool((values[-1] < values[0]).all())

    def test_a_refused_step_leaves_the_state_and_halves_the_rate(self):
        assert torch.equal(self.optimised(learning_rate=1000.0).z, self.START)
        halved = self.optimised(gradient_steps=12, learning_rate=1024.0).z
        torch.testing.assert_close(halved, self.optimised(gradient_steps=2, learning_rate=1.0).z)

    def test_each_sample_has_its_own_rate(self):
        sampler = correlated(CoPaint, gradient_steps=6, learning_rate=3.0)
        far = self.START * torch.linspace(0.1, 30, 64)[:, None]
        together = sampler.optimise(far, 5, self.EACH).z
        alone = torch.cat([sampler.optimise(one[None], 5, Y[None]).z for one in far[::9]])
        torch.testing.assert_close(together[::9], alone)


@pytest.mark.parametrize("method", [RePaint, ILVR, Replacement])
def test_what_needs_a_projection(method):
    def build(problem):
        likelihood = GaussianLikelihood(problem.operator, 0.1).with_scales(torch.ones(problem.y_shape))
        return method(Pixels(torch.zeros(3), 1.0), likelihood, COARSE)

    with pytest.raises(CSBError, match=rf"A A\* of .* is not a multiple of the identity; {method.label}"):
        build(LinearGaussian(dx=3, dy=2))
    assert build(PROBLEM).c == pytest.approx(2.25, abs=1e-5)
