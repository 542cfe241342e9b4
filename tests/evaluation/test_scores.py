"""Scores of a bridge that is exact, and of others: against the exact posterior, and on held-out pairs."""

from typing import ClassVar

import pytest
import torch
from suites.timing import sampling_overhead

from csb.evaluation.scores import MetricsSettings, SamplerSettings, draw_chunks, exact_scores, held_out, held_out_scores
from csb.problems import FilePairs, LinearGaussian, Pairs
from csb.process import seeded
from tests.conftest import make_exact_bridge

METRICS = MetricsSettings(exact_samples=8000, exact_observations=4, observations=400, samples=50)
PLAIN, OFFSET = LinearGaussian(dx=2, dy=2, seed=1), torch.tensor([0.3, -0.2])


class Shifted(LinearGaussian):
    """The problem that make_exact_bridge is exact for: its posterior mean has an offset.

    Attributes:
        spread: of x about the posterior mean, in units of what the bridge says.
    """

    name = "shifted"
    spread: ClassVar = 1.0

    def posterior(self, y):
        law = super().posterior(y)
        return type(law)(law.mean + OFFSET.double(), law.cov)

    def pairs(self, split, n=None):
        x, y, _ = super().pairs(split, n)
        mean = y @ self.G.T.float()
        return Pairs(mean + OFFSET + self.spread * (x - mean), y)


class Scaled(Shifted):
    spread = 1.5


RIGHT = Shifted(dx=2, dy=2, seed=1)


@pytest.fixture(scope="module")
def exact():
    return make_exact_bridge("full", iterations=8)


def test_an_exact_bridge_is_at_the_floor_and_calibrated(exact):
    found = exact_scores(RIGHT, exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["sliced_w"] < 1.6 * found["sliced_w_floor"]
    assert found["mean_error"] < 0.03
    assert found["cov_error"] < 0.05
    found = held_out_scores(RIGHT, exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["spread_skill_fair"] == pytest.approx(1, abs=0.05)
    assert found["coverage_deviation"] < 2.5 * found["deviation_floor"]
    assert found["tarp_deviation"] < 2.5 * found["deviation_floor"]
    assert found["sbc_p"] > 1e-3
    assert found["deviation_floor"] == pytest.approx(0.016, abs=0.003)


def test_a_biased_bridge_is_not(exact):
    found = exact_scores(PLAIN, exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["sliced_w"] > 4 * found["sliced_w_floor"]
    expected = float(OFFSET.norm()) / float(PLAIN.C.trace()) ** 0.5
    assert found["mean_error"] == pytest.approx(expected, rel=0.05)
    found = held_out_scores(PLAIN, exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["coverage_deviation"] > 0.03
    assert found["sbc_p"] < 1e-5


def test_a_bridge_of_too_little_spread_is_not(exact):
    found = exact_scores(RIGHT, exact.bridge, SamplerSettings(mean_only=True), METRICS, seed=0)
    assert found["cov_error"] > 0.2
    found = held_out_scores(Scaled(dx=2, dy=2, seed=1), exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["spread_skill_fair"] == pytest.approx(1 / 1.5, abs=0.05)
    assert found["coverage_deviation"] > 0.08
    assert found["sbc_p"] < 1e-3


@pytest.mark.parametrize("labels", [None, torch.arange(7)], ids=["no labels", "labels"])
def test_chunks_are_calls_of_the_bridge_one_after_the_other(exact, labels):
    test = Pairs(*PLAIN.pairs("test", 7)[:2], labels)
    chunks = list(draw_chunks(exact.bridge, test, 5, SamplerSettings(batch_size=4), seeded(3), 3))
    assert [chunk.samples.shape for chunk in chunks] == [(3, 5, 2), (3, 5, 2), (1, 5, 2)]
    generator = seeded(3)
    for chunk, rows in zip(chunks, torch.arange(7).split(3)):
        assert torch.equal(chunk.samples, exact.bridge.sample(test.y[rows], 5, generator=generator, batch_size=4).x)
        assert torch.equal(chunk.pairs.x, test.x[rows])
        assert chunk.pairs.labels is None if labels is None else torch.equal(chunk.pairs.labels, labels[rows])
        assert chunk.info.forward_evaluations == exact.grid.T


def test_few_observations_have_no_p_value_and_data_may_end(exact):
    few = MetricsSettings(observations=20, samples=10)
    found = held_out_scores(RIGHT, exact.bridge, SamplerSettings(), few, seed=0)
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
