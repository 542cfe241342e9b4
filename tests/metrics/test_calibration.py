"""Ranks, coverage and TARP: uniform where the model is right, of the known shape where it is over-confident."""

import math
from statistics import NormalDist

import pytest
import torch

from csb.errors import CSBError
from csb.metrics.calibration import LEVELS, central_coverage, rank_uniformity, sbc_ranks, tarp
from csb.process import seeded
from tests.metrics.draws import normal, point_mass

STANDARD = NormalDist()


def model(B: int, n: int, d: int = 2, scale: float = 1.0, shift: float = 0.0, prior: float = 3.0):
    """Truth N(m, I), samples N(m + shift, scale²·I), each observation with its own m ~ N(0, prior²)."""
    centre = prior * normal(B, 1, d, key=4)
    return centre + shift + scale * normal(B, n, d, key=5), centre[:, 0] + normal(B, d, key=6)


def test_the_rank_is_the_formula():
    samples = torch.tensor([1.0, 2, 2, 5])[None, :, None].repeat(3, 1, 1)
    truth = torch.tensor([[2.0], [0.0], [9.0]])
    u = torch.rand((3, 1), generator=seeded(0), dtype=torch.float64)
    expected = (torch.tensor([[1], [0], [4]]) + u * torch.tensor([[3], [1], [1]])) / 5
    torch.testing.assert_close(sbc_ranks(samples, truth, seeded(0)), expected)
    w = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    own = float(w.square().sum())
    expected = (torch.tensor([[0.1], [0], [1]]) + u * (torch.tensor([[0.5], [0], [0]]) + own)) / (1 + own)
    torch.testing.assert_close(sbc_ranks(samples, truth, seeded(0), log_weights=w.log()), expected)


@pytest.mark.parametrize(
    ("n", "log_w"), [(2, None), (50, None), (6, point_mass(6, at=3))], ids=["2", "50", "weight on one"]
)
def test_a_calibrated_model_has_uniform_ranks_and_tarp_on_the_diagonal(n, log_w):
    samples, truth = model(8000, n)
    r = sbc_ranks(samples, truth, seeded(0), log_weights=log_w)
    assert r.shape == (8000, 2)
    found = rank_uniformity(r)
    assert found.p_value > 0.01
    assert float(found.deviation.max()) < 0.01
    assert found.counts.sum(0).tolist() == [8000, 8000]
    coverage = central_coverage(r)
    assert coverage.deviation < 2.5 * coverage.floor
    joint = tarp(samples, truth, seeded(0), log_weights=log_w)
    assert (joint.coverage.shape, joint.observations) == ((19, 1), 8000)
    assert joint.deviation < 2.5 * joint.floor


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_wrong_spread_has_the_known_shape(scale):
    """Shares of ranks below u: Φ(s Φ⁻¹(u)); coverage of central intervals: 2Φ(s z) − 1. TARP in one dimension, with a
    prior so wide that nearly all references lie beyond all samples: Φ(s Φ⁻¹(c)).
    """
    r = sbc_ranks(*model(4000, 400, scale=scale), seeded(0))
    found = rank_uniformity(r, bins=10)
    cdf = [0.0, *(STANDARD.cdf(scale * STANDARD.inv_cdf(i / 10)) for i in range(1, 10)), 1.0]
    torch.testing.assert_close((found.counts / 4000).mean(1).float(), torch.tensor(cdf).diff(), atol=0.01, rtol=0)
    assert found.p_value < 1e-10
    gap = sum(abs(c - i / 10) for i, c in enumerate(cdf) if 0 < i < 10) / 9
    assert float(found.deviation.mean()) == pytest.approx(gap, abs=0.01)
    coverage = central_coverage(r)
    exact = torch.tensor([2 * STANDARD.cdf(scale * STANDARD.inv_cdf((1 + c) / 2)) - 1 for c in LEVELS]).double()
    torch.testing.assert_close(coverage.coverage.mean(1), exact, atol=0.015, rtol=0)
    assert coverage.deviation == pytest.approx(abs(float((exact - coverage.levels).mean())), abs=0.015)
    joint = tarp(*model(6000, 300, d=1, scale=scale, prior=200.0), seeded(0))
    exact = torch.tensor([STANDARD.cdf(scale * STANDARD.inv_cdf(c)) for c in LEVELS]).double()
    torch.testing.assert_close(joint.coverage[:, 0], exact, atol=0.02, rtol=0)


def test_importance_weights_make_a_wide_model_calibrated():
    """Samples of twice the spread of the truth's law, weighted to it."""
    samples, truth = model(3000, 300, scale=2.0)
    centre = 3 * normal(3000, 1, 2, key=4)
    log_w = (-0.5 * (1 - 1 / 4) * (samples - centre).square().sum(2)).log_softmax(1)
    weighted = central_coverage(sbc_ranks(samples, truth, seeded(0), log_weights=log_w))
    plain = central_coverage(sbc_ranks(samples, truth, seeded(0)))
    assert weighted.deviation < 2.5 * weighted.floor
    assert plain.deviation > 0.15
    joint, wrong = (tarp(samples, truth, seeded(0), log_weights=w) for w in (log_w, None))
    assert joint.deviation < 2.5 * joint.floor
    assert wrong.deviation > 3 * joint.deviation


def test_a_mask_selects_coordinates():
    samples, truth = model(30, 5, d=4)
    mask = torch.tensor([True, False, True, False])
    found = sbc_ranks(samples, truth, seeded(0), mask)
    torch.testing.assert_close(found, sbc_ranks(samples[..., mask], truth[:, mask], seeded(0)))
    one, other = tarp(samples, truth, seeded(0), mask=mask), tarp(samples[..., mask], truth[:, mask], seeded(0))
    assert torch.equal(one.coverage, other.coverage)


def test_tarp_sees_wrong_dependence_that_ranks_do_not():
    """Right marginals, but correlation −0.9 in place of 0.9."""
    noise, centre = normal(4000, 101, 2, key=7), 3 * normal(4000, 1, 2, key=4)
    first, sign = noise[..., 0], torch.ones(101, dtype=torch.float64)
    sign[1:] = -1
    drawn = torch.stack([first, 0.9 * sign * first + math.sqrt(1 - 0.81) * noise[..., 1]], dim=2)
    truth, samples = centre[:, 0] + drawn[:, 0], centre + drawn[:, 1:]
    coverage = central_coverage(sbc_ranks(samples, truth, seeded(0)))
    joint = tarp(samples, truth, seeded(0))
    assert coverage.deviation < 2.5 * coverage.floor
    assert joint.deviation > 5 * joint.floor


SAMPLES, TRUTH = model(10, 4)
RANKS = torch.rand(40, 2, generator=seeded(0))


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("weights of sum 4", lambda: sbc_ranks(SAMPLES, TRUTH, seeded(0), log_weights=torch.zeros(4))),
        ("at least 2 truths", lambda: tarp(SAMPLES[:1], TRUTH[:1], seeded(0))),
        ("are no numbers", lambda: central_coverage(RANKS[0])),
        ("are no numbers", lambda: central_coverage(2 * RANKS)),
        ("are no numbers", lambda: rank_uniformity(RANKS * math.nan)),
        ("bins=1", lambda: rank_uniformity(RANKS, 1)),
        ("at least 5 a bin", lambda: rank_uniformity(RANKS, 9)),
        ("levels=", lambda: central_coverage(RANKS, [])),
        ("levels=", lambda: tarp(SAMPLES, TRUTH, seeded(0), [0.5, 1.0])),
    ],
)
def test_bad_input_is_refused(match, call):
    with pytest.raises(CSBError, match=match):
        call()
