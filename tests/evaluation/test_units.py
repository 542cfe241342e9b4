"""Scores do not depend on the units of x, nor on how far from 0 the data lie."""

import pytest
import torch

from csb.evaluation.results import bridge_row, draw, point_row
from csb.evaluation.rows import Row
from csb.evaluation.scores import MetricsSettings, SamplerSettings
from csb.evaluation.selection import inflate, validation_score
from csb.metrics.calibration import sbc_ranks, tarp
from csb.metrics.distances import c2st, mmd, sample_moments, sliced_wasserstein
from csb.metrics.ensemble import crps_ensemble, energy_score, spread_skill
from csb.problems import Pairs, Rows
from csb.problems.bounded import Probit
from csb.problems.standardise import Standardise
from csb.process import seeded
from csb.samplers import BridgeSampler
from csb.training.state import EACH, SCALED, SCORE, best_iteration
from tests.conftest import make_exact_bridge
from tests.evaluation.test_inflation import shrunk
from tests.evaluation.test_scores import Shifted

UNITS = (1e6, 1e-8)
OF_UNITS = ("crps", "energy_score", "spread", "skill", "spread_skill_fair", "coverage_deviation", "tarp_deviation")


def in_units(units, shift=(0.0, 0.0)):
    """A bridge over states that are x in these units, its mean off by ``shift`` states."""
    bridge = make_exact_bridge("full", iterations=8).bridge
    bridge.transform = Standardise((2,), (2,))
    bridge.transform.x_std.copy_(torch.tensor(units))
    bridge.transform.x_mean.copy_(torch.tensor(shift) * torch.tensor(units))
    return bridge


def pairs_in(units):
    """The problem of the exact bridge, x in these units."""
    problem = Shifted(dx=2, dy=2, seed=1)
    object.__setattr__(problem, "units", units)
    return problem


@pytest.mark.nightly
def test_the_iteration_to_keep_does_not_depend_on_units():
    def rows(units):
        # the first is off in the coordinate of interest, the second right, the third off in the nuisance
        bridges = [in_units(units, shift) for shift in ((0.6, 0.0), (0.0, 0.0), (0.0, 0.3))]
        val = pairs_in(units).pairs("val", 400)
        return [{"iteration": i, **validation_score(b, val, 0)} for i, b in enumerate(bridges, start=1)]

    one, other = rows((1.0, 1.0)), rows(UNITS)
    assert best_iteration(one) == best_iteration(other) == 2
    for a, b in zip(one, other):
        assert a[EACH] == pytest.approx(b[EACH], rel=1e-4)
        assert a[SCORE] == pytest.approx(b[SCORE], rel=1e-5)
        assert sum(b[EACH]) / len(b[EACH]) == pytest.approx(b[SCORE], rel=1e-12)  # nothing is rounded
        assert b[SCALED] == 1


def test_summary_scores_do_not_depend_on_units():
    metrics = MetricsSettings(observations=60, samples=20)

    def scores(units):
        problem, bridge = pairs_in(units), in_units(units)
        held_out = bridge_row(problem, bridge, SamplerSettings(), metrics, seed=0).metrics
        test = problem.pairs("test", 20)
        drawn = draw(BridgeSampler(bridge), Row("bridge", "bridge"), test.y, 8, 0, 20)
        return {key: held_out[key] for key in OF_UNITS}, point_row(drawn, test, 0, bridge.transform.x_scale()).metrics

    for one, other in zip(scores((1.0, 1.0)), scores(UNITS)):
        assert other == pytest.approx(one, rel=1e-4)


def test_the_inflation_does_not_depend_on_units():
    (one, pairs), (other, scaled) = shrunk(0.5), shrunk(0.5, UNITS)
    found = inflate(one, Pairs(pairs.x[:300], pairs.y[:300]), 0)
    assert found["inflation"] == pytest.approx(2, rel=0.2)
    assert inflate(other, Pairs(scaled.x[:300], scaled.y[:300]), 0) == pytest.approx(found, rel=1e-3)


def test_the_scale_of_x_is_in_its_own_units():
    x = torch.rand(20_000, 3, generator=seeded(0)) * torch.tensor([1e3, 4.0, 1.0]) + torch.tensor([0.0, -2.0, 0.0])
    x[:, 2] = 7 * torch.randn(20_000, generator=seeded(1))
    fitted = Probit((3,), (3,), (0.0, -2.0, None), (1e3, 2.0, None)).fit(
        Rows.of(Pairs(x, torch.randn(20_000, 3, generator=seeded(2))))
    )
    assert fitted.x_scale()[:2] / torch.tensor([1e3, 4.0]) == pytest.approx([0.341, 0.341], abs=0.01)
    assert float(fitted.x_scale()[2]) == pytest.approx(7, rel=0.02)


@pytest.mark.nightly
def test_offsets_leave_in_float64():
    offset, near = 1e9, {"rel": 1e-5, "abs": 1e-6}
    a = torch.randn(300, 2, generator=seeded(0), dtype=torch.float64)
    b = torch.randn(300, 2, generator=seeded(1), dtype=torch.float64) + torch.tensor([2.0, 0.0])
    apart = c2st(a, b)
    assert apart > 0.75
    assert c2st((a + offset) * 1e-40, (b + offset) * 1e-40) == pytest.approx(apart, abs=0.02)
    x, truth = a.view(30, 10, 2), b[:30]
    for name, score, one, other in (
        ("sliced W", lambda x, y: sliced_wasserstein(x, y, seeded(2)), a, b),
        ("MMD", mmd, a, b),
        ("CRPS", crps_ensemble, x, truth),
        ("energy score", energy_score, x, truth),
        ("spread/skill", lambda x, y: spread_skill(x, y).spread_skill, x, truth),
    ):
        assert score(one + offset, other + offset) == pytest.approx(score(one, other), **near), name
    assert torch.allclose(sample_moments(a + offset)["cov"], sample_moments(a)["cov"], atol=1e-5)
    for ranks in (sbc_ranks, lambda *of: tarp(*of).coverage):
        assert torch.allclose(ranks(x + offset, truth + offset, seeded(3)), ranks(x, truth, seeded(3)), atol=0.021)


def test_a_constant_coordinate_far_from_0_says_nothing():
    a, b = (torch.randn(400, 2, generator=seeded(i), dtype=torch.float64) for i in (0, 1))
    a[:, 1] = b[:, 1] = 1e9 + 0.1
    assert c2st(a, b) == pytest.approx(c2st(a[:, :1], b[:, :1]), abs=0.05)
