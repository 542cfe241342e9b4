"""The mixture's closed forms against autograd, torch.distributions and quadrature."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from csb.errors import CSBError
from csb.problems import GaussianMixture, Mixture
from csb.process import seeded

A = torch.tensor([[0.6, -0.9]], dtype=torch.float64)
R = torch.tensor([[0.3]], dtype=torch.float64)
Y = torch.tensor([0.4], dtype=torch.float64)


def make(shared):
    generator = seeded(1)
    means = 2 * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    L = torch.tril(torch.rand(3, 2, 2, generator=generator, dtype=torch.float64)) + 0.3 * torch.eye(2)
    covs = L @ L.mT
    return Mixture(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), means, covs[:1] if shared else covs)


@pytest.fixture(params=[True, False], ids=["shared", "own"])
def mixture(request):
    return make(request.param)


@pytest.fixture
def points():
    return 2 * torch.randn(50, 2, generator=seeded(2), dtype=torch.float64)


def grid(cells):
    """Centres of cells that cover [−12, 12]², and their area."""
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 24 - 12
    return torch.cartesian_prod(axis, axis), (24 / cells) ** 2


def reference(mixture):
    covs = mixture.covs.expand(3, 2, 2)
    return MixtureSameFamily(Categorical(mixture.weights), MultivariateNormal(mixture.means, covs))


def test_density_and_moments(mixture, points):
    torch.testing.assert_close(mixture.log_prob(points), reference(mixture).log_prob(points))
    x, area = grid(1200)
    p = reference(mixture).log_prob(x).exp() * area
    torch.testing.assert_close(mixture.mean, p @ x, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(mixture.cov, (x * p[:, None]).T @ x - torch.outer(p @ x, p @ x), rtol=1e-6, atol=1e-8)
    assert torch.allclose(mixture.responsibilities(points).sum(1), torch.ones(50).double())


def test_score_is_the_gradient(mixture, points):
    points.requires_grad_(True)
    (gradient,) = torch.autograd.grad(reference(mixture).log_prob(points).sum(), points)
    torch.testing.assert_close(mixture.score(points), gradient)


def test_conditioning_is_bayes_rule_pointwise(mixture, points):
    y = torch.tensor([0.7, -1.0], dtype=torch.float64)
    H = torch.tensor([[1.0, 0.5], [-0.2, 2.0]], dtype=torch.float64)
    S = torch.tensor([[0.5, 0.1], [0.1, 0.2]], dtype=torch.float64)
    likelihood = MultivariateNormal(points @ H.T, S).log_prob(y)
    evidence = mixture.observed(H, S).log_prob(y[None])
    posterior = mixture.conditioned(H, S, y)
    torch.testing.assert_close(posterior.log_prob(points), mixture.log_prob(points) + likelihood - evidence)


def test_samples_have_the_moments(mixture):
    x = mixture.sample(200_000, seeded(3))
    error = 5 * (mixture.cov.diagonal().max() / 200_000).sqrt()
    torch.testing.assert_close(x.mean(0), mixture.mean, atol=float(error), rtol=0)
    torch.testing.assert_close(x.T.cov(), mixture.cov, atol=0.1, rtol=0)
    assert torch.equal(x, mixture.sample(200_000, seeded(3)))
    shares = mixture.responsibilities(x).mean(0)
    torch.testing.assert_close(shares, mixture.weights, atol=0.01, rtol=0)


def test_results_come_in_the_dtype_of_the_argument(mixture, points):
    calls = (mixture.log_prob, mixture.score, mixture.responsibilities, lambda x: mixture.denoise(x, 0.5))
    assert [call(points.float()).dtype for call in calls] == [torch.float32] * 4


def test_a_component_of_weight_zero_is_harmless(points):
    base = make(shared=False)
    mixture = Mixture(torch.tensor([0.5, 0.5, 0.0]).double(), base.means, base.covs)
    assert bool(torch.isfinite(mixture.score(points)).all())
    assert bool(torch.isfinite(mixture.conditioned(A, R, Y).mean).all())


@pytest.mark.parametrize(
    ("weights", "shape", "message"),
    [
        ([0.4, 0.3, 0.3], (1, 2, 2), "expected"),
        ([0.5, 0.5], (2, 2), "expected"),
        ([0.5, 0.6], (1, 2, 2), "sum to 1"),
        ([1.5, -0.5], (1, 2, 2), "sum to 1"),
    ],
)
def test_errors(weights, shape, message):
    with pytest.raises(CSBError, match=message):
        Mixture(torch.tensor(weights).double(), torch.zeros(2, 2).double(), torch.eye(2).double().expand(shape))


class TestProblem:
    def test_modes(self):
        mixture = GaussianMixture(dx=4, weights="equal").mixture
        assert mixture.means.shape == (25, 4)
        assert {tuple(m) for m in mixture.means[:, :2].tolist()} == {
            (8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)
        }
        assert torch.equal(mixture.means[:, :2], mixture.means[:, 2:])
        torch.testing.assert_close(mixture.weights, torch.full((25,), 0.04, dtype=torch.float64))

    def test_the_seed_fixes_weights_and_operator(self):
        a, b, c = (GaussianMixture(seed=seed) for seed in (0, 0, 1))
        assert torch.equal(a.A, b.A)
        assert not torch.equal(a.A, c.A)
        assert torch.equal(a.mixture.weights, b.mixture.weights)
        assert not torch.equal(a.mixture.weights, c.mixture.weights)
        A = GaussianMixture(dx=8, dy=3).A
        torch.testing.assert_close(A @ A.T, torch.eye(3).double())
        assert float(a.posterior(torch.tensor([3.0])).mixture.weights.max()) < 0.95  # several modes explain it
