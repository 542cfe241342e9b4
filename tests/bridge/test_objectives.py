"""The objectives: what minimises them, and what they aim at."""

import math

import pytest
import torch

from csb.bridge.objectives import Likelihood, MeanMatching, Target, bridged
from csb.bridge.transitions import DiagonalGaussian, FullGaussian
from csb.process import Grid, Power, Reference, seeded
from tests.conftest import unpacked

GRID = Grid.from_schedule(Power(0.2, 2.0), 4)
REFERENCE = Reference(GRID)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_the_likelihoods_minimum_is_the_conditional_mean_and_covariance(kind):
    states = torch.randn(40, 2, generator=seeded(7)) @ torch.tensor([[1.0, 0.7], [0.0, 0.5]])
    mean, cov = states.mean(0), states.T.cov(correction=0)
    diagonal = torch.diag(cov.diagonal())

    def loss(mean, cov):
        root = torch.linalg.inv(torch.linalg.cholesky(cov)).expand(40, 2, 2)
        law = DiagonalGaussian(mean.expand(40, 2), cov.diagonal().expand(40, 2))
        law = law if kind == "diagonal" else FullGaussian(law.mean, *unpacked(root))
        return Likelihood().loss(law, Target(states), torch.full((40,), 0.3)).sum(1).mean()

    best, shift, change = diagonal if kind == "diagonal" else cov, torch.zeros(2), torch.zeros(2, 2)
    loss(mean + shift.requires_grad_(), best + change.requires_grad_() + change.T).backward()
    assert float(shift.grad.abs().max()) < 1e-5
    assert float(change.grad.abs().max()) < 1e-4
    for other in ((mean + 0.05, best), (mean, 1.1 * best), (mean, 0.9 * best)):
        assert float(loss(*other)) > float(loss(mean, best)) + 1e-4
    assert kind == "diagonal" or float(loss(mean, diagonal)) > float(loss(mean, cov)) + 0.1


@pytest.mark.parametrize("beta", [1e-4, 0.5])
def test_the_reference_step_scores_the_same_at_every_beta(beta):
    law = DiagonalGaussian(torch.zeros(3, 2), torch.full((3, 2), beta))
    loss = Likelihood().loss(law, Target(torch.full((3, 2), beta**0.5)), torch.full((3,), beta))
    torch.testing.assert_close(loss, torch.full((3, 2), 0.5 + 0.5 * math.log(2 * math.pi)))


def test_mean_matching_is_the_squared_error_over_beta():
    law = DiagonalGaussian(torch.tensor([[1.0, 2.0]]), torch.full((1, 2), 9.9))
    loss = MeanMatching().loss(law, Target(torch.tensor([[3.0, 1.0]])), torch.tensor([0.5]))
    torch.testing.assert_close(loss, torch.tensor([[4.0, 1.0]]))


class TestFirstTarget:
    """The target integrates x_{k−1} | x_k, x_0 out: it is the mean over simulated x_{k−1}."""

    @pytest.mark.parametrize("k", [1, 2, 4])
    @pytest.mark.parametrize("objective", [Likelihood(), MeanMatching()])
    def test_is_the_mean_over_draws(self, objective, k):
        n, x_k, x_0 = 400_000, torch.tensor([[0.4, -1.5]]), torch.tensor([[1.2, 0.3]])
        each = REFERENCE.pinned_start(k).draw(x_k.expand(n, 2), x_0.expand(n, 2), seeded(1, k))
        target = objective.first_target(REFERENCE, torch.tensor([k]), x_k, x_0)
        if objective.caches == "targets":
            scale = (1 - GRID.beta[k]).sqrt().float()
            each = x_k + scale * each - scale * x_k  # x_k + m_F(x_{k−1}) − m_F(x_k)
            assert target.var == 0.0
        else:
            torch.testing.assert_close(target.var.expand(1, 2)[0], each.var(0), rtol=0.02, atol=1e-6)
            assert (float(target.var) == 0) == (k == 1)
        error = 5 * float(each.std()) / n**0.5 + 1e-5
        torch.testing.assert_close(target.mean[0], each.mean(0), atol=error, rtol=0)


class TestBridged:
    """Between end points of the reference process itself, states and targets are those of the reference process."""

    N = 200_000

    def ends(self):
        x_0 = torch.tensor([[1.2, 0.3]]).expand(self.N, 2)
        return x_0, REFERENCE.marginal(GRID.T).draw(x_0, seeded(11))

    @pytest.mark.parametrize("direction", ["backward", "forward"])
    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_laws_of_the_state_and_of_the_step(self, direction, k):
        x_0, x_T = self.ends()
        x, target = bridged(REFERENCE, direction, torch.full((self.N,), k), x_0, x_T, seeded(12, k))
        other = target.drawn(seeded(13, k)).mean
        low, high = (other, x) if direction == "backward" else (x, other)  # x_{k−1}, x_k
        for state, at in ((low, k - 1), (high, k)):
            law = REFERENCE.marginal(at)
            error = 5 * float(law.var / self.N) ** 0.5 + 1e-5
            torch.testing.assert_close(state.mean(0), float(law.scale) * x_0[0], atol=error, rtol=0)
            torch.testing.assert_close(state.var(0), torch.full((2,), float(law.var)), atol=1e-9, rtol=0.02)
        step = REFERENCE.step(k)
        rest = high - float(step.scale) * low  # of X_k | X_{k−1}: independent of x_{k−1}, variance β_k
        torch.testing.assert_close(rest.var(0), torch.full((2,), float(step.var)), atol=0, rtol=0.02)
        if k > 1:
            correlation = torch.corrcoef(torch.stack([rest[:, 0], low[:, 0]]))[0, 1]
            assert abs(float(correlation)) < 5 / self.N**0.5

    def test_the_ends_themselves(self):
        x_0, x_T = (part[:3] for part in self.ends())
        k = torch.tensor([1, 2, 4])
        for direction, state, target_at in (("backward", (2, x_T), (0, x_0)), ("forward", (0, x_0), (2, x_T))):
            x, target = bridged(REFERENCE, direction, k, x_0, x_T, seeded(1))
            torch.testing.assert_close(x[state[0]], state[1][state[0]])
            torch.testing.assert_close(target.mean[target_at[0]], target_at[1][target_at[0]])
            assert float(target.var[target_at[0]]) == 0
