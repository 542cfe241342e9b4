"""Every score against a closed form or a brute-force sum."""

import math

import pytest
import torch
from scipy.stats import pearsonr, spearmanr, wasserstein_distance

from csb.errors import CSBError
from csb.evaluation.metrics import (
    EnsembleScores,
    crps_ensemble,
    energy_score,
    gaussian_moment_errors,
    psnr,
    sliced_wasserstein,
    spread_skill,
    std_error_correlation,
)
from csb.process import seeded


def normal(*shape: int, key: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(7, key), dtype=dtype)


def ensemble(B: int = 6, n: int = 9, shape: tuple[int, ...] = (1, 4, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(B, n, *shape, key=1, dtype=torch.float32), normal(B, *shape, key=2, dtype=torch.float32)


def half_mask(shape: tuple[int, ...] = (1, 4, 5)) -> torch.Tensor:
    return torch.rand(shape, generator=seeded(7, 3)) > 0.5


def calibrated(n: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth and samples from N(m, 1), per pixel and observation its own m; the samples' spread times ``scale``."""
    centre = 3 * normal(200, 1, 40, key=4)
    return centre + scale * normal(200, n, 40, key=5), centre[:, 0] + normal(200, 40, key=6)


def test_psnr_conventions():
    truth = torch.zeros(2, 1, 2, 2)
    estimate = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.3)])
    assert psnr(estimate, truth) == pytest.approx(10 * math.log10(1 / 0.05), rel=1e-6)
    assert psnr(estimate, truth, 2.0) == pytest.approx(10 * math.log10(4 / 0.05), rel=1e-6)
    assert psnr(estimate, truth, per_image=True) == pytest.approx(-10 * math.log10(0.1 * 0.3), rel=1e-6)
    assert psnr(truth, truth) == math.inf


@pytest.mark.parametrize("n", [2, 4, 32])
def test_spread_skill_of_a_calibrated_ensemble(n: int):
    result = spread_skill(*calibrated(n))
    assert result.spread_skill_fair == pytest.approx(1, abs=0.03)
    assert result.spread_skill == pytest.approx(math.sqrt(n / (n + 1)), abs=0.03)
    assert result.spread == pytest.approx(1, abs=0.025)
    assert result.spread / result.skill == pytest.approx(result.spread_skill, rel=1e-12)


@pytest.mark.parametrize("n", [2, 4, 32])
def test_spread_skill_of_gaussian_draws_is_1_within_its_standard_error(n: int):
    """N independent errors of means and variances of n draws: the squares have the relative variances 2/N and
    2/(N(n − 1)), their ratio the sum, and the root of the ratio a quarter of it.
    """
    samples, truth = calibrated(n)
    scores = EnsembleScores()
    scores.update(samples, truth)
    exact = math.sqrt(n / (2 * truth.numel() * (n - 1)))
    assert scores.standard_errors()["spread_skill_fair"] == pytest.approx(exact, rel=0.2)
    assert abs(scores.compute()["spread_skill_fair"] - 1) < 4 * exact


def test_spread_skill_tells_over_and_under_confidence():
    assert spread_skill(*calibrated(16, scale=0.5)).spread_skill_fair < 0.6
    assert spread_skill(*calibrated(16, scale=2.0)).spread_skill_fair > 1.7


def test_spread_skill_counts_only_the_mask():
    samples, truth = ensemble()
    mask = half_mask()
    result = spread_skill(samples, truth, mask)
    assert result.spread**2 == pytest.approx(float(samples.double().var(1)[:, mask].mean()), rel=1e-12)
    mse = (samples.double().mean(1) - truth)[:, mask].square().mean()
    assert result.skill**2 == pytest.approx(float(mse), rel=1e-12)
    samples[:, :, ~mask] = 100
    assert spread_skill(samples, truth, mask) == result


def test_spread_skill_of_a_perfect_point_mass_has_no_ratio():
    samples, truth = torch.zeros(2, 3, 4), torch.zeros(2, 4)
    assert math.isnan(spread_skill(samples, truth).spread_skill)
    wide = samples + normal(2, 3, 4) * torch.tensor([1.0, -1, 0])[None, :, None]
    assert spread_skill(wide, truth).spread_skill > 0


def test_crps_equals_the_double_sum():
    samples, truth = ensemble()
    x, y, n = samples.double(), truth.double(), samples.shape[1]
    pairs = (x[:, :, None] - x[:, None]).abs().sum((1, 2)) / (2 * n * (n - 1))
    naive = (x - y[:, None]).abs().mean(1) - pairs
    assert crps_ensemble(samples, truth) == pytest.approx(float(naive.mean()), rel=1e-12)
    mask = half_mask()
    assert crps_ensemble(samples, truth, mask) == pytest.approx(float(naive[:, mask].mean()), rel=1e-12)


@pytest.mark.parametrize("n", [2, 64])
def test_crps_of_a_gaussian_is_unbiased_at_any_size(n: int):
    mu, sigma, pixels = 0.4, 1.5, 200_000 // n
    truth = torch.full((4, pixels), 1.3, dtype=torch.float64)
    z = (1.3 - mu) / sigma
    cdf, pdf = 0.5 * (1 + math.erf(z / math.sqrt(2))), math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    exact = sigma * (z * (2 * cdf - 1) + 2 * pdf - 1 / math.sqrt(math.pi))
    assert crps_ensemble(mu + sigma * normal(4, n, pixels), truth) == pytest.approx(exact, abs=0.01)


def test_energy_score_equals_the_double_sum_and_the_crps_in_one_dimension():
    samples, truth = ensemble()
    mask = half_mask()
    x, y, n = samples.double()[:, :, mask], truth.double()[:, mask], samples.shape[1]
    pairs = (x[:, :, None] - x[:, None]).norm(dim=-1).sum((1, 2)) / (2 * n * (n - 1))
    naive = ((x - y[:, None]).norm(dim=-1).mean(1) - pairs).mean()
    assert energy_score(samples, truth, mask) == pytest.approx(float(naive), rel=1e-12)
    one = samples[..., :1, :1], truth[..., :1, :1]
    assert energy_score(*one) == pytest.approx(crps_ensemble(*one), rel=1e-12)


def test_std_error_correlation_against_scipy_and_brute_force():
    samples, truth = ensemble(B=30)
    mask = half_mask()
    result = std_error_correlation(samples, truth, mask, n_bins=7)
    std = samples.double().std(1)[:, mask].flatten()
    error = (samples.double().mean(1) - truth.double())[:, mask].flatten().abs()
    assert result.pearson == pytest.approx(pearsonr(std, error).statistic, abs=1e-10)
    assert result.spearman == pytest.approx(spearmanr(std, error).statistic, abs=1e-10)
    first = std.argsort()[: -(-len(std) // 7)]
    assert float(result.predicted_std[0]) == pytest.approx(float(std[first].square().mean().sqrt()), rel=1e-12)
    assert float(result.rmse[0]) == pytest.approx(float(error[first].square().mean().sqrt()), rel=1e-12)
    assert bool((result.predicted_std.diff() > 0).all())


def test_std_error_correlation_is_reliable_for_a_calibrated_ensemble():
    scale = torch.linspace(0.1, 2, 50, dtype=torch.float64)
    n = 128
    result = std_error_correlation(scale * normal(300, n, 50), scale * normal(300, 50, key=1))
    assert len(result.rmse) == 10
    torch.testing.assert_close(result.rmse, math.sqrt(1 + 1 / n) * result.predicted_std, rtol=0.12, atol=0)
    assert result.pearson > 0.5
    assert result.spearman > 0.5


def test_std_error_correlation_of_a_constant_std_is_nan():
    samples = torch.tensor([-1.0, 1.0])[None, :, None].expand(3, 2, 8)
    result = std_error_correlation(samples, normal(3, 8), n_bins=2)
    assert math.isnan(result.pearson)
    assert math.isnan(result.spearman)


def test_sliced_wasserstein_of_a_shift():
    d = 6
    a, shift = normal(300, d), normal(d, key=1)
    distance = sliced_wasserstein(a, a + shift, seeded(0), n_projections=20_000)
    assert distance**2 == pytest.approx(float(shift.square().sum()) / d, rel=0.03)


def test_sliced_wasserstein_of_two_gaussian_clouds_of_unequal_size():
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    distance = sliced_wasserstein(normal(4000, 3), normal(3000, 3, key=1) + shift, seeded(0), n_projections=1000)
    assert distance**2 == pytest.approx(3.0, rel=0.06)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 70), (7, 3), (1, 9)])
def test_sliced_wasserstein_in_one_dimension_is_exact(n: int, m: int):
    a, b = normal(n, 1), 2 * normal(m, 1, key=1) + 0.3
    exact = wasserstein_distance(a[:, 0], b[:, 0])
    assert sliced_wasserstein(a, b, seeded(0), n_projections=3, p=1) == pytest.approx(exact, rel=1e-10)
    fine_a, fine_b = (x.sort(dim=0).values.repeat_interleave(k, 0) for x, k in ((a, m), (b, n)))
    squared = float((fine_a - fine_b).square().mean())
    assert sliced_wasserstein(a, b, seeded(0), n_projections=3) ** 2 == pytest.approx(squared, rel=1e-10)


def test_sliced_wasserstein_is_symmetric_and_repeatable():
    a, b = normal(40, 3), normal(30, 3, key=1)
    distance = sliced_wasserstein(a, b, seeded(5))
    assert sliced_wasserstein(a, b, seeded(5)) == distance
    assert sliced_wasserstein(b, a, seeded(5)) == pytest.approx(distance, rel=1e-12)
    assert sliced_wasserstein(a, a, seeded(5)) == 0


def test_gaussian_moment_errors():
    factor = normal(3, 3)
    mean, cov = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64), factor @ factor.T
    samples = mean + normal(40_000, 3, key=1) @ factor.T
    exact = gaussian_moment_errors(samples, mean, cov)
    assert exact.mean_scaled < 0.02
    assert exact.cov_relative < 0.03
    moved = gaussian_moment_errors(samples + 0.3, samples.mean(0), 2 * samples.T.cov())
    length = 0.3 * math.sqrt(3)
    assert moved.mean_scaled == pytest.approx(length / math.sqrt(2 * float(samples.T.cov().trace())), rel=1e-9)
    assert moved.mean_relative == pytest.approx(length / float(samples.mean(0).norm()), rel=1e-9)
    assert moved.cov_relative == pytest.approx(0.5, rel=1e-9)
    assert gaussian_moment_errors(samples, torch.zeros(3), cov).mean_relative == math.inf


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [2, 1, 4]])
def test_scores_do_not_depend_on_the_chunks(sizes: list[int]):
    samples, truth = ensemble(B=7)
    mask = half_mask()
    whole, parts = EnsembleScores(mask), EnsembleScores(mask)
    whole.update(samples, truth)
    for x, y in zip(samples.split(sizes), truth.split(sizes)):
        parts.update(x, y)
    assert parts.compute() == whole.compute()


def test_scores_equal_the_functions():
    samples, truth = ensemble()
    mask = half_mask()
    scores = EnsembleScores(mask, data_range=2.0)
    scores.update(samples, truth)
    result = scores.compute()
    spread = spread_skill(samples, truth, mask)
    assert {key: result[key] for key in spread._fields} == spread._asdict()
    assert result["rmse"] == spread.skill
    assert result["crps"] == crps_ensemble(samples, truth, mask)
    assert result["energy_score"] == energy_score(samples, truth, mask)
    assert result["std_error_pearson"] == std_error_correlation(samples, truth, mask).pearson
    mean = samples.double().mean(1)
    assert result["psnr_mean"] == pytest.approx(psnr(mean, truth, 2.0))
    assert result["psnr_mean_per_image"] == pytest.approx(psnr(mean, truth, 2.0, per_image=True))
    repeated = truth[:, None].expand_as(samples)
    assert result["psnr_sample"] == pytest.approx(psnr(samples, repeated, 2.0))
    assert (result["n_observations"], result["n_samples"]) == (6, 9)


def _with_nan(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.view(-1)[3] = math.nan
    return x


@pytest.mark.parametrize("score", [spread_skill, crps_ensemble, energy_score, std_error_correlation])
def test_bad_ensembles_are_refused(score):
    samples, truth = ensemble()
    for bad, match in (
        ((_with_nan(samples), truth), "samples has 1 NaN"),
        ((samples, _with_nan(truth)), "truth has 1 NaN"),
        ((samples[:, :1], truth), "at least 2"),
        ((samples, truth[:3]), r"expected \(B, n, \*shape\)"),
        ((samples[:0], truth[:0]), "non-empty"),
        ((samples, truth, torch.ones(1, 4, 5)), r"torch\.bool"),
        ((samples, truth, torch.ones(4, 5, dtype=torch.bool)), "mask is"),
        ((samples, truth, torch.zeros(1, 4, 5, dtype=torch.bool)), "selects no coordinate"),
    ):
        with pytest.raises(CSBError, match=match) as caught:
            score(*bad)
        assert "\n" not in str(caught.value)


def test_other_bad_input_is_refused():
    samples, truth = ensemble()
    scores = EnsembleScores()
    with pytest.raises(CSBError, match="no observation"):
        scores.compute()
    scores.update(samples, truth)
    with pytest.raises(CSBError, match="one n for all"):
        scores.update(samples[:, :4], truth)
    with pytest.raises(CSBError, match="data_range"):
        EnsembleScores(data_range=0)
    with pytest.raises(CSBError, match="one shape"):
        psnr(truth[:2], truth)
    with pytest.raises(CSBError, match="n_bins"):
        std_error_correlation(samples, truth, n_bins=10_000)
    with pytest.raises(CSBError, match=r"expected \(N, d\)"):
        sliced_wasserstein(normal(3, 2), normal(3, 4), seeded(0))
    with pytest.raises(CSBError, match="n_projections=0 is not possible"):
        sliced_wasserstein(normal(3, 2), normal(3, 2), seeded(0), n_projections=0)
    with pytest.raises(CSBError, match="n ≥ 2"):
        gaussian_moment_errors(normal(1, 2), normal(2), normal(2, 2))
    with pytest.raises(CSBError, match="cov has"):
        gaussian_moment_errors(normal(5, 2), normal(2), _with_nan(normal(2, 2)))


def test_standard_errors_against_repetition():
    """The standard deviation over 400 repetitions of 60 observations, whose sizes differ so that the scores vary."""

    def once(key: int) -> tuple[dict[str, float], dict[str, float]]:
        generator = seeded(11, key)
        size = torch.rand(60, 1, 1, generator=generator, dtype=torch.float64) + 0.2
        drawn = size * torch.randn((60, 6, 5), generator=generator, dtype=torch.float64)
        scores = EnsembleScores()
        scores.update(drawn[:, :5], drawn[:, 5])
        return scores.compute(), scores.standard_errors()

    found = [once(key) for key in range(400)]
    keys = {"crps", "energy_score", "psnr_mean_per_image", "spread_skill", "spread_skill_fair"}
    assert set(found[0][1]) == keys
    for key in found[0][1]:
        actual = torch.tensor([value[key] for value, _ in found]).std()
        reported = torch.tensor([error[key] for _, error in found]).mean()
        assert float(reported / actual) == pytest.approx(1, abs=0.15), key


def test_no_standard_error_of_one_observation():
    scores = EnsembleScores()
    assert scores.standard_errors() == {}
    scores.update(*ensemble(B=1))
    assert scores.standard_errors() == {}
    scores.update(*ensemble(B=1))  # the same once more
    assert scores.standard_errors()["crps"] == 0
