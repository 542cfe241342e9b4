"""The objectives: what minimises them, and what they aim at."""

import math

import pytest
import torch
from conftest import unpacked

from csb.bridge.objectives import OBJECTIVES, Likelihood, MeanMatching, Target, bridged
from csb.bridge.transitions import DiagonalGaussian, FullGaussian
from csb.process import Grid, Power, Reference, seeded

GRID = Grid.from_schedule(Power(0.2, 2.0), 4)
REFERENCE = Reference(GRID)


class TestLikelihoodsMinimum:
    """x_{k−1} takes the values 0, 1, 4 with probabilities 1/2, 1/4, 1/4: mean 1.25, variance 2.6875."""

    values = torch.tensor([0.0, 0.0, 1.0, 4.0])
    mean, var = 1.25, 2.6875

    def loss(self, mean, var, beta=0.3):
        law = DiagonalGaussian(torch.as_tensor(mean).expand(4), torch.as_tensor(var).expand(4))
        return Likelihood().loss(law, Target(self.values), torch.tensor(beta)).mean()

    def test_is_the_conditional_mean_and_variance(self):
        mean, var = torch.tensor(self.mean, requires_grad=True), torch.tensor(self.var, requires_grad=True)
        self.loss(mean, var).backward()
        assert abs(float(mean.grad)) < 1e-6
        assert abs(float(var.grad)) < 1e-6
        best = float(self.loss(self.mean, self.var))
        for other in ((1.3, 2.6875), (1.2, 2.6875), (1.25, 2.8), (1.25, 2.6), (0.0, 1.0)):
            assert float(self.loss(*other)) > best + 1e-4

    @pytest.mark.parametrize("beta", [1e-4, 0.5])
    def test_the_reference_step_scores_the_same_at_every_beta(self, beta):
        law = DiagonalGaussian(torch.zeros(3, 2), torch.full((3, 2), beta))
        loss = Likelihood().loss(law, Target(torch.full((3, 2), beta**0.5)), torch.full((3,), beta))
        torch.testing.assert_close(loss, torch.full((3, 2), 0.5 + 0.5 * math.log(2 * math.pi)))


def test_the_full_likelihoods_minimum_is_the_conditional_covariance():
    states = torch.randn(40, 2, generator=seeded(7)) @ torch.tensor([[1.0, 0.7], [0.0, 0.5]])
    mean, cov = states.mean(0), states.T.cov(correction=0)

    def loss(mean, cov):
        root = torch.linalg.inv(torch.linalg.cholesky(cov))
        law = FullGaussian(mean.expand(40, 2), *unpacked(root.expand(40, 2, 2)))
        return Likelihood().loss(law, Target(states), torch.full((40,), 0.3)).sum(1).mean()

    shift = torch.zeros(2, requires_grad=True)
    change = torch.zeros(2, 2, requires_grad=True)
    loss(mean + shift, cov + change + change.T).backward()
    assert float(shift.grad.abs().max()) < 1e-5
    assert float(change.grad.abs().max()) < 1e-4
    assert float(loss(mean, torch.diag(cov.diagonal()))) > float(loss(mean, cov)) + 0.1


def test_mean_matching_is_the_squared_error_over_beta():
    law = DiagonalGaussian(torch.tensor([[1.0, 2.0]]), torch.full((1, 2), 9.9))
    loss = MeanMatching().loss(law, Target(torch.tensor([[3.0, 1.0]])), torch.tensor([0.5]))
    torch.testing.assert_close(loss, torch.tensor([[4.0, 1.0]]))


class TestFirstTarget:
    """The target integrates x_{k−1} | x_k, x_0 out: it is the mean over simulated x_{k−1}."""

    N = 400_000

    def draws(self, k):
        x_k, x_0 = torch.tensor([[0.4, -1.5]]), torch.tensor([[1.2, 0.3]])
        step = torch.tensor([k])
        law, n = REFERENCE.pinned_start(k), self.N
        previous = law.draw(x_k.expand(n, 2), x_0.expand(n, 2), seeded(1, k))
        return step, x_k, x_0, previous

    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_likelihood(self, k):
        step, x_k, x_0, previous = self.draws(k)
        target = Likelihood().first_target(REFERENCE, step, x_k, x_0)
        error = 5 * float(previous.std()) / self.N**0.5 + 1e-5
        torch.testing.assert_close(target.mean[0], previous.mean(0), atol=error, rtol=0)
        var = torch.as_tensor(target.var).expand(1, 2)[0]
        torch.testing.assert_close(var, previous.var(0), rtol=0.02, atol=1e-6)
        assert (float(var[0]) == 0) == (k == 1)

    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_mean_matching(self, k):
        step, x_k, x_0, previous = self.draws(k)
        scale = (1 - GRID.beta[k]).sqrt().float()
        each = x_k + scale * previous - scale * x_k  # x_k + m_F(x_{k−1}) − m_F(x_k)
        target = MeanMatching().first_target(REFERENCE, step, x_k, x_0)
        error = 5 * float(each.std()) / self.N**0.5 + 1e-5
        torch.testing.assert_close(target.mean[0], each.mean(0), atol=error, rtol=0)
        assert target.var == 0.0

    @pytest.mark.parametrize("name", list(OBJECTIVES))
    def test_batches_of_different_steps(self, name):
        objective, k = OBJECTIVES[name](), torch.tensor([1, 4, 2])
        x_k, x_0 = torch.randn(3, 1, 2, 2, generator=seeded(2)), torch.randn(3, 1, 2, 2, generator=seeded(3))
        whole = objective.first_target(REFERENCE, k, x_k, x_0)
        for i in range(3):
            alone = objective.first_target(REFERENCE, k[i : i + 1], x_k[i : i + 1], x_0[i : i + 1])
            torch.testing.assert_close(whole.mean[i], alone.mean[0])


class TestCachedTarget:
    def case(self, exact_bridge, source):
        exact = exact_bridge("fixed", iterations=2)
        kernel = exact.bridge.kernel(source)
        start, c = torch.randn(5, 2, generator=seeded(1)), torch.randn(5, 2, generator=seeded(2))
        k = torch.tensor([3])
        with torch.no_grad():
            step = kernel(start, k, c)
            end = step.draw(torch.randn(len(start), kernel.noise_size, generator=seeded(3)))
            target = {n: OBJECTIVES[n]().cached_target(kernel, k, start, end, step.mean, c) for n in OBJECTIVES}
        kernels = exact.steps[-1 if source == "forward" else -2].kernels
        return target, start, end, kernels[2], c

    @pytest.mark.parametrize("source", ["forward", "backward"])
    def test_mean_matching_is_the_designs_formula(self, exact_bridge, source):
        # Backward fit: x_k + m_F(x_{k−1}) − m_F(x_k); forward fit: x_{k−1} + m_B(x_k) − m_B(x_{k−1}).
        targets, start, end, kernel, c = self.case(exact_bridge, source)
        expected = end + kernel.mean(start, c) - kernel.mean(end, c)
        torch.testing.assert_close(targets["mean_matching"], expected, rtol=1e-4, atol=1e-5)


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
        x, target = bridged(REFERENCE, "backward", k, x_0, x_T, seeded(1))
        torch.testing.assert_close(x[2], x_T[2])
        torch.testing.assert_close(target.mean[0], x_0[0])
        assert float(target.var[0]) == 0
        x, target = bridged(REFERENCE, "forward", k, x_0, x_T, seeded(1))
        torch.testing.assert_close(x[0], x_0[0])
        torch.testing.assert_close(target.mean[2], x_T[2])
        assert float(target.var[2]) == 0


def test_a_drawn_target_has_the_targets_law():
    target = Target(torch.full((100_000, 1), 2.0), torch.full((100_000, 1), 0.25))
    drawn = target.drawn(seeded(3))
    assert float(drawn.mean.mean()) == pytest.approx(2, abs=0.01)
    assert float(drawn.mean.var()) == pytest.approx(0.25, rel=0.02)
    assert drawn.var == 0.0
    assert Target(drawn.mean).drawn(seeded(3)).mean is drawn.mean
