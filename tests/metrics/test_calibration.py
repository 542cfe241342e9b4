"""Ranks, coverage and TARP: uniform where the model is right, of the known shape where it is over-confident."""

import math
from statistics import NormalDist

import pytest
import torch

from csb.errors import CSBError
from csb.metrics.calibration import LEVELS, central_coverage, rank_uniformity, sbc_ranks, tarp
from csb.process import seeded
from tests.metrics.draws import COPIED, COPIES, normal

STANDARD = NormalDist()


def model(B: int, n: int, d: int = 2, scale: float = 1.0, shift: float = 0.0, prior: float = 3.0):
    """Truth N(m, I), samples N(m + shift, scale²·I), each observation with its own m ~ N(0, prior²)."""
    centre = prior * normal(B, 1, d, key=4)
    return centre + shift + scale * normal(B, n, d, key=5), centre[:, 0] + normal(B, d, key=6)


def ranks(*args, log_weights=None, **kwargs) -> torch.Tensor:
    return sbc_ranks(*model(*args, **kwargs), seeded(0), log_weights=log_weights)


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


@pytest.mark.parametrize("n", [2, 50])
def test_ranks_of_a_calibrated_model_are_uniform_at_any_size(n):
    r = ranks(8000, n)
    assert r.shape == (8000, 2)
    found = rank_uniformity(r)
    assert found.p_value > 0.01
    assert float(found.chi_square.min()) > 0.005
    assert float(found.deviation.max()) < 0.01
    assert found.counts.sum(0).tolist() == [8000, 8000]
    coverage = central_coverage(r)
    assert coverage.deviation < 2.5 * coverage.floor


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_ranks_and_coverage_of_a_wrong_spread_have_the_known_shape(scale):
    """Shares of ranks below u: Φ(s Φ⁻¹(u)); coverage of central intervals: 2Φ(s z) − 1."""
    r = ranks(4000, 400, scale=scale)
    found = rank_uniformity(r, bins=10)
    cdf = [0.0, *(STANDARD.cdf(scale * STANDARD.inv_cdf(i / 10)) for i in range(1, 10)), 1.0]
    shares = torch.tensor(cdf).diff()
    torch.testing.assert_close((found.counts / 4000).mean(1).float(), shares, atol=0.01, rtol=0)
    assert found.p_value < 1e-10
    gap = sum(abs(c - i / 10) for i, c in enumerate(cdf) if 0 < i < 10) / 9
    assert float(found.deviation.mean()) == pytest.approx(gap, abs=0.01)
    coverage = central_coverage(r)
    exact = torch.tensor([2 * STANDARD.cdf(scale * STANDARD.inv_cdf((1 + c) / 2)) - 1 for c in LEVELS]).double()
    torch.testing.assert_close(coverage.coverage.mean(1), exact, atol=0.015, rtol=0)
    assert coverage.bias == pytest.approx(float((exact - coverage.levels).mean()), abs=0.01)
    assert coverage.deviation == pytest.approx(abs(coverage.bias), abs=0.005)


def importance(B: int, n: int, d: int = 2):
    """Samples of twice the spread of the truth's law, weighted to it: (samples, truth, log-weights)."""
    samples, truth = model(B, n, d, scale=2.0)
    centre = 3 * normal(B, 1, d, key=4)
    log_w = (-0.5 * (1 - 1 / 4) * (samples - centre).square().sum(2)).log_softmax(1)
    return samples, truth, log_w


def test_importance_weights_make_a_wide_model_calibrated():
    samples, truth, log_w = importance(3000, 300)
    weighted = central_coverage(sbc_ranks(samples, truth, seeded(0), log_weights=log_w))
    plain = central_coverage(sbc_ranks(samples, truth, seeded(0)))
    assert weighted.deviation < 2.5 * weighted.floor
    assert plain.deviation > 0.15
    joint, wrong = (tarp(samples, truth, seeded(0), log_weights=w) for w in (log_w, None))
    assert joint.deviation < 2.5 * joint.floor
    assert wrong.deviation > 3 * joint.deviation


def test_one_sample_with_all_the_weight_has_uniform_ranks():
    log_w = torch.full((6,), -math.inf).index_fill(0, torch.tensor([3]), 0.0)
    r = ranks(6000, 6, log_weights=log_w)
    assert rank_uniformity(r).p_value > 0.01
    joint = tarp(*model(6000, 6), seeded(0), log_weights=log_w)
    assert joint.deviation < 2.5 * joint.floor


def test_ties_are_split_at_random():
    """Samples and truth from one law on two points."""
    samples, truth = (normal(6000, 8, 1) > 0.4).double(), (normal(6000, 1, key=1) > 0.4).double()
    assert rank_uniformity(sbc_ranks(samples, truth, seeded(0))).p_value > 0.01


def test_equal_weights_and_copies_leave_ranks_as_they_are():
    samples, truth = model(50, 5)
    equal = torch.full((50, 5), -math.log(5), dtype=torch.float64)
    torch.testing.assert_close(sbc_ranks(samples, truth, seeded(0), log_weights=equal), ranks(50, 5))
    own = float(COPIED.exp().square().sum())
    u = torch.rand((50, 2), generator=seeded(0), dtype=torch.float64)
    weighted = sbc_ranks(samples, truth, seeded(0), log_weights=COPIED)
    many = sbc_ranks(samples.repeat_interleave(COPIES, 1), truth, seeded(0))
    torch.testing.assert_close(weighted * (1 + own) - u * own, many * 1.1 - u * 0.1)  # the weight below the truth


def test_a_mask_selects_coordinates():
    samples, truth = model(30, 5, d=4)
    mask = torch.tensor([True, False, True, False])
    found = sbc_ranks(samples, truth, seeded(0), mask)
    torch.testing.assert_close(found, sbc_ranks(samples[..., mask], truth[:, mask], seeded(0)))
    one, other = tarp(samples, truth, seeded(0), mask=mask), tarp(samples[..., mask], truth[:, mask], seeded(0))
    assert torch.equal(one.coverage, other.coverage)


@pytest.mark.parametrize("n", [3, 100])
def test_tarp_of_a_calibrated_model_is_the_diagonal(n):
    found = tarp(*model(6000, n, d=3), seeded(0))
    assert found.coverage.shape == (19, 1)
    assert found.observations == 6000
    assert found.deviation < 2.5 * found.floor


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_tarp_of_a_wrong_spread_has_the_known_shape(scale):
    """One dimension, a prior so wide that nearly all references lie beyond all samples: Φ(s Φ⁻¹(c))."""
    found = tarp(*model(6000, 300, d=1, scale=scale, prior=200.0), seeded(0))
    exact = torch.tensor([STANDARD.cdf(scale * STANDARD.inv_cdf(c)) for c in LEVELS]).double()
    torch.testing.assert_close(found.coverage[:, 0], exact, atol=0.02, rtol=0)


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


def test_bad_input_is_refused():
    samples, truth = model(10, 4)
    good = torch.rand(40, 2, generator=seeded(0))
    for match, call in (
        ("weights of sum 4", lambda: sbc_ranks(samples, truth, seeded(0), log_weights=torch.zeros(4))),
        ("at least 2 truths", lambda: tarp(samples[:1], truth[:1], seeded(0))),
        (r"expected \(B, P\)", lambda: central_coverage(good[0])),
        (r"expected 0\.\.1", lambda: central_coverage(2 * good)),
        ("ranks has", lambda: rank_uniformity(good * math.nan)),
        ("bins=1", lambda: rank_uniformity(good, 1)),
        ("at least 5 a bin", lambda: rank_uniformity(good, 9)),
        ("levels=", lambda: central_coverage(good, [])),
        ("levels=", lambda: tarp(samples, truth, seeded(0), [0.5, 1.0])),
    ):
        with pytest.raises(CSBError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)
