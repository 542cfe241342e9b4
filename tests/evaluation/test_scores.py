"""Scores of exact bridges and of others; a failed training says so, and a healthy one says nothing."""

import logging
import math
from typing import ClassVar

import pytest
import torch
from suites.timing import sampling_overhead

from csb.evaluation.results import bridge_row
from csb.evaluation.scores import MetricsSettings, SamplerSettings, exact_scores, failures, held_out, warn_of_failure
from csb.evaluation.selection import end_distances
from csb.metrics.calibration import central_coverage, sbc_ranks, tarp
from csb.metrics.ensemble import EnsembleScores
from csb.problems import FilePairs, LinearGaussian, Pairs
from csb.process import seeded
from tests.conftest import make_exact_bridge

METRICS = MetricsSettings(exact_samples=8000, exact_observations=4, observations=400, samples=50)
PLAIN, OFFSET = LinearGaussian(dx=2, dy=2, seed=1), torch.tensor([0.3, -0.2])


class Shifted(LinearGaussian):
    """The problem that make_exact_bridge is exact for: its posterior mean has an offset. ``units`` are those of x."""

    name = "shifted"
    units: ClassVar = (1.0, 1.0)

    def posterior(self, y):
        law = super().posterior(y)
        return type(law)(law.mean + OFFSET.double(), law.cov)

    def pairs(self, split, n=None):
        x, y, _ = super().pairs(split, n)
        return Pairs((x + OFFSET) * torch.tensor(self.units), y)


RIGHT = Shifted(dx=2, dy=2, seed=1)


@pytest.fixture(scope="module")
def exact():
    return make_exact_bridge("full", iterations=8)


def test_an_exact_bridge_is_at_the_floor_and_calibrated(exact):
    found = exact_scores(RIGHT, exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["sliced_w"] < 1.6 * found["sliced_w_floor"]
    assert found["mean_error"] < 0.03
    assert found["cov_error"] < 0.05
    found = bridge_row(RIGHT, exact.bridge, SamplerSettings(), METRICS, seed=0).metrics
    assert found["spread_skill_fair"] == pytest.approx(1, abs=0.05)
    assert found["coverage_deviation"] < 2.5 * found["deviation_floor"]
    assert found["tarp_deviation"] < 2.5 * found["deviation_floor"]
    assert found["sbc_p"] > 1e-3
    assert found["deviation_floor"] == pytest.approx(0.016, abs=0.003)


@pytest.mark.nightly
def test_a_biased_or_narrow_bridge_is_not(exact):
    found = exact_scores(PLAIN, exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["sliced_w"] > 4 * found["sliced_w_floor"]
    expected = float(OFFSET.norm()) / float(PLAIN.C.trace()) ** 0.5
    assert found["mean_error"] == pytest.approx(expected, rel=0.05)
    found = bridge_row(PLAIN, exact.bridge, SamplerSettings(), METRICS, seed=0).metrics
    assert found["coverage_deviation"] > 0.03
    assert found["sbc_p"] < 1e-5
    found = exact_scores(RIGHT, exact.bridge, SamplerSettings(mean_only=True), METRICS, seed=0)
    assert found["cov_error"] > 0.2


def test_few_observations_have_no_p_value_and_data_may_end(exact):
    few = MetricsSettings(observations=20, samples=10)
    found = bridge_row(RIGHT, exact.bridge, SamplerSettings(), few, seed=0).metrics
    assert "sbc_p" not in found
    assert found["deviation_floor"] > 0.05
    assert len(held_out(LinearGaussian(n_test=5), 7).x) == 7  # more of the same stream

    class Ten(FilePairs):
        sizes: ClassVar = {"test": 10}

        def pairs(self, split, n=None):
            return Pairs(torch.zeros(n, 1), torch.zeros(n, 1))

    assert [len(held_out(Ten("p.npz"), n).x) for n in (7, 70)] == [7, 10]


def test_the_overhead_is_a_ratio_of_two_times(exact):
    row = sampling_overhead(exact.bridge, torch.zeros(4, 2), 8, repeats=1)
    assert (row["states"], row["T"]) == (32, 4)
    assert row["ratio"] == pytest.approx(row["sample_ms"] / row["calls_ms"])


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
    class Unknown(Shifted):
        has_exact_posterior = False

    metrics, problem = MetricsSettings(observations=100, samples=32), Unknown(dx=2, dy=2, seed=1)
    bridge = make_exact_bridge("full", iterations=8).bridge

    def judge(**options):
        caplog.clear()
        sampler = SamplerSettings(**options)
        found = bridge_row(problem, bridge, sampler, metrics, 0).metrics
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
