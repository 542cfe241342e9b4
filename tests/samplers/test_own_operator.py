"""Guided samplers from a denoiser and an own A alone: against closed forms, and against the same from a Problem."""

import numpy as np
import pytest
import torch

import csb
from csb.errors import CSBError
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import LinearGaussian, Matrix, Mixture
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import DPS, GUIDED, TDS, BootstrapSMC, horizon
from csb.samplers.likelihood import DRAWS
from tests.samplers.laws import law_errors, output_law
from tests.samplers.models import Pixels

PROBLEM = LinearGaussian(dx=3, dy=2, noise=0.4, seed=2)
DENOISER = MixtureDenoiser(Mixture.isotropic(3, 1.0))
Y = PROBLEM.pairs("test", 2).y
MATRIX = csb.GaussianLikelihood(PROBLEM.A, 0.4)
GRID = Grid.from_schedule(LinearBeta(1e-4), 8)


def squares(x):
    return x[:, :2] ** 2


@pytest.mark.parametrize("name", ["pigdm", "tmpd", "mmps"])
def test_linear_methods_have_the_posterior_from_a_matrix_alone(name):
    sampler = GUIDED[name](DENOISER, csb.GaussianLikelihood(PROBLEM.A.numpy(), std=0.4))
    assert sampler.grid.T == 100
    errors = law_errors(output_law(sampler, Y[0]), PROBLEM.posterior(Y[0]))
    assert errors.mean_scaled < 0.05
    assert errors.cov_relative < 0.1  # of order 1/T, for T = 100


@pytest.mark.parametrize("name", sorted(set(GUIDED) - {"replacement", "repaint", "ilvr"}))
def test_they_are_those_of_a_problem(name):
    train = PROBLEM.pairs("train", 300)
    of = csb.GaussianLikelihood.of(PROBLEM, DENOISER, train)
    own = csb.GaussianLikelihood(PROBLEM.A, 0.4, x=train.x)
    one, two = (GUIDED[name](DENOISER, likelihood, GRID).sample(Y, 6, seeded(3)) for likelihood in (of, own))
    assert torch.equal(one.x, two.x)
    assert one.log_weights is None or torch.equal(one.log_weights, two.log_weights)


@pytest.mark.parametrize("name", ["dps", "tds", "smc", "copaint", "guidance"])
def test_a_plain_function_does_as_its_operator_does(name):
    def H(x):
        return x @ PROBLEM.A.to(x).T

    own = (csb.GaussianLikelihood(A, 0.4) for A in (H, Matrix(PROBLEM.A)))
    one, two = (GUIDED[name](DENOISER, likelihood, T=7).sample(Y, 6, seeded(3)).x for likelihood in own)
    assert torch.equal(one, two)


class TestScales:
    WIDE = Pixels(torch.full((3,), 5.0), 2.0)

    def test_without_draws_they_are_those_of_each_denoiser_that_a_likelihood_meets(self):
        likelihood = csb.GaussianLikelihood(PROBLEM.A, 0.4)
        wide, narrow = (likelihood.bound(one) for one in (self.WIDE, Pixels(torch.zeros(3), 1.0)))
        torch.testing.assert_close(wide.spread, 4 * PROBLEM.A.square().sum(1), rtol=6 / DRAWS**0.5, atol=0)
        assert (wide.z_variance, wide.y_shape) == (1.0, (2,))
        torch.testing.assert_close(narrow.spread, PROBLEM.A.square().sum(1), rtol=6 / DRAWS**0.5, atol=0)
        assert not hasattr(likelihood, "spread")

    def test_of_draws(self):
        x = 3 * torch.randn(4000, 3, generator=seeded(1))
        found = csb.GaussianLikelihood(PROBLEM.A, 0.4, x=x).bound(self.WIDE)
        torch.testing.assert_close(found.spread, 9 * PROBLEM.A.square().sum(1), rtol=0.1, atol=0)
        assert found.z_variance == pytest.approx(9 / 4, rel=0.1)

    def test_the_horizon_is_that_of_the_data_and_the_denoiser(self):
        wide = csb.GaussianLikelihood(PROBLEM.A, 0.4, x=30 * torch.randn(500, 3, generator=seeded(1)))
        sampler = DPS(DENOISER, wide, T=5)
        assert sampler.grid.T == 5
        assert float(sampler.grid.alpha_bar[-1]) == pytest.approx(horizon(sampler.likelihood.z_variance**0.5))
        short = Pixels(torch.zeros(3), 1.0, alpha_bar_end=0.01)
        assert float(DPS(short, wide).grid.alpha_bar[-1]) == pytest.approx(0.01)


def test_known_pixels_are_put_in():
    mask = torch.tensor([1.0, 0.0, 1.0])
    likelihood = csb.GaussianLikelihood(lambda x: mask * x, 0.0, impose=lambda x, y: torch.where(mask > 0, y, x))
    x = csb.samplers.DPS(DENOISER, likelihood, T=5).sample(y := mask * torch.arange(3.0), 4, seeded(1)).x
    assert torch.equal(x[:, mask > 0], y[mask > 0].expand(4, 2))


class TestErrors:
    @pytest.mark.parametrize(
        ("A", "given", "message"),
        [
            (PROBLEM.A, {"std": -1}, "std=-1 is not possible; give a finite number of at least 0"),
            (PROBLEM.A[0], {}, r"A has shape \(3,\); expected a matrix"),
            (np.full((2, 3), np.nan), {}, "A holds NaN or infinite values"),
            ("blur", {}, "A is str; pass a tensor"),
            # with the denoiser that it meets
            (torch.ones(2, 4), {}, r"A takes x of shape \(4,\) and the denoiser's x has shape \(3,\)"),
            (lambda x: x @ torch.ones(4, 2), {}, r"A does not take x of shape \(256, 3\): mat1 and mat2"),
            (lambda x: x.sum(), {}, r"A\(x\) is of shape \(\) for x of .* expected a tensor \(256, \*y_shape\)"),
            (lambda x: x.tolist(), {}, r"A\(x\) is a list for x of shape"),
            (squares, {"y_shape": (3,)}, r"A\(x\) is of shape \(256, 2\) for x of .* expected a tensor \(256, 3\)"),
            (squares, {"x": torch.ones(5, 4)}, r"x has shape \(5, 4\); give two or more draws of x_shape \(3,\)"),
            (squares, {"x": torch.ones(5, 3)}, "over 5 draws of x is 0 or not finite"),
            (torch.log, {}, "the variance of x or of A.x. over 256 draws of x is 0 or not finite; give x="),
        ],
    )
    def test_of_the_likelihood(self, A, given, message):
        with pytest.raises(CSBError, match=message):
            DPS(DENOISER, csb.GaussianLikelihood(A, **{"std": 0.1, **given}))

    @pytest.mark.parametrize("name", ["ddrm", "repaint"])
    def test_linear_methods_refuse_a_plain_function(self, name):
        with pytest.raises(CSBError, match=f"no linear operator; {GUIDED[name].label} needs y = A x .* tds, smc, dps"):
            GUIDED[name](DENOISER, csb.GaussianLikelihood(squares, 0.1))

    def test_no_gradient(self):
        likelihood = csb.GaussianLikelihood(lambda x: x.round(decimals=1).detach(), 0.1)
        with pytest.raises(CSBError, match="dps takes gradients and the likelihood has none in x; smc needs none"):
            DPS(DENOISER, likelihood, T=2).sample(torch.zeros(3))
        assert BootstrapSMC(DENOISER, likelihood, T=2).sample(torch.zeros(3), 4, seeded(0)).x.shape == (4, 3)

    @pytest.mark.parametrize("parts", [(PROBLEM, DENOISER), (MATRIX, DENOISER)])
    def test_other_parts(self, parts):
        with pytest.raises(CSBError, match=r"tds takes a csb\.Denoiser and a likelihood as csb\.GaussianLikelihood"):
            TDS(*parts)
