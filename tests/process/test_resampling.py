"""Resampling schemes: unbiased, as even as each promises, group by group; the effective sample size; errors."""

import pytest
import torch

from csb.errors import CSBError
from csb.process import seeded
from csb.process.resampling import (
    RESAMPLING,
    effective_sample_size,
    multinomial,
    normalised,
    residual,
    stratified,
    systematic,
)

G, K = 4000, 8
WEIGHTS = {
    "uneven": torch.tensor([0.30, 0.01, 0.04, 0.22, 0.0, 0.18, 0.05, 0.20], dtype=torch.float64),
    "equal": torch.full((8,), 0.125, dtype=torch.float64),
    "one heavy": torch.tensor([0.93, *[0.01] * 7], dtype=torch.float64),
}
schemes = pytest.mark.parametrize("scheme", RESAMPLING.values(), ids=RESAMPLING)


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def copies(scheme, W, groups=G):
    """How often each particle goes on, (groups, K); the log-weights are shifted, which must not matter."""
    ancestors = scheme((W.log() - 1234.5).expand(groups, K), uniform(groups, K))
    assert ancestors.shape == (groups, K)
    assert ancestors.dtype == torch.int64
    return torch.nn.functional.one_hot(ancestors, K).sum(1).double()


@pytest.mark.parametrize("groups", [G, pytest.param(5 * G, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("W", WEIGHTS.values(), ids=WEIGHTS)
@schemes
def test_unbiased_and_as_even_as_promised(scheme, W, groups):
    counts = copies(scheme, W, groups)
    error = counts.std(0) / groups**0.5 + 1e-9
    assert float(((counts.mean(0) - K * W).abs() / error).max()) < 5
    assert bool((counts[:, W == 0] == 0).all())
    off = float((counts - K * W).abs().max())
    assert scheme is not systematic or off < 1 + 1e-9
    assert scheme is not stratified or off < 2
    assert scheme is not residual or bool((counts >= (K * W + 1e-9).floor()).all())  # it keeps the whole copies


def test_the_scatter_of_multinomial_is_binomial_and_others_scatter_less():
    W = WEIGHTS["uneven"]
    counts = copies(multinomial, W, 5 * G)
    expected = K * W * (1 - W)
    assert bool(((counts.var(0) - expected).abs() <= 0.15 * expected).all())
    assert abs(float(counts.T.cov()[0, 3] + K * W[0] * W[3])) < 0.03
    for scheme in (stratified, systematic, residual):
        assert float(copies(scheme, W).var(0).sum()) < 0.7 * float(copies(multinomial, W).var(0).sum())


@pytest.mark.parametrize("scheme", [systematic, stratified, residual])
@pytest.mark.parametrize("K", [1, 3, 7, 10, 49, 1000])
def test_equal_weights_leave_all_where_they_are(scheme, K):
    u = uniform(2, K, seed=2).clamp(1e-6, 1 - 1e-6)
    assert torch.equal(scheme(torch.full((2, K), -0.3), u), torch.arange(K).expand(2, K))


@schemes
class TestEach:
    @pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
    def test_all_weight_on_one(self, scheme, u):
        log_weights, heavy = torch.full((3, K), -torch.inf, dtype=torch.float64), torch.tensor([0, 4, K - 1])
        log_weights[torch.arange(3), heavy] = -700.0
        found = scheme(log_weights, torch.full((3, K), u, dtype=torch.float64))
        assert torch.equal(found, heavy[:, None].expand(3, K))

    def test_one_particle(self, scheme):
        assert torch.equal(scheme(torch.tensor([[-5.0]]), uniform(1, 1)), torch.zeros(1, 1, dtype=torch.int64))

    def test_groups_do_not_touch(self, scheme):
        log_weights, u = torch.randn(5, K, generator=seeded(3), dtype=torch.float64), uniform(5, K, seed=4)
        alone = torch.cat([scheme(log_weights[i : i + 1], u[i : i + 1]) for i in range(5)])
        assert torch.equal(scheme(log_weights, u), alone)

    def test_large_groups_and_wide_weights(self, scheme):
        """A range of weights far beyond float32's: the sum stays 1, the ancestors inside the group."""
        found = scheme(torch.linspace(-2000, 0, 10_001)[None], uniform(1, 10_001, seed=5))
        assert int(found.min()) > 9000
        assert int(found.max()) <= 10_000


def test_the_effective_sample_size():
    weights = torch.tensor([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    expected = torch.tensor([4.0, 1.0, 2.0, 1 / 0.30], dtype=torch.float64)
    for constant in (0, 1e5, -1e5):  # which does not matter
        found = effective_sample_size(weights.log() + constant)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    normal = effective_sample_size(0.5 * torch.randn(1, 200_000, generator=seeded(1)))
    assert abs(float(normal) / 200_000 - 0.7788) < 0.005  # for log w ~ N(·, s²) it is exp(−s²)


@pytest.mark.parametrize("bad", [[-torch.inf] * 4, [0.0, float("nan"), 0.0, 0.0], [torch.inf, 0.0, 0.0, 0.0]])
@pytest.mark.parametrize("function", [normalised, effective_sample_size, *(RESAMPLING.values())])
def test_errors(function, bad):
    log_weights = torch.stack([torch.zeros(4), torch.tensor(bad)])
    arguments = (log_weights,) if function in (normalised, effective_sample_size) else (log_weights, torch.rand(2, 4))
    with pytest.raises(CSBError, match="all weights of a group of particles are 0 or one is NaN") as error:
        function(*arguments)
    assert "\n" not in str(error.value)
