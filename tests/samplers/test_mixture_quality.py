"""How near the samplers come to the posterior of the 25-component mixture (dx = 8, dy = 1), over ten problems."""

import pytest

from csb.evaluation.metrics import sliced_wasserstein
from csb.networks.denoiser import MixtureDenoiser
from csb.problems import GaussianMixture
from csb.process import Cosine, Grid, LinearBeta, Power, seeded
from csb.samplers import DPS, TDS, BootstrapSMC, Likelihood, Replacement

pytestmark = pytest.mark.slow

SCHEDULES = {"linear": LinearBeta(1e-5), "cosine": Cosine(1e-5), "power": Power(1e-5, 2.0)}
PROBLEMS = [GaussianMixture(dx=8, dy=1, seed=seed, n_train=2000) for seed in range(10)]


def distance(method, n, schedule="linear", **options):
    """Sliced W_1 of n samples to n exact draws, averaged over the problems, at one observation each; 100 steps."""
    found = []
    for problem in PROBLEMS:
        denoiser, y = MixtureDenoiser(problem.mixture), problem.pairs("test", 1).y[0]
        model = Likelihood.of(problem, denoiser, problem.pairs("train", 2000))
        grid = Grid.from_schedule(SCHEDULES[schedule], 100)
        drawn = method(problem, denoiser, model, grid, batch_size=1024, **options).sample(y, n, seeded(5, problem.seed))
        exact = problem.posterior(y).sample(n, seeded(6, problem.seed))
        found.append(sliced_wasserstein(drawn.x, exact, seeded(7), p=1.0, log_weights_a=drawn.log_weights))
    return sum(found) / len(found)


def floor(n):
    """The distance between two sets of exact draws."""
    found = []
    for problem in PROBLEMS:
        posterior = problem.posterior(problem.pairs("test", 1).y[0])
        one, two = (posterior.sample(n, seeded(key, problem.seed)) for key in (8, 6))
        found.append(sliced_wasserstein(one, two, seeded(7), p=1.0))
    return sum(found) / len(found)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_more_particles_come_nearer(schedule):
    few, many = distance(TDS, 8, schedule), distance(TDS, 512, schedule)
    assert many < few / 2, (few, many)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_thousand_particles_come_within_a_few_floors(schedule):
    """Mode weights are all that is left to get wrong; the cosine grid spends its steps where x has long been chosen."""
    found, least = distance(TDS, 1000, schedule), floor(1000)
    limit = {"linear": 2, "power": 2, "cosine": 3.5}[schedule]
    assert found < limit * least, (found, least)
    assert found < (0.55 if schedule != "cosine" else 0.8), (found, least)


def test_methods_rank_as_their_theory_says():
    """Asymptotically exact ones near the floor; heuristics with the exact denoiser far away, at their best setting."""
    exact = {method: distance(method, 1000) for method in (TDS, BootstrapSMC)}
    assert max(exact.values()) < 0.6, exact
    heuristic = [distance(DPS, 1000, step_size=zeta) for zeta in (0.1, 0.3, 1.0)] + [distance(Replacement, 1000)]
    assert min(heuristic) > 3 * max(exact.values()), (heuristic, exact)


def test_resampling_at_every_step_multinomially_ruins_it():
    worst = distance(TDS, 1000, resampling="multinomial", ess_threshold=1.0)
    assert worst > 1.5 * distance(TDS, 1000), worst
