"""Samplers of conditional models with the exact one of a Gaussian: marginals along the path, orders, the posterior.

For x | y ~ N(m, C) the exact model is affine. Each deterministic sampler is compared, state by state, with the exact
flow from the same start; the moments of a stochastic one follow a linear recursion.
"""

import math
from itertools import pairwise

import pytest
import torch

from csb.errors import CSBError
from csb.process import Grid, LinearBeta, Noise, Power, seeded
from csb.samplers import FLOW, SCORE, MeanFlowSampler, MultistepConsistency, flow_sampler, score_sampler
from tests.samplers.laws import Transition, assert_moments
from tests.samplers.models import AMORTIZED, EXACT, PROBLEM, make_amortized, untrained

MODELS = {kind: model() for kind, model in EXACT.items()}
DENOISER, VELOCITY = MODELS["score"], MODELS["flow"]
Y = torch.tensor([[0.8, -1.2], [-0.5, 0.3]])
MEAN = (PROBLEM.G @ Y[0].double())[None]
Z = torch.randn(100, 2, generator=seeded(1), dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
CUBIC = Power(1e-6, 3.0)


def states(sampler):
    """z_{T−1}, …, z_0 of the starts Z for the first observation."""
    return list(sampler.walk(Z, sampler.contexts(Y[:1]), Noise(None, 1)))


def slopes(errors):
    """Orders between resolutions that double."""
    return [math.log2(one / two) for one, two in pairwise(errors)]


def worst(difference):
    return float(difference.square().mean(-1).mean(-1).sqrt().max())


class TestOrders:
    @pytest.mark.parametrize(("method", "order"), [("ddim", 1), ("heun", 2), ("dpmpp", 2)])
    def test_the_flow_of_a_score_is_followed_along_the_whole_path(self, method, order):
        """At every k, and the marginals with it: the exact flow carries N(√ᾱ_T m, S_T) to N(√ᾱ_k m, S_k)."""
        errors = []
        for T in (64, 128, 256):
            grid = Grid.from_schedule(CUBIC, T)
            path = DENOISER.flow(Z, MEAN, grid)
            errors.append(worst(torch.stack(states(SCORE[method](DENOISER, grid))[::-1]) - path[:-1]))
        assert errors[-1] < (0.01 if order == 1 else 0.001)
        assert slopes(errors) == pytest.approx([order, order], abs=0.15 * order)

    @pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
    def test_a_flow_is_followed_to_its_end(self, method, order):
        errors = [worst(states(FLOW[method](VELOCITY, N))[-1] - VELOCITY.flow(Z, MEAN)) for N in (32, 64, 128)]
        assert errors[-1] < (0.02 if order == 1 else 1e-4)
        assert slopes(errors) == pytest.approx([order, order], abs=0.15 * order)

    @pytest.mark.parametrize("method", ["heun", "dpmpp"])
    def test_order_two_on_the_grid_of_karras(self, method):
        errors = []
        for T in (32, 64, 128):
            grid = Grid.karras(T, 1e-4)
            errors.append(worst(states(SCORE[method](DENOISER, grid))[-1] - DENOISER.flow(Z, MEAN, grid)[0]))
        assert slopes(errors) == pytest.approx([2, 2], abs=0.3)


def moments(sampler):
    """The law of z_k, from k = T down to 0, of a sampler whose step is linear in state and guess."""
    mean, cov, grid = torch.zeros(2).double(), EYE, sampler.grid
    path = [Transition(mean, cov)]
    for k in range(grid.T, 0, -1):
        law, (root, gain) = sampler.law(k), DENOISER.affine(grid.alpha_bar[k])
        step = law.near * EYE + law.far * gain
        mean = step @ mean + law.far * (MEAN[0] - root * gain @ MEAN[0])
        cov = step @ cov @ step.T + law.var * EYE
        path.append(Transition(mean, cov))
    return path


@pytest.mark.parametrize(("method", "options"), [("ddpm", {}), ("sde", {}), ("ddim", {"eta": 0.5})])
class TestStochastic:
    def test_the_marginals_along_the_path_are_right_to_first_order(self, method, options):
        errors = []
        for T in (128, 256, 512):
            grid = Grid.from_schedule(CUBIC, T)
            path = moments(SCORE[method](DENOISER, grid, **options))[::-1]
            pairs = [(m - a.sqrt() * MEAN[0], C - DENOISER.cov(a)) for (m, C), a in zip(path, grid.alpha_bar)]
            errors.append(max(float(m.norm() + C.norm()) for m, C in pairs))
        assert errors[-1] < 0.03
        assert slopes(errors) == pytest.approx([1, 1], abs=0.15)

    def test_samples_follow_the_recursion(self, method, options):
        sampler = SCORE[method](DENOISER, Grid.from_schedule(LinearBeta(1e-4), 15), **options)
        law = moments(sampler)[-1]
        assert float((law.cov - PROBLEM.C).norm()) > 0.01  # the grid tells the recursion from the end
        assert_moments(sampler.sample(Y, 40_000, seeded(2)).x[0], law)


@pytest.mark.parametrize("name", AMORTIZED)
def test_the_posterior_is_reached(name):
    """On a fine grid with a long horizon; a flow needs no horizon, and models of one call no fine grid."""
    n, T = 20_000, 3 if name in ("meanflow", "consistency_training") else 200
    sampler = make_amortized(name, MODELS, Grid.from_schedule(CUBIC, T), batch_size=2 * n)
    x = sampler.sample(Y, n, seeded(3)).x.double()
    var, bias = PROBLEM.C.diagonal(), 0.03 if name in ("score_ddpm", "score_sde") else 0.01
    for found, law in zip(x, map(PROBLEM.posterior, Y)):
        assert bool(((found.mean(0) - law.mean).abs() < 4 * (var / n).sqrt() + bias).all())
        assert bool(((found.T.cov() - law.cov).abs() < 4 * (2 / n) ** 0.5 * var.max() + bias).all())


@pytest.mark.parametrize("N", [1, 2, 4])
def test_a_mean_flow_follows_the_exact_path_in_any_number_of_calls(N):
    path = states(MeanFlowSampler(MODELS["meanflow"], N))
    torch.testing.assert_close(path, [VELOCITY.flow(Z, MEAN, i / N) for i in range(1, N + 1)], rtol=1e-9, atol=1e-9)


def test_one_call_of_a_consistency_model_is_the_end_of_the_path():
    (end,) = states(MultistepConsistency(MODELS["consistency"], 1))
    torch.testing.assert_close(end, VELOCITY.flow(Z, MEAN), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["ddim", "heun", "dpmpp"])
def test_a_single_step_is_the_guess(method):
    grid = Grid.from_schedule(CUBIC, 1)
    torch.testing.assert_close(states(SCORE[method](DENOISER, grid))[-1], DENOISER(Z, grid.alpha_bar[1], MEAN))


def test_the_first_two_steps_of_dpm_solver_by_hand():
    """Lu et al. 2022, algorithm 2, in its own symbols: α = √ᾱ, σ = √(1−ᾱ), λ = log α/σ."""
    grid = Grid.from_schedule(LinearBeta(1e-3), 4)
    alpha, sigma = grid.alpha_bar.sqrt(), (1 - grid.alpha_bar).sqrt()
    lam = (alpha / sigma).log()
    first, second = (float(lam[k - 1] - lam[k]) for k in (4, 3))
    D_4 = DENOISER(Z, grid.alpha_bar[4], MEAN)
    z_3 = sigma[3] / sigma[4] * Z - alpha[3] * (math.exp(-first) - 1) * D_4
    D_3, r = DENOISER(z_3, grid.alpha_bar[3], MEAN), first / second
    D = (1 + 1 / (2 * r)) * D_3 - 1 / (2 * r) * D_4
    z_2 = sigma[2] / sigma[3] * z_3 - alpha[2] * (math.exp(-second) - 1) * D
    found = states(SCORE["dpmpp"](DENOISER, grid))
    torch.testing.assert_close((found[0], found[1]), (z_3, z_2))


class TestBuilders:
    NETWORK, FLOW = untrained("score", 4, 2), untrained("flow", 4, 2)

    def test_a_score_on_its_own_schedule_and_on_the_grid_of_karras(self):
        sampler = score_sampler(self.NETWORK, "heun", 7, batch_size=3)
        assert type(sampler) is SCORE["heun"]
        assert torch.equal(sampler.grid.alpha_bar, Grid.from_schedule(LinearBeta(1e-4), 7).alpha_bar)
        assert sampler.batch_size == 3
        grid = score_sampler(self.NETWORK, "heun", 7, spacing="karras").grid
        assert float(grid.alpha_bar[-1]) == pytest.approx(1e-4)
        assert float(grid.noise_ratio[1]) == pytest.approx(0.002)

    @pytest.mark.parametrize(
        ("build", "arguments", "message"),
        [
            (score_sampler, (NETWORK, "nope", 5), "method='nope' is unknown; choose one"),
            (score_sampler, (NETWORK, "ddim", 0), "T=0 is not possible; give an integer in 1..10000"),
            (flow_sampler, (FLOW, "euler", 0), "N=0 is not possible"),
        ],
        ids=range(3),
    )
    def test_errors(self, build, arguments, message):
        with pytest.raises(CSBError, match=message):
            build(*arguments)
