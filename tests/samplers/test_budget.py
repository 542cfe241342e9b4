"""The network passes of every method at any number of steps."""

import pytest

from csb.networks.diffusion import MixtureDenoiser
from csb.problems import GaussianMixture
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import GaussianLikelihood
from csb.samplers.registry import GUIDED
from tests.samplers.conditional_models import AMORTIZED, make_amortized, untrained

PROBLEM = GaussianMixture(dx=4, dy=2, seed=1)
DENOISER = MixtureDenoiser(PROBLEM.mixture)
LIKELIHOOD = GaussianLikelihood.of(PROBLEM, DENOISER, PROBLEM.pairs("train", 500))
Y = PROBLEM.pairs("test", 2).y
NETWORKS = untrained("score", 4, 2), untrained("flow", 4, 2)
ALL = [*GUIDED, *AMORTIZED]


def sampler(name, T, denoiser=DENOISER):
    grid = Grid.from_schedule(LinearBeta(1e-4), T)
    if name in AMORTIZED:
        return make_amortized(name, *NETWORKS, grid)
    return GUIDED[name](denoiser, LIKELIHOOD, grid)


@pytest.mark.parametrize("name", ALL)
def test_more_steps_never_take_fewer_passes(name):
    """So that the most steps of a budget can be found by bisection."""
    passes = [sampler(name, T).evaluations for T in range(1, 9)]
    assert passes == sorted(passes)


@pytest.mark.parametrize("name", AMORTIZED)
@pytest.mark.parametrize("T", [1, 9])
def test_the_passes_of_amortized_samplers_are_those_that_are_made(name, T):
    made, calls = sampler(name, T), []
    hook = made.model.network.register_forward_hook(lambda *_: calls.append(1))
    reported = made.evaluations
    assert calls == []
    made.sample(Y, 8, seeded(1))
    hook.remove()
    assert reported == len(calls)
