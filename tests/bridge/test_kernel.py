"""The kernel: its mean in each parametrisation, its covariances and limits, and which output each reads."""

import math

import pytest
import torch

from csb.bridge.kernel import LOG_VARIANCE_LIMIT, MAX_FULL, PARAMETRISATIONS, Kernel, coefficients, heads
from csb.errors import CSBError
from csb.networks import MLP, Network
from csb.problems.gaussian_ipf import AffineGaussian, exact_ipf, reference_kernels
from csb.process import Cosine, Grid, Power, Reference, mix, seeded

GRIDS = {
    "power": Grid.from_schedule(Power(0.3, 2.0), 5),
    "cosine": Grid.from_schedule(Cosine(1e-3), 12),
    "one step": Grid.from_schedule(Power(0.1, 4.0), 1),
}


def random(*keys, shape=(6, 2)):
    return torch.randn(shape, generator=seeded(0, *keys), dtype=torch.float64)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
class TestParametrisations:
    """What each says of the mean at output ``out``, in closed form, for every step."""

    def means(self, name, grid, direction="backward"):
        """(k, x, output, the kernel's mean as a function of them) of each step."""
        found = coefficients(name, grid, direction)
        for k in range(1, grid.T + 1):
            yield k, random(1, k), random(2, k), lambda x, out, k=k: found.skip[k] * x + found.gain[k] * out

    @pytest.mark.parametrize("direction", ["backward", "forward"])
    def test_drift_is_the_move_over_beta_and_v_without_output_the_reference_step(self, grid, direction):
        for k, x, out, mean in self.means("drift", grid, direction):
            torch.testing.assert_close(mean(x, out), x + grid.beta[k] * out)
        for k, x, out, mean in self.means("v", grid, direction):
            torch.testing.assert_close(mean(x, 0 * out), (1 - grid.beta[k]).sqrt() * x)

    def test_x0_with_the_true_end_is_the_pinned_law(self, grid):
        reference = Reference(grid)
        for k, x, end, mean in self.means("x0", grid, "backward"):
            torch.testing.assert_close(mean(x, end), mix(reference.pinned_start(k), x, end))
        for k, x, end, mean in self.means("x0", grid, "forward"):
            torch.testing.assert_close(mean(x, end), mix(reference.pinned_end(k), x, end))

    def test_x0_with_the_exact_denoiser_is_the_exact_first_half_step(self, grid):
        """E[x_0 | x_k, y] of a Gaussian, put through the coefficients, is the time reversal of the reference."""
        G, g, C = random(1, shape=(2, 3)), random(2, shape=(2,)), torch.tensor([[0.5, 0.2], [0.2, 0.4]]).double()
        exact, forward = exact_ipf(grid, G, g, C, 1)[0].kernels, reference_kernels(grid, 2, 3)
        law, y = AffineGaussian(G, g, C), random(3, shape=(6, 3))
        prior = y @ G.T + g
        for k, x, _, mean in self.means("x0", grid):
            law, scale = forward[k - 1].push(law), grid.alpha_bar[k].sqrt()
            denoised = prior + (x - scale * prior) @ (scale * torch.linalg.solve(law.P, C))
            torch.testing.assert_close(mean(x, denoised), exact[k - 1].mean(x, y), rtol=1e-9, atol=1e-9)

    def test_eps_and_v_predict_the_end_they_say(self, grid):
        names = ("x0", "eps", "v")
        for (k, x, out, x0), (*_, eps), (*_, v) in zip(*(self.means(name, grid) for name in names)):
            signal, noise = grid.alpha_bar[k].sqrt(), (1 - grid.alpha_bar[k]).sqrt()
            torch.testing.assert_close(eps(x, out), x0(x, (x - noise * out) / signal), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(v(x, out), x0(x, signal * x - noise * out), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("name", PARAMETRISATIONS)
    def test_forward_is_backward_on_the_mirrored_grid(self, grid, name):
        forward, mirrored = coefficients(name, grid, "forward"), coefficients(name, grid.mirror(), "backward")
        for one, other in zip(forward, mirrored):
            torch.testing.assert_close(one[1:], other[1:].flip(0))
            assert float(one[0]) == 0


GRID = Grid.from_schedule(Power(0.2, 2.0), 5)
KS = torch.tensor([1, 3, 5])
BETA = GRID.beta.float()[:, None, None]  # by k, of covariances
I = torch.eye(2)  # noqa: E741
NUMBERS = [[math.log(4), 99.0], [0.5, math.log(9)]]  # rows of a root: variances 4 and 9, x_2 given x_1 has mean −½ x_1
INNOVATIONS = torch.tensor([[4.0, -2.0], [-2.0, 10.0]])  # variance 9 + ¼·4, covariance −½·4


class Says(Network):
    """A network of two coordinates that outputs given rows, one a head; .7 for the mean where it is not given."""

    def __init__(self, *rows, mean=(0.7, 0.7)):
        super().__init__((2,), (1,), 1 + len(rows))
        self.rows = torch.nn.Parameter(torch.tensor([mean, *rows]))

    def encode(self, c):
        return c

    def forward(self, z, time, context):
        self.seen = time
        return self.rows.expand(len(z), -1, -1).clone()


def at(kernel, k=KS, x=None):
    x = torch.ones(3, 2) if x is None else x
    return kernel(x, k, torch.zeros(len(x), 1))


def law(covariance, *rows, floor=0.0, name="v", k=KS, **options):
    return at(Kernel(Says(*rows), GRID, "backward", name, covariance, floor, **options), k)


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_mean(direction, name):
    kernel, found = Kernel(Says((0.1, 0.1)), GRID, direction, name), coefficients(name, GRID, direction)
    k, x = torch.tensor([1, 2, 5]), torch.randn(3, 2, generator=seeded(0))
    expected = found.skip[k, None] * x.double() + found.gain[k, None] * 0.7
    torch.testing.assert_close(at(kernel, k, x).mean, expected.float(), rtol=1e-5, atol=1e-5)


def test_a_large_state_makes_no_table_of_its_square():
    network = Says((0.1, 0.1))
    network.z_shape = (1, 2**22, 2**22)
    assert Kernel(network, GRID, "backward", "v").columns is None


def test_one_k_serves_the_whole_batch():
    kernel = Kernel(Says((0.1, 0.1)), GRID, "backward", "x0")
    one, many = at(kernel, torch.tensor([4])), at(kernel, torch.tensor([4, 4, 4]))
    assert torch.equal(one.mean, many.mean)
    assert torch.equal(one.var, many.var)
    torch.testing.assert_close(kernel.network.seen, torch.tensor([0.8] * 3))


@pytest.mark.parametrize(
    ("covariance", "rows"), [("fixed", 0), ("diagonal", 1), ("low_rank", 3), ("full", 2), ("mixture", 3)]
)
def test_at_output_zero_the_covariance_is_beta_and_the_floor_comes_on_top(covariance, rows):
    found = law(covariance, *[[0.0, 0.0]] * rows, floor=0.01)
    floor = 0.0 if covariance == "fixed" else 0.01
    torch.testing.assert_close(found.covariance(), (BETA[KS] + floor) * I)
    assert found.mean.shape == (3, 2)


class TestVariance:
    @pytest.mark.parametrize(
        ("head", "log_ratio"), [(1.1, 1.1), (-1e9, -LOG_VARIANCE_LIMIT), (1e9, LOG_VARIANCE_LIMIT)]
    )
    def test_the_head_is_the_log_of_the_ratio_to_beta_within_its_limits(self, head, log_ratio):
        found = law("diagonal", [head] * 2, floor=1e-3).covariance()
        torch.testing.assert_close(found, (BETA[KS] * math.exp(log_ratio) + 1e-3) * I)

    def test_the_floor_bounds_likelihood_and_conditional_variance(self):
        found = law("diagonal", [-1e9] * 2, floor=1e-4, k=torch.tensor([1]))
        assert float(found.nll(found.mean).detach().min()) > 0.5 * math.log(2 * math.pi * 1e-4) - 0.1
        assert float(law("full", [-1e9, 0.0], [5.0, -1e9], floor=1e-4).var.detach().min()) >= 0.99e-4


def test_a_full_covariance_is_read_by_innovations():
    torch.testing.assert_close(law("full", *NUMBERS).covariance(), BETA[KS] * INNOVATIONS)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_low_rank_directions_are_in_units_of_the_effect_of_v(name):
    gain = coefficients("v", GRID, "backward").gain.abs().float()[KS, None]
    low = gain * torch.tensor([0.3, -1.0])
    expected = BETA[KS] * torch.diag(torch.tensor([1.0, 4.0])) + low[:, :, None] * low[:, None]
    found = law("low_rank", [0.0, math.log(4)], [0.3, -1.0], name=name)
    assert found.low.shape == (3, 2, 1)
    torch.testing.assert_close(found.covariance(), expected)


class TestMixtureOfGaussians:
    """Two components in ℝ²: heads are two means, two rows each of the roots, and the logits."""

    rows = ([1.0, -1.0], *NUMBERS, [0.0, 0.0], [0.0, 0.0], [0.0, math.log(3)])

    def test_each_component_reads_its_own_heads(self):
        found = law("mixture", *self.rows, components=2)
        torch.testing.assert_close(found.logits.softmax(1), torch.tensor([[0.25, 0.75]]).expand(3, 2))
        gain = coefficients("v", GRID, "backward").gain[KS].float()[:, None]
        means, covariances = found.parts(None).mean.view(3, 2, 2), found.parts(None).covariance().view(3, 2, 2, 2)
        torch.testing.assert_close(means[:, 1] - means[:, 0], gain * (torch.tensor([1.0, -1.0]) - 0.7))
        torch.testing.assert_close(covariances[:, 0], BETA[KS] * INNOVATIONS)
        torch.testing.assert_close(covariances[:, 1], BETA[KS] * I)
        torch.testing.assert_close(found.mean, 0.25 * means[:, 0] + 0.75 * means[:, 1])

    def test_one_component_is_a_full_covariance(self):
        one, full = law("mixture", *NUMBERS, [0.0, 0.0], components=1), law("full", *NUMBERS)
        noise = torch.randn(3, 3, generator=seeded(1))
        torch.testing.assert_close(one.draw(noise), full.draw(noise[:, 1:]))
        torch.testing.assert_close(one.nll(noise[:, 1:]).sum(1), full.nll(noise[:, 1:]).sum(1))

    def test_gradients_after_the_mean_was_asked_for_without(self):
        kernel = Kernel(Says(*self.rows), GRID, "backward", "v", "mixture", components=2)
        found = at(kernel)
        with torch.no_grad():
            assert found.mean.shape == (3, 2)
        found.nll(torch.ones(3, 2)).sum().backward()
        assert bool((kernel.network.rows.grad[2] != 0).any())  # numbers of a covariance

    def test_it_outlives_the_next_replay_of_its_network(self):
        """It makes its means and covariances when they are asked for, from the network's output."""

        class Replayed(Says):
            output = None

            def forward(self, z, time, context):
                self.output = super().forward(z, time, context) if self.output is None else self.output.add_(1)
                return self.output

        kernel = Kernel(Replayed(*self.rows), GRID, "backward", "v", "mixture", 0.0, components=2)
        kernel.replayed = True
        with torch.no_grad():
            one, two = at(kernel), at(kernel)
        assert torch.equal(one.mean, law("mixture", *self.rows, components=2).mean)
        assert not torch.equal(two.mean, one.mean)


def test_heads():
    kinds = ("fixed", "diagonal", "low_rank", "full", "mixture")
    assert [heads(name, (2, 3), 4, 7) for name in kinds] == [1, 2, 6, 7, 7 * 7 + 2]
    with pytest.raises(CSBError, match=f"covariance=full is meant for at most {MAX_FULL} coordinates, not 784"):
        heads("full", (1, 28, 28), 1, 1)
    for rank in (0, 7):
        with pytest.raises(CSBError, match=f"rank={rank} is not possible for states of 6 coordinates; choose one in 1"):
            heads("low_rank", (2, 3), rank, 1)


def test_laws_are_float32_under_autocast():
    kernel = Kernel(MLP((2,), (1,), 2, width=8, depth=1), GRID, "backward", "x0")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = at(kernel)
    assert found.mean.dtype == found.var.dtype == torch.float32
