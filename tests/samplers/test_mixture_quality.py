"""How near the samplers come to the posterior of the 25-component mixture (dx = 8, dy = 1), over ten problems."""

import statistics

import pytest
from suites.mixture import MixtureSettings, distances, floors

from csb.samplers import DPS, TDS, BootstrapSMC, Replacement

pytestmark = pytest.mark.slow

SCHEDULES = {  # and what 1000 particles are within: so many floors, and so far
    "linear": ({"beta_min": 0.1}, 2, 0.55),
    "cosine": ({"offset": 0.008}, 3.5, 0.8),  # its grid spends its steps where x has long been chosen
    "power": ({"power": 2.0}, 2, 0.55),
}


def setup(schedule):
    given = {"name": schedule, "alpha_bar_end": 1e-5, **SCHEDULES[schedule][0]}
    return MixtureSettings(10, 8, 1, 1000, 100, given, [1000], [0.1])


def distance(method, n=1000, schedule="linear", **options):
    """Sliced W_1 of n samples to n exact draws, averaged over the problems, at one observation each; 100 steps."""
    return statistics.mean(distances(method, setup(schedule), n, **options))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_more_particles_come_nearer_and_a_thousand_within_a_few_floors(schedule):
    """Mode weights are all that is left to get wrong. The floor: the distance between two sets of exact draws."""
    few, many, most = (distance(TDS, n, schedule) for n in (8, 512, 1000))
    assert many < few / 2, (few, many)
    least, (_, floors_off, far) = statistics.mean(floors(setup("linear"), 1000)), SCHEDULES[schedule]
    assert most < min(floors_off * least, far), (most, least)


def test_methods_rank_as_their_theory_says():
    """Asymptotically exact ones near the floor; heuristics with the exact denoiser far away, at their best setting."""
    exact = {method: distance(method) for method in (TDS, BootstrapSMC)}
    assert max(exact.values()) < 0.6, exact
    heuristic = [distance(DPS, step_size=zeta) for zeta in (0.1, 0.3, 1.0)] + [distance(Replacement)]
    assert min(heuristic) > 3 * max(exact.values()), (heuristic, exact)
    worst = distance(TDS, resampling="multinomial", ess_threshold=1.0)
    assert worst > 1.5 * exact[TDS], worst
