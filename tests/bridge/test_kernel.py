"""The kernel: its mean in each parametrisation, its covariances and limits, and which output each reads."""

import math

import pytest
import torch

from csb.bridge.kernel import LOG_VARIANCE_LIMIT, MAX_FULL, PARAMETRISATIONS, Kernel, coefficients, heads
from csb.errors import CSBError
from csb.networks import MLP, Network
from csb.process import Grid, Power, seeded

GRID = Grid.from_schedule(Power(0.2, 2.0), 5)


class Says(Network):
    """A network that outputs given numbers: mean head and, with two heads, log-variance head."""

    def __init__(self, *outputs):
        super().__init__((2,), (1,), len(outputs))
        self.outputs = torch.nn.ParameterList([torch.full((1,), float(o)) for o in outputs])

    def encode(self, c):
        return c

    def forward(self, z, time, code):
        self.seen = time
        return torch.stack([o.expand_as(z) for o in self.outputs], dim=1)


def at(kernel, k, x=None):
    x = torch.ones(len(k) if len(k) > 1 else 3, 2) if x is None else x
    return kernel(x, k, torch.zeros(len(x), 1))


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("name", list(PARAMETRISATIONS))
def test_mean(direction, name):
    kernel, found = Kernel(Says(0.7, 0.1), GRID, direction, name), coefficients(name, GRID, direction)
    k = torch.tensor([1, 2, 5])
    x = torch.randn(3, 2, generator=seeded(0))
    expected = torch.stack([found.skip[k[i]] * x[i].double() + found.gain[k[i]] * 0.7 for i in range(3)])
    law = at(kernel, k, x)
    torch.testing.assert_close(law.mean, expected.float(), rtol=1e-5, atol=1e-5)


def test_the_drift_parametrisation_outputs_the_drift():
    kernel = Kernel(Says(0.7), GRID, "backward", "drift", "fixed")
    law = at(kernel, torch.tensor([3, 3]), torch.zeros(2, 2))
    torch.testing.assert_close(law.mean / GRID.beta[3].float(), torch.full((2, 2), 0.7))


def test_one_k_serves_the_whole_batch():
    kernel = Kernel(Says(0.7, 0.1), GRID, "backward", "x0")
    one, many = at(kernel, torch.tensor([4])), at(kernel, torch.tensor([4, 4, 4]))
    assert torch.equal(one.mean, many.mean)
    assert torch.equal(one.var, many.var)
    torch.testing.assert_close(kernel.network.seen, torch.tensor([0.8] * 3))


class TestVariance:
    def test_fixed_at_beta_without_a_head(self):
        kernel, k = Kernel(Says(0.7), GRID, "backward", "v", "fixed", variance_floor=0.5), torch.tensor([1, 3, 5])
        law = at(kernel, k)
        torch.testing.assert_close(law.var, GRID.beta[k].float()[:, None].expand(3, 2))
        assert law.var.shape == law.mean.shape

    def test_head_zero_is_beta_and_the_floor_comes_on_top(self):
        k = torch.tensor([1, 3, 5])
        law = at(Kernel(Says(0, 0), GRID, "forward", "v", variance_floor=0.01), k)
        torch.testing.assert_close(law.var, (GRID.beta[k] + 0.01).float()[:, None].expand(3, 2))

    def test_head_is_the_log_of_the_ratio_to_beta(self):
        law = at(Kernel(Says(0, math.log(3)), GRID, "backward", "v", "diagonal", 0.0), torch.tensor([2]))
        torch.testing.assert_close(law.var, torch.full((3, 2), 3 * float(GRID.beta[2])))

    @pytest.mark.parametrize("sign", [-1, 1])
    def test_clamped(self, sign):
        law = at(Kernel(Says(0, sign * 1e9), GRID, "backward", "v", "diagonal", 1e-3), torch.tensor([2]))
        expected = float(GRID.beta[2]) * math.exp(sign * LOG_VARIANCE_LIMIT) + 1e-3
        torch.testing.assert_close(law.var, torch.full((3, 2), expected))

    def test_the_floor_bounds_the_likelihood(self):
        law = at(Kernel(Says(0, -1e9), GRID, "backward", "v", "diagonal", 1e-4), torch.tensor([1]))
        assert float(law.nll(law.mean).detach().min()) > 0.5 * math.log(2 * math.pi * 1e-4) - 0.1


class Rows(Says):
    """A network that outputs .7 for the mean and then the given rows, one a head."""

    def __init__(self, rows):
        super().__init__(0.7, *(0.0 for _ in rows))
        self.rows = torch.tensor(rows)

    def forward(self, z, time, code):
        return torch.stack([torch.full_like(z, 0.7), *(row.expand_as(z) for row in self.rows)], dim=1)


class TestFullCovariance:
    def kernel(self, rows, floor=0.0):
        return Kernel(Rows(rows), GRID, "backward", "v", "full", floor)

    def test_output_zero_is_beta(self):
        law = at(self.kernel([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([3]))
        torch.testing.assert_close(law.covariance(), (GRID.beta[3] * torch.eye(2).double()).float().expand(3, 2, 2))

    def test_innovations(self):
        """x_1 has variance 4 β; x_2 given x_1 has mean −½ x_1 and variance 9 β (the numbers of the last row)."""
        k = torch.tensor([1, 3, 5])
        law = at(self.kernel([[math.log(4), 99.0], [0.5, math.log(9)]]), k)
        unit = torch.tensor([[4.0, -2.0], [-2.0, 10.0]])  # variance 9 + ¼·4, covariance −½·4
        torch.testing.assert_close(law.covariance(), GRID.beta[k].float()[:, None, None] * unit)

    def test_the_floor_bounds_the_conditional_variance(self):
        law = at(self.kernel([[-1e9, 0.0], [5.0, -1e9]], floor=1e-4), torch.tensor([2]))
        assert float(law.var.min()) >= 0.99e-4


class TestLowRankCovariance:
    @pytest.mark.parametrize("name", list(PARAMETRISATIONS))
    def test_a_diagonal_and_directions_in_units_of_the_means_output(self, name):
        k, gain = torch.tensor([1, 3, 5]), coefficients("v", GRID, "backward").gain.abs()
        kernel = Kernel(Rows([[0.0, math.log(4)], [0.3, -1.0]]), GRID, "backward", name, "low_rank", 0.0)
        low = gain[k][:, None] * torch.tensor([0.3, -1.0]).double()
        beta = GRID.beta[k][:, None] * torch.tensor([1.0, 4.0]).double()
        expected = torch.diag_embed(beta) + low[:, :, None] * low[:, None]
        torch.testing.assert_close(at(kernel, k).covariance(), expected.float())

    def test_output_zero_is_beta(self):
        kernel = Kernel(Rows([[0.0, 0.0]] * 3), GRID, "forward", "x0", "low_rank", 0.0)
        law = at(kernel, torch.tensor([3]))
        assert law.low.shape == (3, 2, 2)
        torch.testing.assert_close(law.covariance(), (GRID.beta[3] * torch.eye(2).double()).float().expand(3, 2, 2))


class TestMixtureOfGaussians:
    """Two components in ℝ²: heads are two means, two rows each of the roots, and the logits."""

    rows = [
        [1.0, -1.0],
        [math.log(4), 99.0],
        [0.5, math.log(9)],
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, math.log(3)],
    ]

    def law(self, k, floor=0.0):
        kernel = Kernel(Rows(self.rows), GRID, "backward", "v", "mixture", floor, components=2)
        return at(kernel, k)

    def test_each_component_reads_its_own_heads(self):
        k = torch.tensor([1, 3, 5])
        law = self.law(k)
        torch.testing.assert_close(law.logits.softmax(1), torch.tensor([[0.25, 0.75]]).expand(3, 2))
        gain = coefficients("v", GRID, "backward").gain[k].float()[:, None]
        means, covariances = law.parts.mean.view(3, 2, 2), law.parts.covariance().view(3, 2, 2, 2)
        apart = means[:, 1] - means[:, 0]
        torch.testing.assert_close(apart, gain * (torch.tensor([1.0, -1.0]) - 0.7))
        unit = torch.tensor([[4.0, -2.0], [-2.0, 10.0]])  # as in the test of innovations above
        torch.testing.assert_close(covariances[:, 0], GRID.beta[k].float()[:, None, None] * unit)
        torch.testing.assert_close(covariances[:, 1], GRID.beta[k].float()[:, None, None] * torch.eye(2))

    def test_the_mean_is_the_mixtures(self):
        law = self.law(torch.tensor([4]))
        means = law.parts.mean.view(3, 2, 2)
        torch.testing.assert_close(law.mean, 0.25 * means[:, 0] + 0.75 * means[:, 1])

    def test_one_component_is_a_full_covariance(self):
        k, rows = torch.tensor([1, 3, 5]), [[math.log(4), 99.0], [0.5, math.log(9)]]
        one = at(Kernel(Rows([*rows, [0.0, 0.0]]), GRID, "backward", "v", "mixture", components=1), k)
        full = at(Kernel(Rows(rows), GRID, "backward", "v", "full"), k)
        noise = torch.randn(3, 3, generator=seeded(1))
        torch.testing.assert_close(one.draw(noise), full.draw(noise[:, 1:]))
        torch.testing.assert_close(one.nll(noise[:, 1:]).sum(1), full.nll(noise[:, 1:]).sum(1))

    def test_gradients_after_the_mean_was_asked_for_without(self):
        kernel = Kernel(Rows(self.rows), GRID, "backward", "v", "mixture", components=2)
        kernel.network.rows.requires_grad_(True)
        law = at(kernel, torch.tensor([4]))
        with torch.no_grad():
            assert law.mean.shape == (3, 2)
        law.nll(torch.ones(3, 2)).sum().backward()
        assert bool((kernel.network.rows.grad[1] != 0).any())  # numbers of a covariance


def test_heads():
    kinds = ("fixed", "diagonal", "low_rank", "full", "mixture")
    assert [heads(name, (2, 3), 4, 7) for name in kinds] == [1, 2, 6, 7, 7 * 7 + 2]
    with pytest.raises(CSBError, match=f"covariance=full is meant for at most {MAX_FULL} coordinates, not 784"):
        heads("full", (1, 28, 28), 1, 1)
    for rank in (0, 7):
        with pytest.raises(
            CSBError, match=f"rank={rank} is not possible for states of 6 coordinates; choose one in 1..6"
        ):
            heads("low_rank", (2, 3), rank, 1)


def test_laws_are_float32_under_autocast():
    kernel = Kernel(MLP((2,), (1,), 2, width=8, depth=1), GRID, "backward", "x0")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        law = at(kernel, torch.tensor([2]))
        assert law.mean.dtype == law.var.dtype == torch.float32


def test_a_mixture_outlives_the_next_replay_of_its_network():
    """It makes its means and covariances when they are asked for, from the network's output."""

    class Replayed(Rows):
        output = None

        def forward(self, z, time, code):
            self.output = super().forward(z, time, code) if self.output is None else self.output.add_(1)
            return self.output

    kernel = Kernel(Replayed(TestMixtureOfGaussians.rows), GRID, "backward", "v", "mixture", 0.0, components=2)
    kernel.replayed = True
    with torch.no_grad():
        laws = [at(kernel, torch.tensor([2])) for _ in range(2)]
    assert torch.equal(laws[0].mean, TestMixtureOfGaussians().law(torch.tensor([2])).mean)
    assert not torch.equal(laws[1].mean, laws[0].mean)
