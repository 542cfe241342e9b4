"""Weighted scores: equal weights, integer multiplicities, weights all on one sample, brute-force sums."""

import math

import pytest
import scoringrules
import torch

from csb.errors import CSBError
from csb.evaluation.inputs import systematic
from csb.evaluation.metrics import (
    EnsembleScores,
    crps_ensemble,
    energy_score,
    gaussian_moment_errors,
    moment_errors,
    posterior_mean,
    psnr,
    sample_moments,
    spread_skill,
    std_error_correlation,
)
from csb.process import seeded
from tests.evaluation.test_metrics import ensemble, half_mask, normal

SCORES = (spread_skill, crps_ensemble, energy_score, std_error_correlation)


def random_log_weights(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (scale * normal(*shape, key=9)).log_softmax(-1)


def point_mass(B: int, n: int, at: int = 2) -> torch.Tensor:
    log_w = torch.full((B, n), -math.inf)
    log_w[:, at] = 0
    return log_w


def numbers(result) -> list[float]:
    parts = result if isinstance(result, tuple) else (result,)
    return [float(v) for part in parts for v in (part if isinstance(part, torch.Tensor) else [part])]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(6, 9), (9,)])
def test_equal_weights_change_nothing(score, shape):
    samples, truth = ensemble()
    equal = torch.full(shape, -math.log(9))  # float32, as samplers give them
    expected = numbers(score(samples, truth, half_mask()))
    assert numbers(score(samples, truth, half_mask(), log_weights=equal)) == pytest.approx(expected, rel=1e-9)


def test_weights_that_are_integers_count_as_copies():
    """Means agree; sums over pairs agree up to the factors 1 − Σw² and 1 − 1/N that make them means."""
    samples, truth = ensemble(n=5)
    copies = torch.tensor([3, 1, 4, 0, 2])
    w = copies.double() / 10
    log_w, many = w.log(), samples.repeat_interleave(copies, 1)
    pairs = (1 - 1 / 10) / (1 - float(w.square().sum()))
    one, other = spread_skill(samples, truth, log_weights=log_w), spread_skill(many, truth)
    assert one.skill == pytest.approx(other.skill, rel=1e-12)
    assert one.spread == pytest.approx(pairs**0.5 * other.spread, rel=1e-12)
    torch.testing.assert_close(posterior_mean(samples, log_w), many.double().mean(1))
    x, y = samples.double(), truth.double()[:, None]
    for score, distance in (
        (crps_ensemble, (x - y).abs().mean((2, 3, 4))),
        (energy_score, (x - y).flatten(2).norm(dim=2)),
    ):
        first = float((log_w.exp() * distance).sum(1).mean())
        weighted, replicated = score(samples, truth, log_weights=log_w), score(many, truth)
        assert first - weighted == pytest.approx(pairs * (first - replicated), rel=1e-10)


def test_weighted_sums_over_pairs_equal_the_double_sum():
    samples, truth = ensemble()
    mask, log_w = half_mask(), random_log_weights(6, 9)
    x, y, w = samples.double()[:, :, mask], truth.double()[:, mask], log_w.exp()
    fair = w[:, :, None] * w[:, None] / (1 - w.square().sum(1))[:, None, None]
    gaps = x[:, :, None] - x[:, None]
    error = x - y[:, None]
    crps = (w[..., None] * error.abs()).sum(1) - 0.5 * (fair[..., None] * gaps.abs()).sum((1, 2))
    energy = (w * error.norm(dim=-1)).sum(1) - 0.5 * (fair * gaps.norm(dim=-1)).sum((1, 2))
    spread = 0.5 * (fair[..., None] * gaps.square()).sum((1, 2))
    assert crps_ensemble(samples, truth, mask, log_w) == pytest.approx(float(crps.mean()), rel=1e-12)
    assert energy_score(samples, truth, mask, log_w) == pytest.approx(float(energy.mean()), rel=1e-12)
    assert spread_skill(samples, truth, mask, log_w).spread ** 2 == pytest.approx(float(spread.mean()), rel=1e-12)


def test_crps_and_energy_score_agree_with_scoringrules():
    samples, truth = ensemble(B=5, n=12, shape=(6,))
    x, y = samples.double().numpy(), truth.double().numpy()
    exact = scoringrules.crps_ensemble(y, x, m_axis=1, estimator="fair").mean()
    assert crps_ensemble(samples, truth) == pytest.approx(float(exact), rel=1e-12)
    log_w = random_log_weights(5, 12)
    w = log_w.exp()
    everywhere = w[:, :, None].expand(-1, -1, 6).contiguous().numpy()
    biased = float(scoringrules.crps_ensemble(y, x, m_axis=1, ens_w=everywhere, estimator="nrg").mean())
    first = (w[..., None] * (samples.double() - truth.double()[:, None]).abs()).sum(1).mean(1)
    fair = [crps_ensemble(x[None], y[None], log_weights=v) for x, y, v in zip(samples, truth, log_w)]
    fair_pairs = first - torch.tensor(fair, dtype=torch.float64)
    plain = first - (1 - w.square().sum(1)) * fair_pairs  # without the factor that makes the estimate fair
    assert float(plain.mean()) == pytest.approx(biased, rel=1e-10)
    energy = scoringrules.es_ensemble(y, x, m_axis=1, v_axis=2, estimator="fair").mean()
    assert energy_score(samples, truth) == pytest.approx(float(energy), rel=1e-12)


def test_a_weighted_ensemble_is_calibrated_by_its_effective_size():
    """Weights that do not depend on the samples: skill² = (1 + Σw²)·σ², whatever they are."""
    centre = 3 * normal(400, 1, 40, key=4)
    samples, truth = centre + normal(400, 6, 40, key=5), centre[:, 0] + normal(400, 40, key=6)
    log_w = random_log_weights(400, 6, scale=1.5)
    result = spread_skill(samples, truth, log_weights=log_w)
    mass = float(log_w.exp().square().sum(1).mean())
    assert mass > 0.35  # the effective size is below 3
    assert result.spread == pytest.approx(1, abs=0.015)
    assert result.skill == pytest.approx((1 + mass) ** 0.5, abs=0.015)
    assert result.spread_skill_fair == pytest.approx(1, abs=0.015)


def test_weights_all_on_one_sample_leave_a_point_mass():
    samples, truth = ensemble()
    for log_w in (point_mass(6, 9), torch.tensor([0.0, -40, -40, -40, -40, -40, -40, -40, -40]).roll(2)):
        point = samples[:, 2].double()
        error = (point - truth).abs()
        result = spread_skill(samples, truth, log_weights=log_w)
        assert (result.spread, result.spread_skill, result.spread_skill_fair) == (0, 0, 0)
        assert result.skill**2 == pytest.approx(float(error.square().mean()), rel=1e-12)
        assert crps_ensemble(samples, truth, log_weights=log_w) == pytest.approx(float(error.mean()), rel=1e-12)
        joint = error.flatten(1).norm(dim=1).mean()
        assert energy_score(samples, truth, log_weights=log_w) == pytest.approx(float(joint), rel=1e-12)
        assert float(std_error_correlation(samples, truth, log_weights=log_w).predicted_std.sum()) == 0
        scores = EnsembleScores()
        scores.update(samples, truth, log_w)
        found = scores.compute()
        assert found.pop("std_error_pearson") != found["spread"]  # NaN: the std is constant
        assert all(math.isfinite(value) for value in found.values())
        assert found["psnr_sample"] == found["psnr_mean"] == pytest.approx(psnr(point, truth), rel=1e-12)
        assert found["n_effective"] == 1


def test_weights_nearly_all_on_one_sample_count_as_all():
    """Else the spread would be a quotient of two rounding errors."""
    samples, truth = ensemble()
    log_w = torch.full((9,), -25.0).index_fill(0, torch.tensor([2]), 0.0)  # the others weigh 1e-11
    assert spread_skill(samples, truth, log_weights=log_w).spread == 0
    scores = EnsembleScores()
    scores.update(samples, truth, log_w)
    assert scores.compute()["n_effective"] == 1


def test_weighted_scores_of_chunks_equal_the_functions():
    samples, truth = ensemble()
    mask, log_w = half_mask(), random_log_weights(6, 9)
    scores, whole = EnsembleScores(mask), EnsembleScores(mask)
    for i, j in ((0, 2), (2, 3), (3, 6)):
        scores.update(samples[i:j], truth[i:j], log_w[i:j])
    whole.update(samples, truth, log_w)
    found = scores.compute()
    assert found == whole.compute()
    spread = spread_skill(samples, truth, mask, log_w)
    assert {key: found[key] for key in spread._fields} == spread._asdict()
    assert found["crps"] == pytest.approx(crps_ensemble(samples, truth, mask, log_w), rel=1e-12)
    assert found["energy_score"] == pytest.approx(energy_score(samples, truth, mask, log_w), rel=1e-12)
    pearson = std_error_correlation(samples, truth, mask, log_weights=log_w).pearson
    assert found["std_error_pearson"] == pytest.approx(pearson, rel=1e-9)
    assert found["psnr_mean"] == pytest.approx(psnr(posterior_mean(samples, log_w), truth))
    mse = (log_w.exp() * (samples.double() - truth[:, None]).square().mean((2, 3, 4))).sum(1).mean()
    assert found["psnr_sample"] == pytest.approx(-10 * math.log10(mse))
    assert found["n_effective"] == pytest.approx(float((1 / log_w.exp().square().sum(1)).mean()))
    assert found["n_samples"] == 9


def test_importance_weights_give_the_moments_of_their_target():
    """Samples of N(0, 1) weighted to N(½, 1): mean ½, variance 1, skewness 0, kurtosis 3."""
    x = normal(400_000, 1)
    log_w = (0.5 * x[:, 0]).log_softmax(0)
    moments = sample_moments(x, log_w)
    exact = {"mean": torch.tensor([0.5]), "cov": torch.eye(1), "skew": torch.zeros(1), "kurtosis": torch.tensor([3.0])}
    errors = moment_errors(x, exact, log_w)
    assert errors.mean_scaled == pytest.approx(0, abs=0.01)
    assert errors.cov_relative == pytest.approx(0, abs=0.02)
    assert errors.skew == pytest.approx(0, abs=0.03)
    assert errors.kurtosis == pytest.approx(0, abs=0.1)
    assert moment_errors(x, exact).mean_scaled == pytest.approx(0.5, abs=0.01)
    assert gaussian_moment_errors(x, exact["mean"], exact["cov"], log_w)[:3] == errors[:3]
    assert gaussian_moment_errors(x, exact["mean"], exact["cov"]).skew is None
    assert moment_errors(x, moments, log_w)[2:] == (0, 0, 0)


def test_moments_of_weights_that_are_integers_and_of_a_point_mass():
    x, copies = normal(5, 2), torch.tensor([3, 1, 4, 0, 2])
    w = copies.double() / 10
    log_w, many = w.log(), x.repeat_interleave(copies, 0)
    found, expected = sample_moments(x, log_w), sample_moments(many)
    share = (1 - 1 / 10) / (1 - float(w.square().sum()))
    torch.testing.assert_close(found["cov"], share * many.T.cov())
    for key in ("mean", "skew", "kurtosis"):
        torch.testing.assert_close(found[key], expected[key])
    point = moment_errors(x, expected, point_mass(1, 5)[0])
    assert all(math.isfinite(value) for value in point)
    assert point.cov_relative == 1


def test_systematic_resampling_gives_each_sample_its_share():
    log_w = random_log_weights(50, scale=2)
    w = log_w.exp()
    counts = systematic(w, 300, 0.3).bincount(minlength=50)
    assert bool(((counts - 300 * w).abs() < 1).all())
    assert systematic(torch.full((7,), 1 / 7).double(), 7, 0.99).tolist() == list(range(7))
    assert systematic(torch.tensor([0.0, 1.0, 0.0]).double(), 4, 0.0).tolist() == [1] * 4


@pytest.mark.parametrize("score", SCORES)
def test_bad_weights_are_refused(score):
    samples, truth = ensemble()
    nan = torch.full((6, 9), -math.log(9))
    nan[2, 3] = math.nan
    for bad, match in (
        (torch.zeros(6, 9), "weights of sum 9"),
        (torch.full((6, 8), -math.log(8)), r"expected \(6, 9\) or \(9,\)"),
        (nan, "NaN"),
        (torch.full((9,), -math.inf), "weights of sum 0"),
        (torch.zeros(6, 9, dtype=torch.long), "torch.int64"),
    ):
        with pytest.raises(CSBError, match=match) as caught:
            score(samples, truth, log_weights=bad)
        assert "\n" not in str(caught.value)


def test_other_bad_input_is_refused():
    x = normal(5, 2)
    with pytest.raises(CSBError, match=r"expected \(B, n, \*shape\)"):
        posterior_mean(x)
    with pytest.raises(CSBError, match="weights of sum 5"):
        sample_moments(x, torch.zeros(5))
    with pytest.raises(CSBError, match=r"expected \(5,\)"):
        sample_moments(x, torch.zeros(4))
    with pytest.raises(CSBError, match="not cov"):
        moment_errors(x, {"mean": torch.zeros(2)})
    with pytest.raises(CSBError, match=r"skew has shape \(3,\)"):
        moment_errors(x, {"mean": torch.zeros(2), "cov": torch.eye(2), "skew": torch.zeros(3)})
    assert systematic(torch.ones(1).double(), 2, float(torch.rand(1, generator=seeded(0)))).tolist() == [0, 0]
