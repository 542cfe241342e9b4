"""Resampling schemes: unbiased, as even as each promises, group by group; the effective sample size; errors."""

import pytest
import torch

from csb.errors import CSBError
from csb.process import seeded
from csb.samplers import RESAMPLING, effective_sample_size
from csb.samplers.resampling import multinomial, normalised, residual, stratified, systematic

G, K = 4000, 8
WEIGHTS = {
    "uneven": torch.tensor([0.30, 0.01, 0.04, 0.22, 0.0, 0.18, 0.05, 0.20], dtype=torch.float64),
    "equal": torch.full((8,), 0.125, dtype=torch.float64),
    "one heavy": torch.tensor([0.93, *[0.01] * 7], dtype=torch.float64),
}
schemes = pytest.mark.parametrize("scheme", RESAMPLING.values(), ids=RESAMPLING)


@pytest.fixture(params=WEIGHTS)
def W(request):
    return WEIGHTS[request.param]


def copies(scheme, W, groups=G):
    """How often each particle goes on, (groups, K); the log-weights are shifted, which must not matter."""
    u = torch.rand(groups, K, generator=seeded(1), dtype=torch.float64)
    ancestors = scheme((W.log() - 1234.5).expand(groups, K), u)
    assert ancestors.shape == (groups, K)
    assert ancestors.dtype == torch.int64
    return torch.nn.functional.one_hot(ancestors, K).sum(1).double()


@pytest.mark.parametrize("groups", [G, pytest.param(5 * G, marks=pytest.mark.nightly)])
@schemes
def test_unbiased(scheme, W, groups):
    counts = copies(scheme, W, groups)
    error = counts.std(0) / groups**0.5 + 1e-9
    assert float(((counts.mean(0) - K * W).abs() / error).max()) < 5
    assert bool((counts[:, W == 0] == 0).all())


def test_the_scatter_of_multinomial_is_binomial():
    W = WEIGHTS["uneven"]
    counts = copies(multinomial, W, 5 * G)
    expected = K * W * (1 - W)
    assert bool(((counts.var(0) - expected).abs() <= 0.15 * expected).all())
    covariance = counts.T.cov()[0, 3]
    assert abs(float(covariance + K * W[0] * W[3])) < 0.03


def test_systematic_is_within_one_copy_and_stratified_within_two(W):
    assert float((copies(systematic, W) - K * W).abs().max()) < 1 + 1e-9
    assert float((copies(stratified, W) - K * W).abs().max()) < 2


def test_residual_keeps_the_whole_copies(W):
    assert bool((copies(residual, W) >= (K * W + 1e-9).floor()).all())


def test_the_even_schemes_scatter_less():
    W = WEIGHTS["uneven"]
    most = copies(multinomial, W).var(0).sum()
    for scheme in (stratified, systematic, residual):
        assert float(copies(scheme, W).var(0).sum()) < 0.7 * float(most)


@pytest.mark.parametrize("scheme", [systematic, stratified, residual])
@pytest.mark.parametrize("K", [1, 3, 7, 10, 49, 1000])
def test_equal_weights_leave_all_where_they_are(scheme, K):
    log_weights = torch.full((2, K), -0.3)
    u = torch.rand(2, K, generator=seeded(2), dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    assert torch.equal(scheme(log_weights, u), torch.arange(K).expand(2, K))


@schemes
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_all_weight_on_one(scheme, u):
    log_weights = torch.full((3, K), -torch.inf, dtype=torch.float64)
    for group, heavy in enumerate((0, 4, K - 1)):
        log_weights[group, heavy] = -700.0
    found = scheme(log_weights, torch.full((3, K), u, dtype=torch.float64))
    assert torch.equal(found, torch.tensor([0, 4, K - 1])[:, None].expand(3, K))


@schemes
def test_one_particle(scheme):
    assert torch.equal(scheme(torch.tensor([[-5.0]]), torch.rand(1, 1)), torch.zeros(1, 1, dtype=torch.int64))


@schemes
def test_groups_do_not_touch(scheme):
    log_weights = torch.randn(5, K, generator=seeded(3), dtype=torch.float64)
    u = torch.rand(5, K, generator=seeded(4), dtype=torch.float64)
    together = scheme(log_weights, u)
    for i in range(5):
        assert torch.equal(together[i : i + 1], scheme(log_weights[i : i + 1], u[i : i + 1]))


@schemes
def test_large_groups_and_wide_weights(scheme):
    """A range of weights far beyond float32's: the sum stays 1, the ancestors inside the group."""
    log_weights = torch.linspace(-2000, 0, 10_001)[None]
    found = scheme(log_weights, torch.rand(1, 10_001, generator=seeded(5), dtype=torch.float64))
    assert int(found.min()) > 9000
    assert int(found.max()) <= 10_000


class TestEffectiveSampleSize:
    def test_closed_forms(self):
        log_weights = torch.stack([
            torch.zeros(4), torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf]),
            torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]), torch.tensor([0.4, 0.3, 0.2, 0.1]).log(),
        ])  # fmt: skip
        expected = torch.tensor([4.0, 1.0, 2.0, 1 / 0.30], dtype=torch.float64)
        torch.testing.assert_close(effective_sample_size(log_weights), expected, rtol=1e-6, atol=0)

    def test_a_constant_does_not_matter(self):
        log_weights = torch.randn(3, 50, generator=seeded(1), dtype=torch.float64)
        one = effective_sample_size(log_weights)
        torch.testing.assert_close(one, effective_sample_size(log_weights + 1e5), rtol=1e-9, atol=0)
        torch.testing.assert_close(one, effective_sample_size(log_weights - 1e5), rtol=1e-9, atol=0)

    def test_normal_log_weights(self):
        """For log w ~ N(·, s²) and many particles ESS/K is exp(−s²)."""
        found = effective_sample_size(0.5 * torch.randn(1, 200_000, generator=seeded(1)))
        assert abs(float(found) / 200_000 - 0.7788) < 0.005


@pytest.mark.parametrize("bad", [[-torch.inf] * 4, [0.0, float("nan"), 0.0, 0.0], [torch.inf, 0.0, 0.0, 0.0]])
@pytest.mark.parametrize("function", [normalised, effective_sample_size, *(RESAMPLING.values())])
def test_errors(function, bad):
    log_weights = torch.stack([torch.zeros(4), torch.tensor(bad)])
    arguments = (log_weights,) if function in (normalised, effective_sample_size) else (log_weights, torch.rand(2, 4))
    with pytest.raises(CSBError, match="all weights of a group of particles are 0 or one is NaN") as error:
        function(*arguments)
    assert "\n" not in str(error.value)
