"""The laws of single steps: likelihoods, with an uncertain target too, and draws, against closed forms."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from csb.bridge.transitions import DiagonalGaussian, FullGaussian, LowRankGaussian, low_rank_nll
from csb.process import seeded
from tests.conftest import mixture_of, unpacked

MEAN = torch.tensor([[[0.3, -1.0, 2.0]], [[0.0, 1.0, -1.0]]])  # two states of shape (1, 3): flattening matters
ROOT = torch.tensor([[[2.0, 0, 0], [0.3, 1.2, 0], [-0.4, 0.1, 0.8]], [[0.5, 0, 0], [0, 3.0, 0], [1, 0.5, 1.3]]])
VAR = torch.tensor([[[0.5, 0.1, 2.0]], [[1.0, 0.3, 0.2]]])
LOW = torch.tensor([[[0.5, 0.1], [-1.0, 0.2], [0.3, 0.7]], [[0.0, 0.4], [2.0, 0.1], [0.5, -0.6]]])
WEIGHTS, MEANS = torch.tensor([[0.2, 0.8], [0.6, 0.4]]), torch.stack([MEAN, 0.5 - MEAN], dim=1)
ROOTS = torch.stack([ROOT, ROOT.flip(0)], dim=1)  # of the components, in two orders
LAWS = {  # how it is made, of what, and what it is
    "diagonal": (DiagonalGaussian, (MEAN, VAR), torch.diag_embed(VAR[:, 0])),
    "full": (FullGaussian, (MEAN, *unpacked(ROOT)), torch.linalg.inv(ROOT.mT @ ROOT)),
    "low_rank": (LowRankGaussian, (MEAN, VAR, LOW), torch.diag_embed(VAR[:, 0]) + LOW @ LOW.mT),
    "mixture": (mixture_of, (WEIGHTS.log(), MEANS, *unpacked(ROOTS)), torch.linalg.inv(ROOTS.mT @ ROOTS)),
}
GAUSSIANS = ("diagonal", "full", "low_rank")
SIZE = {"diagonal": 3, "full": 3, "low_rank": 5, "mixture": 4}  # numbers that a draw takes


def exact(kind):
    if kind == "mixture":
        return MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(MEANS[:, :, 0], LAWS[kind][2]))
    return MultivariateNormal(MEAN[:, 0], LAWS[kind][2])


def law(kind, n=None):
    """The law of both states, or that of the second for n states."""
    make, parts, _ = LAWS[kind]
    return make(*parts) if n is None else make(*(part[1:].expand(n, *part.shape[1:]) for part in parts))


@pytest.mark.parametrize("kind", LAWS)
class TestEveryLaw:
    def test_mean_and_covariance(self, kind):
        found = law(kind)
        torch.testing.assert_close(found.mean[:, 0], exact(kind).mean)
        torch.testing.assert_close(found.covariance().diagonal(dim1=1, dim2=2), exact(kind).variance)
        if kind in GAUSSIANS:
            torch.testing.assert_close(found.covariance(), LAWS[kind][2], rtol=1e-4, atol=1e-5)

    def test_a_known_target(self, kind):
        target = MEAN + torch.tensor([[[0.2, -0.3, 0.5]], [[1.0, 0.1, 0.2]]])
        found = law(kind).nll(target)
        assert found.shape == target.shape
        torch.testing.assert_close(found.sum((1, 2)), -exact(kind).log_prob(target[:, 0]), rtol=1e-4, atol=1e-4)

    def test_autocast_changes_nothing(self, kind):
        """Likelihoods and draws are not rounded to bfloat16 where a training runs under it."""
        found, noise, tau = law(kind), torch.randn(2, SIZE[kind], generator=seeded(4)), 0.1 * (kind in GAUSSIANS)
        plain = found.nll(MEAN + 0.3, tau), found.draw(noise)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = found.nll(MEAN + 0.3, tau), found.draw(noise)
        assert all(torch.equal(a, b) for a, b in zip(plain, inside))

    def test_draws_have_the_law(self, kind):
        n, cov = 400_000, law(kind).covariance()[1]
        draws = law(kind, n).draw(torch.randn(n, SIZE[kind], generator=seeded(5)))
        assert draws.shape == (n, 1, 3)
        assert bool(((draws.mean(0)[0] - law(kind).mean[1, 0]).abs() < 5 * (cov.diagonal() / n).sqrt()).all())
        factor = 8 if kind == "mixture" else 5
        torch.testing.assert_close(draws[:, 0].T.cov(), cov, atol=factor * float(cov.max()) * (2 / n) ** 0.5, rtol=0)


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_a_target_with_variance_is_the_mean_over_its_draws(kind):
    target, var = MEAN + 0.4, torch.tensor([0.5, 0.02]).reshape(2, 1, 1)
    draws = target + var.sqrt() * torch.randn(200_000, 2, 1, 3, generator=seeded(4))
    each = -exact(kind).log_prob(draws[:, :, 0])
    error = each.std(0) / len(each) ** 0.5
    assert bool(((law(kind).nll(target, var).sum((1, 2)) - each.mean(0)).abs() < 5 * error).all())


def test_of_the_rows_of_a_full_law_only_the_part_below_the_diagonal_counts():
    rows = torch.tensor([[[9.0, 9.0], [-0.5, 9.0]]])
    found = FullGaussian(torch.zeros(1, 2), rows, torch.tensor([[4.0, 9.0]]))
    torch.testing.assert_close(found.covariance(), torch.tensor([[[4.0, 2.0], [2.0, 10.0]]]))


TAUS = {"no": 0.0, "one": 0.7, "each": torch.tensor([0.0, 0.1, 1.0, 9.0])[:, None, None, None]}


class TestLowRankLikelihood:
    """Against torch's dense one, its gradient against automatic differentiation of that."""

    def parts(self, smallest=0.1):
        """Errors, variances from a smallest on, and low-rank roots, in double precision."""
        g = seeded(0)
        error, var, low = (torch.randn(4, *of, generator=g, dtype=torch.double) for of in ((9,), (9,), (9, 3)))
        return [part.requires_grad_() for part in (error, smallest + torch.sigmoid(3 * var) ** 4, low)]

    def dense(self, error, var, low, tau):
        """The same by d × d matrices."""
        covariance = torch.diag_embed(var) + low @ low.mT
        trace = torch.linalg.inv(covariance).diagonal(dim1=1, dim2=2).sum(1)
        tau = torch.as_tensor(tau, dtype=torch.double).reshape(-1)
        return 0.5 * tau * trace - MultivariateNormal(torch.zeros_like(error), covariance).log_prob(error)

    @pytest.mark.parametrize("smallest", [0.1, 1e-6])
    @pytest.mark.parametrize("tau", TAUS.values(), ids=TAUS)
    def test_value_and_gradient(self, tau, smallest):
        inputs, weights = self.parts(smallest), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.double)
        found, expected = low_rank_nll(*inputs, tau), self.dense(*inputs, tau)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)
        gradients = (torch.autograd.grad(value @ weights, inputs) for value in (found, expected))
        for mine, its in zip(*gradients):
            torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6 * float(its.abs().max()))

    def test_gradients_only_where_they_are_asked_for(self):
        error, var, low = self.parts()
        with torch.no_grad():
            assert not low_rank_nll(error, var, low).requires_grad
        (alone,) = torch.autograd.grad(low_rank_nll(error, var.detach(), low.detach()).sum(), error)
        assert torch.equal(alone, torch.autograd.grad(low_rank_nll(error, var, low).sum(), error)[0])

    def test_single_precision_gets_gradients_of_its_own_and_double_inside(self):
        """Variances of 1e-4 beside a root of order 10: M reaches 1e7, beyond what float32 factors."""
        error, var, low = (part.detach().float() for part in self.parts())
        inputs = [error.requires_grad_(), (1e-4 * var).requires_grad_(), (10 * low).requires_grad_()]
        exact_inputs = [part.detach().double().requires_grad_() for part in inputs]
        found, expected = low_rank_nll(*inputs, 1e-5), self.dense(*exact_inputs, 1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        pairs = zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), exact_inputs))
        for mine, its in pairs:
            assert mine.dtype == torch.float32
            torch.testing.assert_close(mine.double(), its, rtol=1e-4, atol=1e-6 * float(its.abs().max()))

    def test_what_cannot_be_factored_is_nan(self):
        error, var, low = (part.detach() for part in self.parts())
        low[1, 0, 0] = float("nan")
        assert torch.isnan(low_rank_nll(error, var, low)).tolist() == [False, True, False, False]
