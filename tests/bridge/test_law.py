"""The laws of single steps: likelihoods, with an uncertain target too, and draws, against closed forms."""

import pytest
import torch
from conftest import mixture_of, unpacked
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from csb.bridge.transitions import DiagonalGaussian, FullGaussian, LowRankGaussian
from csb.process import seeded

MEAN = torch.tensor([[[0.3, -1.0, 2.0]], [[0.0, 1.0, -1.0]]])  # two states of shape (1, 3): flattening matters
ROOT = torch.tensor([[[2.0, 0, 0], [0.3, 1.2, 0], [-0.4, 0.1, 0.8]], [[0.5, 0, 0], [0, 3.0, 0], [1, 0.5, 1.3]]])
VAR = torch.tensor([[[0.5, 0.1, 2.0]], [[1.0, 0.3, 0.2]]])
LOW = torch.tensor([[[0.5, 0.1], [-1.0, 0.2], [0.3, 0.7]], [[0.0, 0.4], [2.0, 0.1], [0.5, -0.6]]])
COVARIANCES = {
    "diagonal": torch.diag_embed(VAR[:, 0]),
    "full": torch.linalg.inv(ROOT.mT @ ROOT),
    "low_rank": torch.diag_embed(VAR[:, 0]) + LOW @ LOW.mT,
}
LAWS = {
    "diagonal": DiagonalGaussian(MEAN, VAR),
    "full": FullGaussian(MEAN, *unpacked(ROOT)),
    "low_rank": LowRankGaussian(MEAN, VAR, LOW),
}


class TestMixtureLaw:
    """Two states of shape (1, 3), components of weights (.2, .8) and (.6, .4) with the roots above, in two orders."""

    weights = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    means = torch.stack([MEAN, 0.5 - MEAN], dim=1)
    roots = torch.stack([ROOT, ROOT.flip(0)], dim=1)
    law = mixture_of(weights.log(), means, *unpacked(roots))

    def exact(self):
        parts = MultivariateNormal(self.means[:, :, 0], torch.linalg.inv(self.roots.mT @ self.roots))
        return MixtureSameFamily(Categorical(self.weights), parts)

    def test_likelihood(self):
        target = MEAN + torch.tensor([[[0.2, -0.3, 0.5]], [[1.0, 0.1, 0.2]]])
        found = self.law.nll(target)
        assert found.shape == target.shape
        torch.testing.assert_close(found.sum((1, 2)), -self.exact().log_prob(target[:, 0]), rtol=1e-4, atol=1e-4)

    def test_draws_have_the_mean_and_the_covariance(self):
        n = 400_000
        law = mixture_of(
            *(of[1:].expand(n, *of.shape[1:]) for of in (self.weights.log(), self.means, *unpacked(self.roots)))
        )
        draws = law.draw(torch.randn(n, 4, generator=seeded(5)))[:, 0]
        exact = self.law.covariance()[1]
        torch.testing.assert_close(self.law.mean[:, 0], self.exact().mean)
        torch.testing.assert_close(self.law.covariance().diagonal(dim1=1, dim2=2), self.exact().variance)
        assert bool(((draws.mean(0) - self.law.mean[1, 0]).abs() < 5 * (exact.diagonal() / n).sqrt()).all())
        torch.testing.assert_close(draws.T.cov(), exact, atol=8 * float(exact.max()) * (2 / n) ** 0.5, rtol=0)

    def test_draws_have_the_weights(self):
        n = 100_000
        means = torch.tensor([[-100.0, 0.0, 100.0]]).expand(n, 3)[..., None]
        log_weights = torch.tensor([[0.1, 0.3, 0.6]]).log().expand(n, 3)
        law = mixture_of(log_weights, means, torch.zeros(n, 3, 1, 1), torch.ones(n, 3, 1))
        draws = law.draw(torch.randn(n, 2, generator=seeded(6)))[:, 0]
        shares = torch.stack([(draws < -50).float().mean(), (draws.abs() < 50).float().mean()])
        torch.testing.assert_close(shares, torch.tensor([0.1, 0.3]), atol=0.007, rtol=0)


@pytest.mark.parametrize("kind", list(LAWS))
class TestEveryLaw:
    def exact(self, kind):
        return MultivariateNormal(MEAN[:, 0], COVARIANCES[kind])

    def test_covariance(self, kind):
        torch.testing.assert_close(LAWS[kind].covariance(), COVARIANCES[kind], rtol=1e-4, atol=1e-5)

    def test_a_known_target(self, kind):
        target = MEAN + torch.tensor([[[0.2, -0.3, 0.5]], [[1.0, 0.1, 0.2]]])
        found = LAWS[kind].nll(target)
        assert found.shape == target.shape
        torch.testing.assert_close(found.sum((1, 2)), -self.exact(kind).log_prob(target[:, 0]), rtol=1e-4, atol=1e-4)

    def test_a_target_with_variance_is_the_mean_over_its_draws(self, kind):
        target, var = MEAN + 0.4, torch.tensor([0.5, 0.02]).reshape(2, 1, 1)
        draws = target + var.sqrt() * torch.randn(200_000, 2, 1, 3, generator=seeded(4))
        each = -self.exact(kind).log_prob(draws[:, :, 0])
        error = each.std(0) / len(each) ** 0.5
        assert bool(((LAWS[kind].nll(target, var).sum((1, 2)) - each.mean(0)).abs() < 5 * error).all())

    def test_draw_has_the_law(self, kind):
        n, law = 200_000, LAWS[kind]
        parts = [value[1:].expand(n, *value.shape[1:]) for value in vars(law).values()]
        size = 3 + (2 if kind == "low_rank" else 0)
        draws = type(law)(*parts).draw(torch.randn(n, size, generator=seeded(5)))
        assert draws.shape == (n, 1, 3)
        cov = COVARIANCES[kind][1]
        assert bool(((draws.mean(0)[0] - MEAN[1, 0]).abs() < 5 * (cov.diagonal() / n).sqrt()).all())
        torch.testing.assert_close(draws[:, 0].T.cov(), cov, atol=5 * float(cov.max()) * (2 / n) ** 0.5, rtol=0)


def test_full_from_rows_and_conditional_variances():
    rows = torch.tensor([[[9.0, 9.0], [-0.5, 9.0]]])  # only the part below the diagonal counts
    law = FullGaussian(torch.zeros(1, 2), rows, torch.tensor([[4.0, 9.0]]))
    torch.testing.assert_close(law.covariance(), torch.tensor([[[4.0, 2.0], [2.0, 10.0]]]))
