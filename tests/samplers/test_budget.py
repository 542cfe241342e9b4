"""Steps that a budget pays for, and the network passes of every method at any number of steps."""

import pytest
import torch

from csb.networks.diffusion import MixtureDenoiser
from csb.problems import GaussianMixture
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import DiffusionSampler, Likelihood
from csb.samplers.budget import among, steps_within
from csb.samplers.registry import GUIDED
from tests.samplers.conditional_models import AMORTIZED, make_amortized, untrained
from tests.samplers.test_protocol import Counted

PROBLEM = GaussianMixture(dx=4, dy=2, seed=1)
DENOISER = MixtureDenoiser(PROBLEM.mixture)
LIKELIHOOD = Likelihood.of(PROBLEM, DENOISER, PROBLEM.pairs("train", 500))
Y = PROBLEM.pairs("test", 2).y
NETWORKS = untrained("score", 4, 2), untrained("flow", 4, 2)
ALL = [*GUIDED, *AMORTIZED]
COSTS = {
    "T": lambda T: T,
    "2T": lambda T: 2 * T,
    "2T-1": lambda T: 2 * T - 1,
    "3T+2": lambda T: 3 * T + 2,
    "constant": lambda T: 4,
    "nothing": lambda T: 0,
    "jumps": lambda T: T + 9 * (T // 5),
    "seconds": lambda T: 0.3 + 1.7 * T,
    "late": lambda T: 1 if T < 7 else T**2,
}


def sampler(name, T, denoiser=DENOISER):
    grid = Grid.from_schedule(LinearBeta(1e-4), T)
    if name in AMORTIZED:
        return make_amortized(name, *NETWORKS, grid)
    return GUIDED[name](PROBLEM, denoiser, LIKELIHOOD, grid)


class TestStepsWithin:
    @pytest.mark.parametrize("name", COSTS)
    def test_it_is_what_trying_all_gives(self, name):
        cost = COSTS[name]
        for most in (1, 2, 5, 23):
            for budget in (0, 0.5, 1, 2, 3, 4, 5.1, 9, 10, 11, 20, 30, 47, 1000):
                expected = max((T for T in range(1, most + 1) if cost(T) <= budget), default=None)
                assert steps_within(cost, budget, most) == expected, (most, budget)
                assert among(range(1, most + 1), cost, budget) == expected

    def test_an_affine_cost_is_asked_for_a_few_times(self):
        asked = []
        assert steps_within(lambda T: asked.append(T) or 2 * T - 1, 100, 100_000) == 50
        assert len(asked) <= 4

    def test_no_step_beyond_the_most_is_asked_for(self):
        asked = []
        assert steps_within(lambda T: asked.append(T) or T, 1e9, 12) == 12
        assert max(asked) <= 12


@pytest.mark.parametrize("name", ALL)
def test_a_budget_of_passes_is_used_up(name):
    def passes(T):
        return sampler(name, T).evaluations

    for budget in (1, 2, 3, 7, 10, 24):
        T = steps_within(passes, budget, 1000)
        if T is None:
            assert passes(1) > budget
        else:
            assert passes(T) <= budget < passes(T + 1)


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("T", [1, 2, 9])
def test_the_passes_of_guided_samplers_are_those_that_are_made(name, T):
    denoiser = Counted(DENOISER)
    made = sampler(name, T, denoiser)
    reported = made.evaluations
    assert denoiser.levels == []  # counting costs no network call
    info = made.sample(Y, 8, seeded(1)).info
    assert reported == len(denoiser.levels) + denoiser.backward_passes
    assert reported == info.forward_evaluations + info.backward_evaluations


@pytest.mark.parametrize("name", AMORTIZED)
@pytest.mark.parametrize("T", [1, 2, 9])
def test_the_passes_of_amortized_samplers_are_those_that_are_made(name, T):
    made, calls = sampler(name, T), []
    hook = made.model.network.register_forward_hook(lambda *_: calls.append(1))
    reported = made.evaluations
    assert calls == []
    made.sample(Y, 8, seeded(1))
    hook.remove()
    assert reported == len(calls)


@pytest.mark.parametrize("name", GUIDED)
def test_the_dry_run_counts_what_the_formulas_say(name):
    made = sampler(name, 5)
    state = torch.random.get_rng_state()
    assert DiffusionSampler.evaluations.fget(made) == made.evaluations
    assert made.denoiser is DENOISER
    assert torch.equal(torch.random.get_rng_state(), state)


def test_this_file_knows_every_amortized_sampler():
    from csb.run.budgets.methods import METHODS

    assert {*GUIDED, *AMORTIZED, "bridge", "exact"} <= set(METHODS)
