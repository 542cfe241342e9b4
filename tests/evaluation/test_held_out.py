"""Scores on held-out pairs of a bridge that is exact, and of others."""

from typing import ClassVar

import pytest
import torch

from csb.evaluation.held_out import held_out, held_out_scores
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.problems import FilePairs, LinearGaussian, Pairs
from tests.conftest import make_exact_bridge

METRICS = MetricsSettings(observations=400, samples=50)


class Shifted(LinearGaussian):
    """Pairs whose posterior is that of make_exact_bridge, with its offset of the mean."""

    def pairs(self, split, n=None):
        x, y, _ = super().pairs(split, n)
        return Pairs(x + torch.tensor([0.3, -0.2]), y)


class Scaled(Shifted):
    """Pairs that are spread 1.5 times as far from the mean as the bridge says."""

    def pairs(self, split, n=None):
        x, y, _ = super().pairs(split, n)
        mean = y @ self.G.T.float() + torch.tensor([0.3, -0.2])
        return Pairs(mean + 1.5 * (x - mean), y)


@pytest.fixture(scope="module")
def bridge():
    return make_exact_bridge("full", iterations=8).bridge


@pytest.fixture(scope="module")
def exact(bridge):
    return held_out_scores(Shifted(dx=2, dy=2, seed=1), bridge, SamplerSettings(), METRICS, seed=0)


def test_an_exact_bridge_is_calibrated(exact):
    found = exact
    assert found["spread_skill_fair"] == pytest.approx(1, abs=0.05)
    assert found["coverage_deviation"] < 2.5 * found["deviation_floor"]
    assert found["tarp_deviation"] < 2.5 * found["deviation_floor"]
    assert found["sbc_p"] > 1e-3
    assert found["deviation_floor"] == pytest.approx(0.016, abs=0.003)


def test_a_bridge_that_is_too_sure_is_not(bridge, exact):
    found = held_out_scores(Scaled(dx=2, dy=2, seed=1), bridge, SamplerSettings(), METRICS, seed=0)
    assert found["spread_skill_fair"] == pytest.approx(1 / 1.5, abs=0.05)
    assert found["coverage_deviation"] > 0.08
    assert found["sbc_p"] < 1e-3
    assert found["crps"] > 1.3 * exact["crps"]


def test_a_bridge_that_is_biased_is_not(bridge):
    found = held_out_scores(LinearGaussian(dx=2, dy=2, seed=1), bridge, SamplerSettings(), METRICS, seed=0)
    assert found["coverage_deviation"] > 0.03
    assert found["sbc_p"] < 1e-5


def test_few_observations_have_no_p_value_and_data_may_end(bridge, tmp_path):
    few = MetricsSettings(observations=20, samples=10)
    found = held_out_scores(Shifted(dx=2, dy=2, seed=1), bridge, SamplerSettings(), few, seed=0)
    assert "sbc_p" not in found
    assert found["deviation_floor"] > 0.05
    assert len(held_out(LinearGaussian(n_test=5), 7).x) == 7  # more of the same stream

    class Ten(FilePairs):
        sizes: ClassVar = {"test": 10}

        def pairs(self, split, n=None):
            return Pairs(torch.zeros(n, 1), torch.zeros(n, 1))

    assert len(held_out(Ten("p.npz"), 7).x) == 7
    assert len(held_out(Ten("p.npz"), 70).x) == 10
