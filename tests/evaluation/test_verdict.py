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


@pytest.mark.parametrize(("B", "n", "d"), [(2, 8, 1), (10, 8, 1), (50, 64, 1), (500, 32, 3)])
def test_a_calibrated_ensemble_is_silent_whatever_its_size(B, n, d):
    reported = [text for seed in range(40 if B < 500 else 5) for text in failures(figures(1.0, seed, B, n, d), B, n)]
    assert reported == []
    assert failures(figures(1.0, 0, B, n, d) | {"mean_error": 3 / n**0.5}, B, n) == []


def test_posteriors_of_unequal_width_are_silent():
    assert [text for seed in range(15) for text in failures(figures(1.0, seed, 100, 32, 2, tails=True), 100, 32)] == []


@pytest.mark.parametrize(("width", "word"), [(0.37, "too sure"), (3.0, "too wide")])
def test_a_wrong_width_is_told_with_its_figure_and_a_remedy(width, word):
    found = failures(figures(width, 0, 100, 64), 100, 64)
    assert [text.split(" is ")[0] for text in found][:2] == ["spread/skill", "coverage_deviation"]
    assert "1 where calibrated" in found[0]
    assert word in found[0]
    assert "training.first_steps" in found[0]


def test_the_plain_ratio_is_judged_where_there_is_no_fair_one():
    assert failures({"spread_skill": 0.58}, 1000, 2) == []  # of 2 samples a calibrated one has √(2/3)
    assert "spread/skill is 0.37" in failures({"spread_skill": 0.37}, 100, 1000)[0]


@pytest.mark.parametrize("observations", [20, 100, 1000])
def test_the_bounds_are_the_roots_of_those_of_variances(observations):
    most = 2 * math.exp(3 * math.sqrt(2 / observations))
    for variances, is_passed in ((0.99 * most, True), (1.01 * most, False), (1.01 / most, True), (0.99 / most, False)):
        found = failures({"spread_skill_fair": math.sqrt(variances)}, observations, 8)
        assert (found == []) == is_passed, variances


def test_ends_and_means_are_judged_by_their_floors():
    assert failures({"x0_distance": 0.6, "x0_floor": 0.25, "xT_distance": 0.3, "xT_floor": 0.06}, 100, 64) == []
    (found,) = failures({"x0_distance": 0.81, "x0_floor": 0.25}, 100, 64)
    assert found.startswith("x0_distance is 0.81 and its floor 0.25")
    (found,) = failures({"xT_distance": 0.81, "xT_floor": 0.25}, 100, 64)
    assert "schedule.alpha_bar_end" in found
    assert failures({"mean_error": 0.5}, 10, 2000) == []
    assert "mean_error is 0.9" in failures({"mean_error": 0.9}, 10, 2000)[0]


def test_what_is_missing_or_not_finite_is_not_judged():
    odd = {
        "spread_skill_fair": None,
        "x0_distance": float("nan"),
        "mean_error": float("inf"),
        "xT_distance": 5.0,
        "sbc_p": "?",
    }
    assert failures(odd, 1, 2) == []


def test_a_run_says_it_in_one_line_and_an_exact_one_says_nothing(caplog, tmp_path):
    metrics, sampler = MetricsSettings(observations=100, samples=32), SamplerSettings()

    class Pairs(Shifted):
        has_exact_posterior = False

    problem, bridge = Pairs(dx=2, dy=2, seed=1), make_exact_bridge("full", iterations=8).bridge

    def judge(sampler):
        caplog.clear()
        found = held_out_scores(problem, bridge, sampler, metrics, 0) | end_distances(
            bridge, problem.pairs("val", 600), 0
        )
        with caplog.at_level(logging.WARNING, "csb"):
            warn_of_failure(tmp_path, found, problem, sampler, metrics)
        return [record.getMessage() for record in caplog.records]

    assert judge(sampler) == []
    with torch.no_grad():
        bridge.backward_kernel.network.spread.diagonal(dim1=1, dim2=2).sub_(4.0)  # standard deviations e⁻² as wide
    (reported,) = judge(sampler)
    assert "\n" not in reported
    assert str(tmp_path) in reported
    assert "spread/skill" in reported
    assert not any("spread/skill" in text for text in judge(SamplerSettings(mean_only=True)))
