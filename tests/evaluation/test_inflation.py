"""Inflation on a chain of exact low-rank kernels whose common variance is too small by a known factor."""

import pytest
import torch

from csb.bridge import build_bridge, load, save
from csb.evaluation import selection
from csb.evaluation.selection import inflate
from csb.metrics.ensemble import spread_skill
from csb.problems import Pairs
from csb.process import seeded
from csb.training.half_step import HalfStepModule
from csb.training.settings import HalfStep, OptimizerSettings
from tests.conftest import make_exact_bridge


def shrunk(share, units=(1.0, 1.0)):
    """The exact bridge with its common variance times ``share`` at every step, and pairs of the problem, in units."""
    exact = make_exact_bridge("low_rank", iterations=8)
    transform = {"name": "standardise", "x_shape": [2], "y_shape": [2]}
    bridge = build_bridge(exact.spec.replace(transform=transform))
    bridge.set_kernel("backward", exact.bridge.backward_kernel)
    bridge.transform.x_std.copy_(torch.tensor(units))
    with torch.no_grad():
        bridge.backward_kernel.network.spread[:, 1:] *= share**0.5
    y = torch.randn(4000, 2, generator=seeded(1))
    noise = torch.randn(4000, 2, generator=seeded(2)).double() @ torch.linalg.cholesky(exact.C).T
    x = (y.double() @ exact.G.T + exact.g + noise) * torch.tensor(units)
    return bridge, Pairs(x.float(), y)


@pytest.fixture(autouse=True)
def _many_observations(monkeypatch):
    monkeypatch.setattr(selection, "INFLATED", 4000)


def ratio(bridge, pairs):
    return spread_skill(bridge.sample(pairs.y, 16, generator=seeded(9)).x, pairs.x).spread_skill_fair


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_the_missing_variance_is_restored(share):
    bridge, pairs = shrunk(share)
    before = ratio(bridge, pairs)
    found = inflate(bridge, pairs, 0)
    assert before < 0.95
    assert found["spread_skill_before"] == pytest.approx(before, rel=0.01)
    assert found["inflation"] == pytest.approx(1 / share, rel=0.08)
    assert ratio(bridge, pairs) == pytest.approx(1, abs=0.02)


def test_samples_too_wide_are_left_alone_and_the_factor_is_bounded():
    wide, pairs = shrunk(1.5)
    assert inflate(wide, pairs, 0)["inflation"] == 1
    narrow, pairs = shrunk(0.2)
    assert inflate(narrow, pairs, 0)["inflation"] == selection.LIMIT


def test_the_factor_is_saved_and_the_next_fit_starts_without(tmp_path):
    bridge, pairs = shrunk(0.8)
    factor = inflate(bridge, pairs, 0)["inflation"]
    save(bridge, tmp_path / "bridge.safetensors", {})
    again = load(tmp_path / "bridge.safetensors")
    assert float(again.backward_kernel.inflation) == pytest.approx(factor)
    HalfStepModule(again, HalfStep(2, 2, "backward", 1), objective=None, settings=OptimizerSettings())
    assert float(again.backward_kernel.inflation) == 1


def test_kernels_without_a_low_rank_covariance_are_not_touched():
    exact = make_exact_bridge("full")
    assert inflate(exact.bridge, Pairs(torch.zeros(4, 2), torch.zeros(4, 2)), 0) == {}
