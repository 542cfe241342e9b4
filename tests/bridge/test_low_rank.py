"""The low-rank law's likelihood against torch's dense one, its gradient against automatic differentiation of that."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from csb.bridge.transitions import low_rank_nll
from csb.process import seeded

B, D, R = 4, 9, 3


def parts(smallest=0.1):
    """Errors, variances from a smallest on, and low-rank roots, in double precision."""
    g = seeded(0)
    error = torch.randn(B, D, generator=g, dtype=torch.double)
    var = smallest + torch.rand(B, D, generator=g, dtype=torch.double) ** 4
    low = torch.randn(B, D, R, generator=g, dtype=torch.double)
    return [part.requires_grad_() for part in (error, var, low)]


def dense(error, var, low, tau):
    """The same by d × d matrices."""
    covariance = torch.diag_embed(var) + low @ low.mT
    law = MultivariateNormal(torch.zeros_like(error), covariance)
    trace = torch.linalg.inv(covariance).diagonal(dim1=1, dim2=2).sum(1)
    return -law.log_prob(error) + 0.5 * torch.as_tensor(tau, dtype=torch.double).reshape(-1) * trace


TAUS = [0.0, 0.7, torch.tensor([0.0, 0.1, 1.0, 9.0])[:, None, None, None]]


@pytest.mark.parametrize("smallest", [0.1, 1e-6])
@pytest.mark.parametrize("tau", TAUS, ids=["no", "one", "each"])
def test_value_and_gradient(tau, smallest):
    inputs, weights = parts(smallest), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.double)
    found, exact = low_rank_nll(*inputs, tau), dense(*inputs, tau)
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=0)
    for mine, its in zip(torch.autograd.grad(found @ weights, inputs), torch.autograd.grad(exact @ weights, inputs)):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6 * float(its.abs().max()))


@pytest.mark.parametrize("tau", TAUS, ids=["no", "one", "each"])
def test_the_gradient_is_that_of_the_value(tau):
    assert torch.autograd.gradcheck(lambda *inputs: low_rank_nll(*inputs, tau), parts())


def test_without_gradients_none_is_made():
    with torch.no_grad():
        assert not low_rank_nll(*parts()).requires_grad
    error, var, low = parts()
    found = low_rank_nll(error, var.detach(), low.detach())
    (by_error,) = torch.autograd.grad(found.sum(), error)
    assert bool(torch.isfinite(by_error).all())


def test_single_precision_gets_gradients_of_its_own_and_double_inside():
    """Variances of 1e-4 beside a root of order 10: M reaches 1e7, beyond what float32 factors."""
    error, var, low = (part.detach().float() for part in parts())
    inputs = [error.requires_grad_(), (1e-4 * var).requires_grad_(), (10 * low).requires_grad_()]
    exact_inputs = [part.detach().double().requires_grad_() for part in inputs]
    found, exact = low_rank_nll(*inputs, 1e-5), dense(*exact_inputs, 1e-5)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)
    pairs = zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(exact.sum(), exact_inputs))
    for mine, its in pairs:
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), its, rtol=1e-4, atol=1e-6 * float(its.abs().max()))


def test_what_cannot_be_factored_is_nan():
    error, var, low = (part.detach() for part in parts())
    low[1, 0, 0] = float("nan")
    found = low_rank_nll(error, var, low)
    assert torch.isnan(found).tolist() == [False, True, False, False]
