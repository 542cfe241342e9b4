"""A failed training says so, and a healthy one says nothing."""

import logging
import math

import pytest
import torch

from csb.evaluation.scores import MetricsSettings, SamplerSettings, failures, held_out_scores, warn_of_failure
from csb.evaluation.selection import end_distances
from csb.metrics.calibration import central_coverage, sbc_ranks, tarp
from csb.metrics.ensemble import EnsembleScores
from csb.process import seeded
from tests.conftest import make_exact_bridge
from tests.evaluation.test_scores import Shifted


def figures(width, seed, B, n, d=2, tails=False):
    """Of samples ``width`` times as wide as they should be."""
    g = seeded(seed)
    spread = torch.randn(B, 1, generator=g).exp() if tails else torch.ones(B, 1)
    truth = torch.randn(B, d, generator=g) * spread
    x = width * torch.randn(B, n, d, generator=g) * spread[:, None]
    scores = EnsembleScores()
    scores.update(x, truth)
    central, joint = central_coverage(sbc_ranks(x, truth, g)), tarp(x, truth, g)
    row = {"coverage_deviation": central.deviation, "tarp_deviation": joint.deviation}
    return {key: scores.compute()[key] for key in ("spread_skill", "spread_skill_fair", "spread", "skill")} | row


@pytest.mark.parametrize(
    ("B", "n", "d", "tails", "seeds"),
    [
        (2, 8, 1, False, 40),
        (10, 8, 1, False, 40),
        (50, 64, 1, False, 40),
        (500, 32, 3, False, 5),
        (100, 32, 2, True, 15),
    ],
)
def test_a_calibrated_ensemble_is_silent_whatever_its_size_and_tails(B, n, d, tails, seeds):
    for seed in range(seeds):
        assert failures(figures(1.0, seed, B, n, d, tails) | {"mean_error": 3 / n**0.5}, B, n) == [], seed


@pytest.mark.parametrize(("width", "word"), [(0.37, "too sure"), (3.0, "too wide")])
def test_a_wrong_width_is_reported_with_its_figure_and_a_remedy(width, word):
    found = failures(figures(width, 0, 100, 64), 100, 64)
    assert [text.split(" is ")[0] for text in found][:2] == ["spread/skill", "coverage_deviation"]
    assert all(text in found[0] for text in ("1 where calibrated", word, "training.first_steps"))


@pytest.mark.parametrize("observations", [20, 100, 1000])
def test_the_bounds_are_the_roots_of_those_of_variances(observations):
    most = 2 * math.exp(3 * math.sqrt(2 / observations))
    for variances, is_passed in ((0.99 * most, True), (1.01 * most, False), (1.01 / most, True), (0.99 / most, False)):
        found = failures({"spread_skill_fair": math.sqrt(variances)}, observations, 8)
        assert (found == []) == is_passed, variances


@pytest.mark.parametrize(
    ("found", "B", "n", "text"),
    [
        ({"x0_distance": 0.6, "x0_floor": 0.25, "xT_distance": 0.3, "xT_floor": 0.06}, 100, 64, None),
        ({"x0_distance": 0.81, "x0_floor": 0.25}, 100, 64, "x0_distance is 0.81 and its floor 0.25"),
        ({"xT_distance": 0.81, "xT_floor": 0.25}, 100, 64, "schedule.alpha_bar_end"),
        ({"mean_error": 0.5}, 10, 2000, None),
        ({"mean_error": 0.9}, 10, 2000, "mean_error is 0.9"),
        ({"spread_skill": 0.58}, 1000, 2, None),  # of 2 samples a calibrated one has √(2/3)
        ({"spread_skill": 0.37}, 100, 1000, "spread/skill is 0.37"),
        ({"spread_skill_fair": None, "x0_distance": math.nan, "mean_error": math.inf}, 1, 2, None),
        ({"xT_distance": 5.0, "sbc_p": "?"}, 1, 2, None),  # without a floor
    ],
)
def test_each_figure_is_judged_by_its_floor(found, B, n, text):
    reported = failures(found, B, n)
    assert (reported == []) if text is None else (text in " ".join(reported) and len(reported) == 1)


def test_a_run_says_it_in_one_line_and_an_exact_one_says_nothing(caplog, tmp_path):
    class Pairs(Shifted):
        has_exact_posterior = False

    metrics, problem = MetricsSettings(observations=100, samples=32), Pairs(dx=2, dy=2, seed=1)
    bridge = make_exact_bridge("full", iterations=8).bridge

    def judge(**options):
        caplog.clear()
        sampler = SamplerSettings(**options)
        found = held_out_scores(problem, bridge, sampler, metrics, 0)
        found |= end_distances(bridge, problem.pairs("val", 600), 0)
        with caplog.at_level(logging.WARNING, "csb"):
            warn_of_failure(tmp_path, found, problem, sampler, metrics)
        return [record.getMessage() for record in caplog.records]

    assert judge() == []
    with torch.no_grad():
        bridge.backward_kernel.network.spread.diagonal(dim1=1, dim2=2).sub_(4.0)  # standard deviations e⁻² as wide
    (reported,) = judge()
    assert "\n" not in reported
    assert str(tmp_path) in reported
    assert "spread/skill" in reported
    assert not any("spread/skill" in text for text in judge(mean_only=True))
