"""Every score of an ensemble against a closed form or a brute-force sum, with weights and without."""

import math

import pytest
import scoringrules
import torch
from scipy.stats import pearsonr

from csb.errors import CSBError
from csb.metrics.distances import moment_errors, sample_moments
from csb.metrics.ensemble import EnsembleScores, crps_ensemble, energy_score, spread_skill, std_error_correlation
from csb.metrics.fidelity import psnr
from csb.metrics.inputs import posterior_mean, systematic
from csb.process import seeded
from tests.metrics.draws import COPIED, COPIES, SHARE, ensemble, half_mask, log_weights, normal, point_mass


def scored(samples, truth, log_w=None, mask=None):
    scores = EnsembleScores()
    scores.update(samples, truth, log_w, mask)
    return scores


@pytest.mark.parametrize(("n", "scale"), [(2, 1.0), (32, 1.0), (16, 0.5), (16, 2.0)])
def test_spread_skill_of_a_calibrated_ensemble_is_1_within_its_standard_error(n, scale):
    """N independent errors of means and variances of n draws: the squares have the relative variances 2/N and
    2/(N(n − 1)), their ratio the sum, and the root of the ratio a quarter of it.
    """
    centre = 3 * normal(200, 1, 40, key=4)
    samples, truth = centre + scale * normal(200, n, 40, key=5), centre[:, 0] + normal(200, 40, key=6)
    scores = scored(samples, truth)
    found, exact = scores.compute(), math.sqrt(n / (2 * truth.numel() * (n - 1)))
    if scale == 1:
        assert scores.standard_errors()["spread_skill_fair"] == pytest.approx(exact, rel=0.2)
    ratio = scale * math.sqrt((n + 1) / (n + scale**2))  # of the spread to what the error of the mean should be
    assert abs(found["spread_skill_fair"] - ratio) < 4 * exact * ratio
    assert found["spread_skill"] == pytest.approx(ratio * math.sqrt(n / (n + 1)), abs=0.03)
    assert found["spread"] == pytest.approx(scale, rel=0.025)


def test_a_weighted_ensemble_is_calibrated_by_its_effective_size():
    """Weights that do not depend on the samples: skill² = (1 + Σw²)·σ², whatever they are."""
    centre = 3 * normal(400, 1, 40, key=4)
    samples, truth = centre + normal(400, 6, 40, key=5), centre[:, 0] + normal(400, 40, key=6)
    log_w = log_weights(400, 6, scale=1.5)
    result = spread_skill(samples, truth, log_weights=log_w)
    mass = float(log_w.exp().square().sum(1).mean())
    assert mass > 0.35  # the effective size is below 3
    assert result.spread == pytest.approx(1, abs=0.015)
    assert result.skill == pytest.approx((1 + mass) ** 0.5, abs=0.015)
    assert result.spread_skill_fair == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("log_w", [None, log_weights(6, 9)], ids=["equal", "weighted"])
def test_sums_over_pairs_equal_the_double_sum(log_w):
    samples, truth = ensemble()
    mask, w = half_mask(), torch.full((6, 9), 1 / 9, dtype=torch.float64) if log_w is None else log_w.exp()
    x, y = samples.double()[:, :, mask], truth.double()[:, mask]
    fair = w[:, :, None] * w[:, None] / (1 - w.square().sum(1))[:, None, None]
    gaps, error = x[:, :, None] - x[:, None], x - y[:, None]
    crps = (w[..., None] * error.abs()).sum(1) - 0.5 * (fair[..., None] * gaps.abs()).sum((1, 2))
    energy = (w * error.norm(dim=-1)).sum(1) - 0.5 * (fair * gaps.norm(dim=-1)).sum((1, 2))
    spread = 0.5 * (fair[..., None] * gaps.square()).sum((1, 2))
    skill = ((w[..., None] * x).sum(1) - y).square()
    samples[:, :, ~mask] = 100  # what the mask leaves out does not count
    assert crps_ensemble(samples, truth, mask, log_w) == pytest.approx(float(crps.mean()), rel=1e-12)
    assert energy_score(samples, truth, mask, log_w) == pytest.approx(float(energy.mean()), rel=1e-12)
    found = spread_skill(samples, truth, mask, log_w)
    assert found.spread**2 == pytest.approx(float(spread.mean()), rel=1e-12)
    assert found.skill**2 == pytest.approx(float(skill.mean()), rel=1e-12)
    one = samples[..., :1, :1], truth[..., :1, :1]
    assert energy_score(*one, log_weights=log_w) == pytest.approx(crps_ensemble(*one, log_weights=log_w), rel=1e-12)


@pytest.mark.parametrize("n", [2, 64])
def test_crps_of_a_gaussian_is_unbiased_at_any_size(n):
    mu, sigma, pixels = 0.4, 1.5, 200_000 // n
    truth = torch.full((4, pixels), 1.3, dtype=torch.float64)
    z = (1.3 - mu) / sigma
    cdf, pdf = 0.5 * (1 + math.erf(z / math.sqrt(2))), math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    exact = sigma * (z * (2 * cdf - 1) + 2 * pdf - 1 / math.sqrt(math.pi))
    assert crps_ensemble(mu + sigma * normal(4, n, pixels), truth) == pytest.approx(exact, abs=0.01)


def test_crps_and_energy_score_agree_with_scoringrules():
    samples, truth = ensemble(B=5, n=12, shape=(6,))
    x, y = samples.double().numpy(), truth.double().numpy()
    exact = scoringrules.crps_ensemble(y, x, m_axis=1, estimator="fair").mean()
    assert crps_ensemble(samples, truth) == pytest.approx(float(exact), rel=1e-12)
    energy = scoringrules.es_ensemble(y, x, m_axis=1, v_axis=2, estimator="fair").mean()
    assert energy_score(samples, truth) == pytest.approx(float(energy), rel=1e-12)


def test_std_error_correlation_against_scipy_and_brute_force():
    samples, truth = ensemble(B=30)
    mask = half_mask()
    result = std_error_correlation(samples, truth, mask, n_bins=7)
    std = samples.double().std(1)[:, mask].flatten()
    error = (samples.double().mean(1) - truth.double())[:, mask].flatten().abs()
    assert result.pearson == pytest.approx(pearsonr(std, error).statistic, abs=1e-10)
    first = std.argsort()[: -(-len(std) // 7)]
    for found, values in ((result.predicted_std, std), (result.rmse, error)):
        assert float(found[0]) == pytest.approx(float(values[first].square().mean().sqrt()), rel=1e-12)
    constant = std_error_correlation(torch.tensor([-1.0, 1.0])[None, :, None].expand(3, 2, 8), normal(3, 8), n_bins=2)
    assert math.isnan(constant.pearson)


def test_moments_of_weights_that_are_integers_are_those_of_copies():
    """The covariance up to the factors 1 − Σw² and 1 − 1/N that make sums over pairs means."""
    cloud = normal(5, 2)
    many = cloud.repeat_interleave(COPIES, 0)
    found, expected = sample_moments(cloud, COPIED), sample_moments(many)
    torch.testing.assert_close(found["cov"], SHARE * many.T.cov())
    for key in ("mean", "skew", "kurtosis"):
        torch.testing.assert_close(found[key], expected[key])


@pytest.mark.parametrize("log_w", [point_mass(9), torch.full((9,), -25.0).index_fill(0, torch.tensor([2]), 0.0)])
def test_weights_all_or_nearly_all_on_one_sample_leave_a_point_mass(log_w):
    """With weights of 1e-11 the spread would be a quotient of two rounding errors."""
    samples, truth = ensemble()
    point = samples[:, 2].double()
    error = (point - truth).abs()
    found = scored(samples, truth, log_w).compute()
    assert [found[key] for key in ("spread", "spread_skill", "spread_skill_fair")] == [0, 0, 0]
    assert found["skill"] ** 2 == pytest.approx(float(error.square().mean()), rel=1e-9)
    assert found["crps"] == pytest.approx(float(error.mean()), rel=1e-9)
    assert found["energy_score"] == pytest.approx(float(error.flatten(1).norm(dim=1).mean()), rel=1e-9)
    assert found["psnr_sample"] == found["psnr_mean"] == pytest.approx(psnr(point, truth), rel=1e-9)
    assert float(std_error_correlation(samples, truth, log_weights=log_w).predicted_std.sum()) == 0
    assert math.isnan(found["std_error_pearson"])  # the std is constant
    assert math.isnan(spread_skill(torch.zeros(2, 3, 4), torch.zeros(2, 4)).spread_skill)  # 0/0
    moments = moment_errors(normal(5, 2), sample_moments(normal(5, 2, key=1)), point_mass(5))
    assert moments.cov_relative == 1


@pytest.mark.parametrize("log_w", [None, log_weights(6, 9)], ids=["equal", "weighted"])
def test_chunks_give_the_numbers_of_the_functions(log_w):
    samples, truth = ensemble()
    mask, parts = half_mask(), EnsembleScores()
    for rows in torch.arange(6).split([2, 1, 3]):
        parts.update(samples[rows], truth[rows], None if log_w is None else log_w[rows], mask)
    found = parts.compute()
    assert found == scored(samples, truth, log_w, mask).compute()
    spread = spread_skill(samples, truth, mask, log_w)
    assert {key: found[key] for key in spread._fields} == spread._asdict()
    mean, w = posterior_mean(samples, log_w), torch.full((6, 9), 1 / 9) if log_w is None else log_w.exp()
    mse = (w * (samples.double() - truth[:, None]).square().mean((2, 3, 4))).sum(1).mean()
    expected = {
        "crps": crps_ensemble(samples, truth, mask, log_w),
        "energy_score": energy_score(samples, truth, mask, log_w),
        "std_error_pearson": std_error_correlation(samples, truth, mask, log_weights=log_w).pearson,
        "psnr_mean": psnr(mean, truth),
        "psnr_mean_per_image": sum(psnr(a, b) for a, b in zip(mean, truth)) / 6,
        "psnr_sample": -10 * math.log10(mse),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-7)


@pytest.mark.nightly
def test_standard_errors_against_repetition():
    """The standard deviation over 100 repetitions of 60 observations, whose sizes differ so that the scores vary."""

    def once(key):
        generator = seeded(11, key)
        size = torch.rand(60, 1, 1, generator=generator, dtype=torch.float64) + 0.2
        drawn = size * torch.randn((60, 6, 5), generator=generator, dtype=torch.float64)
        scores = scored(drawn[:, :5], drawn[:, 5])
        return scores.compute(), scores.standard_errors()

    found = [once(key) for key in range(100)]
    keys = {"crps", "energy_score", "psnr_mean_per_image", "spread_skill", "spread_skill_fair"}
    assert set(found[0][1]) == keys
    for key in keys:
        actual = torch.tensor([value[key] for value, _ in found]).std()
        reported = torch.tensor([error[key] for _, error in found]).mean()
        assert float(reported / actual) == pytest.approx(1, abs=0.25), key
    scores = scored(*ensemble(B=1))
    assert scores.standard_errors() == {}
    scores.update(*ensemble(B=1))  # the same once more
    assert scores.standard_errors()["crps"] == 0


def test_importance_weights_give_the_moments_of_their_target():
    """Samples of N(0, 1) weighted to N(½, 1): mean ½, variance 1, skewness 0, kurtosis 3."""
    x = normal(400_000, 1)
    log_w = (0.5 * x[:, 0]).log_softmax(0)
    exact = {"mean": torch.tensor([0.5]), "cov": torch.eye(1), "skew": torch.zeros(1), "kurtosis": torch.tensor([3.0])}
    errors = moment_errors(x, exact, log_w)
    assert errors.mean_scaled == pytest.approx(0, abs=0.01)
    assert errors.cov_relative == pytest.approx(0, abs=0.02)
    assert errors.skew == pytest.approx(0, abs=0.03)
    assert errors.kurtosis == pytest.approx(0, abs=0.1)
    assert moment_errors(x, exact).mean_scaled == pytest.approx(0.5, abs=0.01)
    assert moment_errors(x, sample_moments(x, log_w), log_w)[1:] == (0, 0, 0)


def test_errors_of_the_moments_of_a_moved_cloud():
    factor = normal(3, 3)
    samples = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64) + normal(4000, 3, key=1) @ factor.T
    mean, cov = samples.mean(0), samples.T.cov()
    moved, length = moment_errors(samples + 0.3, {"mean": mean, "cov": 2 * cov}), 0.3 * math.sqrt(3)
    assert moved.mean_scaled == pytest.approx(length / math.sqrt(2 * float(cov.trace())), rel=1e-9)
    assert moved.cov_relative == pytest.approx(0.5, rel=1e-9)
    assert moved.skew is None


def test_systematic_resampling_gives_each_sample_its_share():
    w = log_weights(50, scale=2).exp()
    counts = systematic(w, 300, 0.3).bincount(minlength=50)
    assert bool(((counts - 300 * w).abs() < 1).all())
    assert systematic(torch.full((7,), 1 / 7).double(), 7, 0.99).tolist() == list(range(7))
    assert systematic(torch.tensor([0.0, 1.0, 0.0]).double(), 4, 0.0).tolist() == [1] * 4


SAMPLES, TRUTH = ensemble()
MANY = "expected \\(B, n, \\*shape\\)"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((SAMPLES * math.nan, TRUTH), "samples has 1080 NaN"),
        ((SAMPLES, TRUTH / 0), "truth has 120 NaN"),
        ((SAMPLES[:, :1], TRUTH), "at least 2"),
        ((SAMPLES, TRUTH[:3]), MANY),
        ((SAMPLES[:0], TRUTH[:0]), "infinite values of 0"),
        ((SAMPLES, TRUTH, torch.ones(1, 4, 5)), r"torch\.bool"),
        ((SAMPLES, TRUTH, torch.zeros(1, 4, 5, dtype=torch.bool)), "selects 0 to 0 coordinates"),
        ((SAMPLES, TRUTH, None, torch.zeros(6, 9)), "weights of sum 9"),
        ((SAMPLES, TRUTH, None, log_weights(6, 8)), r"expected \(6, 9\) or \(9,\)"),
        ((SAMPLES, TRUTH, None, log_weights(6, 9) * math.nan), "weights of sum nan"),
    ],
)
def test_bad_ensembles_are_refused(arguments, match):
    for score in (spread_skill, crps_ensemble, energy_score):
        with pytest.raises(CSBError, match=match):
            score(*arguments)
