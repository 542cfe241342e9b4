"""Bridge.log_prob against closed forms, and what it promises about shapes, randomness and errors."""

import math

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.kernel import COVARIANCES
from csb.bridge.paths import is_fitted
from csb.problems.gaussian_ipf import exact_ipf
from csb.process import Grid, Power, seeded
from tests.bridge.test_bridge import Y
from tests.conftest import make_exact_bridge, make_untrained_bridge, one_line, set_affine


def gaussian(x, law, y):
    """The log-density of an affine law at x (m, d)."""
    mean = law.U @ y.double() + law.u
    return torch.distributions.MultivariateNormal(mean, law.P).log_prob(x.double())


def points(law, y, m=20):
    """Points where the law lives, up to two and a half standard deviations out."""
    u = torch.randn(m, len(law.u), generator=seeded(5)).double().clamp(-2.5, 2.5)
    return (law.U @ y.double() + law.u + u @ torch.linalg.cholesky(law.P).T).float()


class TestAgainstClosedForms:
    @pytest.mark.parametrize("iterations", [1, 2, 6])
    def test_forward_kernels_that_reverse_the_sampler_leave_nothing_to_chance(self, iterations):
        exact = make_exact_bridge("full", iterations)
        law = exact.steps[-2].end
        x = torch.stack([points(law, y) for y in Y])
        found, info = exact.bridge.log_prob(x, Y, n=3, generator=seeded(1), with_info=True)
        expected = torch.stack([gaussian(one, law, y) for one, y in zip(x, Y)])
        torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)
        torch.testing.assert_close(info.ess, torch.full((3, 20), 3.0), atol=1e-3, rtol=0)
        assert (info.proposal, info.forward_evaluations) == ("forward", 2 * exact.grid.T)

    @pytest.mark.parametrize(("kind", "iterations"), [("fixed", 3), ("diagonal", 6)])
    def test_kernels_that_are_not_each_others_reversal(self, kind, iterations):
        exact = make_exact_bridge(kind, iterations)
        law = exact.steps[-2].end
        x = points(law, Y[1])
        found, info = exact.bridge.log_prob(x, Y[1], n=4096, generator=seeded(2), with_info=True)
        error = found.double() - gaussian(x, law, Y[1])
        assert float(error.abs().max()) < 0.1
        assert float(error.abs().median()) < 0.02
        assert float((error / info.standard_error).abs().mean()) < 2
        assert 1 < float(info.ess.min()) < float(info.ess.max()) < 4096

    def test_untrained_forward_kernels_give_way_to_the_reference_process(self):
        exact = make_exact_bridge("full", 1, T=10)
        torch.nn.init.zeros_(exact.bridge.forward_kernel.network.weight)
        torch.nn.init.zeros_(exact.bridge.forward_kernel.network.bias)
        law = exact.steps[-2].end
        x = points(law, Y[0])
        found, info = exact.bridge.log_prob(x, Y[0], n=1024, generator=seeded(3), with_info=True)
        assert (info.proposal, info.forward_evaluations) == ("reference", exact.grid.T)
        assert float((found.double() - gaussian(x, law, Y[0])).abs().mean()) < 0.02
        assert float(info.standard_error.max()) < 0.1

    def test_the_standard_error_and_the_bound(self):
        """Over many estimates: the spread is what standard_error says, and the mean is below the exact value."""
        exact = make_exact_bridge("fixed", 3)
        law, y = exact.steps[-2].end, Y[1]
        x = (law.U @ y.double() + law.u + law.P.diagonal().sqrt()).float()
        found, info = exact.bridge.log_prob(x.expand(400, 2), y, n=64, generator=seeded(4), with_info=True)
        expected = float(gaussian(x[None], law, y))
        spread, said = float(found.std()), float(info.standard_error.mean())
        assert 0.7 * spread < said < 1.4 * spread
        assert float(found.mean()) < expected + 2 * spread / 20
        assert float(found.mean()) == pytest.approx(expected - spread**2 / 2, abs=3 * spread / 20)
        few = exact.bridge.log_prob(x.expand(400, 2), y, n=1, generator=seeded(4))
        assert float(few.mean()) < float(found.mean())

    @pytest.mark.parametrize("covariance", COVARIANCES)
    def test_the_density_has_mass_one_and_the_moments_of_the_samples(self, covariance):
        bridge, y = make_untrained_bridge(2, 2, covariance), torch.tensor([0.5, -0.3])
        with torch.no_grad():
            for parameter in bridge.forward_kernel.parameters():  # random ones would be a poor proposal
                parameter.zero_()
        bridge.transform.x_mean += torch.tensor([1.0, -2.0])
        bridge.transform.x_std *= torch.tensor([2.0, 0.5])
        samples = bridge.sample(y, 50_000, generator=seeded(6)).x.double()
        mean, std = samples.mean(0), samples.std(0)
        axes = [torch.linspace(float(m - 5 * s), float(m + 5 * s), 41).double() for m, s in zip(mean, std)]
        grid = torch.cartesian_prod(*axes)
        density = bridge.log_prob(grid.float(), y, n=64, generator=seeded(7), batch_size=8192).double().exp()
        mass = density * float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
        assert float(mass.sum()) == pytest.approx(1, abs=0.02)
        found = (mass[:, None] * grid).sum(0) / mass.sum()
        assert bool(((found - mean).abs() < 0.03 * std).all())
        spread = ((mass[:, None] * (grid - mean) ** 2).sum(0)).sqrt()
        torch.testing.assert_close(spread, std, rtol=0.04, atol=0)


class TestBounded:
    """Of one coordinate whose state given y = 0.9 has a Gaussian law, and x = 0.4 + 1.5 z before its bounds."""

    Y = torch.tensor([0.9])

    def bridge(self, name, low, high, softness=0.0, **more):
        """The bridge, and the log-density of its state."""
        grid = Grid.from_schedule(Power(0.3, 2.0), 5)
        steps = exact_ipf(grid, torch.tensor([[0.6]]), torch.tensor([0.2]), torch.tensor([[0.3]]), 4)
        part = KernelSpec({"name": "affine", "steps": 5}, "v", "full", variance_floor=0.0)
        transform = {"name": name, "x_shape": [1], "y_shape": [1], "low": [low], "high": [high], **more}
        bridge = build_bridge(BridgeSpec(grid.alpha_bar.tolist(), transform, part, part))
        set_affine(bridge, "backward", steps[-2].kernels)
        set_affine(bridge, "forward", steps[-1].kernels)
        bridge.transform.x_mean.fill_(0.4)
        bridge.transform.x_std.fill_(1.5)
        if name != "probit":
            bridge.transform.softness.fill_(softness)
        law = steps[-2].end
        state = torch.distributions.Normal((law.U @ self.Y.double() + law.u).squeeze(), law.P.sqrt().squeeze())
        return bridge, lambda v: state.log_prob((v - 0.4) / 1.5)

    def test_probit(self):
        bridge, log_density = self.bridge("probit", -1.0, 2.0)
        x = torch.linspace(-0.999, 1.999, 301).double()
        v = torch.special.ndtri((x + 1) / 3)
        slope = 1 / (1.5 * 3 * torch.exp(torch.distributions.Normal(0.0, 1.0).log_prob(v)))
        found = bridge.log_prob(x.float()[:, None], self.Y, n=4, generator=seeded(1)).double()
        torch.testing.assert_close(found, log_density(v) + slope.log(), atol=2e-3, rtol=1e-3)
        assert float(torch.trapezoid(found.exp(), x)) == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize(("low", "high"), [(-0.5, 3.0), (0.5, None), (None, 2.0), (0.7, 3.0)])
    @pytest.mark.parametrize("softness", [0.0, 0.2])
    def test_reflect(self, low, high, softness):
        bridge, log_density = self.bridge("reflect", low, high, softness)
        x = torch.linspace(-5.0 if low is None else low, 6.0 if high is None else high, 61).double()
        images = [x, *(2 * bound - x for bound in (low, high) if bound is not None)]
        density = sum(log_density(v).exp() / 1.5 for v in images)
        found, info = bridge.log_prob(x.float()[:, None], self.Y, n=1000, generator=seeded(1), with_info=True)
        assert float(torch.trapezoid(found.double().exp(), x)) == pytest.approx(1, abs=0.02)
        likely = density > 1e-3 * density.max()
        error = (found.double() - density.log())[likely]
        assert float(error.abs().mean()) < 0.03
        assert bool((error.abs() < 5 * info.standard_error.double()[likely] + 5e-3).all())

    @pytest.mark.parametrize("softness", [0.0, 0.2])
    def test_an_angle_has_the_wrapped_density(self, softness):
        bridge, log_density = self.bridge("mixed", 0.5, 4.5, softness, kinds=["angle"])
        x = torch.linspace(0.5, 4.5, 61).double()
        density = sum(log_density(x + 4 * turns).exp() / 1.5 for turns in range(-5, 6))
        found = bridge.log_prob(x.float()[:, None], self.Y, n=2000, generator=seeded(1)).double().exp()
        assert float(torch.trapezoid(found, x)) == pytest.approx(1, abs=0.01)
        assert float((found / density).log().abs().mean()) < 0.03
        drawn = bridge.sample(self.Y, 20_000, generator=seeded(2)).x
        share = float(torch.trapezoid(density[:16], x[:16]))  # below 1.5
        assert float((drawn < 1.5).double().mean()) == pytest.approx(share, abs=0.02)

    @pytest.mark.parametrize(
        ("kind", "low", "high"), [("integer", None, None), ("integer", 0, None), ("integer", -2, 1), ("category", 0, 3)]
    )
    def test_whole_numbers_have_the_masses_of_their_cells(self, kind, low, high):
        bridge, log_density = self.bridge("mixed", low, high, 0.2, kinds=[kind])
        values = torch.arange(-9.0 if low is None else low, 11.0 if high is None else high + 1.0)
        v = values[:, None].double() + torch.linspace(-0.5, 0.5, 101).double()  # a cell each
        twice = [2 * end + side for end, side in ((low, -1), (high, 1)) if end is not None]
        states = [v, *(mirror - v for mirror in twice)]
        masses = sum(torch.trapezoid(log_density(state).exp() / 1.5, v, dim=1) for state in states)
        found = bridge.log_prob(values[:, None], self.Y, n=10_000, generator=seeded(1)).double().exp()
        assert float(found.sum()) == pytest.approx(1, abs=0.02)
        torch.testing.assert_close(found, masses, atol=0.01, rtol=0)
        drawn = bridge.sample(self.Y, 20_000, generator=seeded(2)).x[:, 0]
        torch.testing.assert_close((drawn[:, None] == values).double().mean(0), masses, atol=0.015, rtol=0)
        others = torch.tensor([[0.5]] if low is None else [[0.5], [low - 1.0]])
        assert bool(bridge.log_prob(others, self.Y, n=8, generator=seeded(3)).isneginf().all())

    @pytest.mark.parametrize("name", ["probit", "reflect"])
    def test_outside_the_bounds_the_density_is_zero(self, name):
        bridge, _ = self.bridge(name, -1.0, 2.0)
        x = torch.tensor([[-1.1], [0.5], [2.5]])
        found, info = bridge.log_prob(x, self.Y, n=8, generator=seeded(1), with_info=True)
        assert found.isneginf().tolist() == [True, False, True]
        assert info.ess[[0, 2]].tolist() == pytest.approx([8, 8])
        assert info.standard_error[[0, 2]].tolist() == pytest.approx([0, 0], abs=1e-3)

    def test_mirrored_training_states_cost_nothing(self):
        """Where the states beyond a bound are what Reflect.preimage puts there, the weights do not vary."""
        transform = self.bridge("reflect", -1.0, None, 0.3)[0].transform
        uniform = torch.rand(20_000, 1, generator=seeded(2)).double()
        z, log_scale = transform.lift(torch.full((20_000, 1), -0.9), uniform)
        signed = (z - (-1 - 0.4) / 1.5).double()
        weights = torch.special.ndtr(signed / 0.3) * log_scale.exp()[:, None] * 1.5
        torch.testing.assert_close(weights, torch.ones_like(weights), atol=1e-4, rtol=0)
        assert 0.3 < float((signed > 0).float().mean()) < 0.9


@pytest.fixture(scope="module")
def bridge():
    return make_untrained_bridge(3, 2).eval()


class TestShapesAndRandomness:
    Y, X = torch.randn(4, 2, generator=seeded(1)), torch.randn(4, 5, 3, generator=seeded(2))

    def test_one_observation_or_many_one_point_or_many(self, bridge):
        for x, y in ((self.X, self.Y), (self.X[:, 0], self.Y), (self.X[0], self.Y[0]), (self.X[0, 0], self.Y[0])):
            found = bridge.log_prob(x, y, 4, seeded(3))
            assert (found.shape, found.dtype) == (x.shape[:-1], torch.float32)
        one, first = (bridge.log_prob(self.X[at], self.Y[at], 4, seeded(3)) for at in (0, slice(1)))
        torch.testing.assert_close(one, first[0])

    def test_the_generators_alone_decide_and_batch_size_changes_nothing(self, bridge):
        state = torch.random.get_rng_state()
        one, same, other = (bridge.log_prob(self.X, self.Y, 4, seeded(s)) for s in (3, 3, 4))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(one, same)
        assert not torch.allclose(one, other, atol=1e-3)
        for size in (1, 7, 64):
            parts = bridge.log_prob(self.X, self.Y, 4, seeded(3), batch_size=size)
            torch.testing.assert_close(parts, one, rtol=1e-4, atol=1e-4, msg=f"batch_size={size}")
        own = bridge.log_prob(self.X, self.Y, 4, [seeded(i) for i in range(4)])
        torch.testing.assert_close(own[2], bridge.log_prob(self.X[2], self.Y[2], 4, [seeded(2)]))

    def test_mode_gradients_and_counts(self, bridge):
        calls = []
        networks = [bridge.kernel(direction).network for direction in ("backward", "forward")]
        hooks = [network.register_forward_hook(lambda *_: calls.append(1)) for network in networks]
        bridge.train()
        found, info = bridge.log_prob(self.X.clone().requires_grad_(), self.Y, 1, seeded(3), with_info=True)
        assert bridge.training
        bridge.eval()
        for hook in hooks:
            hook.remove()
        assert not found.requires_grad
        assert bool(info.standard_error.isnan().all())  # one weight says nothing of its error
        assert info.seconds > 0
        assert len(calls) == info.forward_evaluations + 1  # one more looks whether the forward kernels were fitted


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("network", [{"name": "mlp", "width": 8, "depth": 1}, {"name": "affine", "steps": 2}])
def test_an_optimiser_step_makes_a_kernel_fitted(covariance, network):
    part = KernelSpec(network, "v", covariance, rank=2, components=3)
    transform = {"name": "identity", "x_shape": [3], "y_shape": [2]}
    kernel = build_bridge(BridgeSpec([1.0, 0.7, 0.3], transform, part, part)).forward_kernel
    x, k, c = torch.randn(8, 3, generator=seeded(1)), torch.ones(8, dtype=torch.long), torch.ones(8, 2)
    assert not is_fitted(kernel, kernel.encode(c[:1]))
    optimizer = torch.optim.Adam(kernel.parameters(), 1e-3)
    kernel(x, k, kernel.encode(c)).nll(x + 1).sum().backward()
    optimizer.step()
    assert is_fitted(kernel, kernel.encode(c[:1]))


@pytest.mark.parametrize("transform", ["pixel_range", "hole"])
def test_clamped_pixels_have_no_density(transform):
    more = {"y_shape": [1, 4, 4]} if transform == "pixel_range" else {"box": [1, 1, 2, 2]}
    part = KernelSpec({"name": "affine", "steps": 2})
    bridge = build_bridge(BridgeSpec([1.0, 0.7, 0.3], {"name": transform, "x_shape": [1, 4, 4], **more}, part, part))
    with pytest.raises(NotImplementedError, match=rf"^transform={transform} gives x no density.*\Z"):
        bridge.log_prob(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(2), torch.zeros(2), {}, "x has shape (2,); expected (3,) or (m, 3) for one observation"),
        (torch.zeros(3), torch.zeros(4, 2), {}, "x has shape (3,); expected (4, 3) or (4, m, 3) for 4 observations"),
        (torch.zeros(0, 3), torch.zeros(2), {}, "x holds no point"),
        (torch.full((3,), math.inf), torch.zeros(2), {}, "x holds NaN or infinite values"),
        (torch.zeros(3), torch.zeros(2), {"n": 0}, "n=0 is not possible; give an integer of at least 1"),
    ],
    ids=str,
)
def test_errors(bridge, x, y, options, message):
    assert one_line(lambda: bridge.log_prob(x, y, **options)).startswith(message)
