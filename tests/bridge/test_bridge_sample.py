"""Bridge.sample and its walks against closed forms, and what it promises about randomness, shapes and errors."""

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.problems.gaussian_ipf import AffineGaussian
from csb.process import Noise, seeded
from tests.conftest import make_untrained_bridge

Y = torch.tensor([[0.0, 0.0], [1.5, -0.7], [-2.0, 1.0]])
N = 40_000


def assert_law(samples, law, y, n=N):
    """Samples (n, 2) have the mean U y + u and the covariance P, within five standard errors."""
    mean, cov = law.U @ y.double() + law.u, law.P
    error = (cov.diagonal() / n).sqrt()
    assert bool(((samples.double().mean(0) - mean).abs() < 5 * error).all())
    scale = torch.outer(cov.diagonal(), cov.diagonal()).sqrt()
    assert bool(((samples.double().T.cov() - cov).abs() < 5 * (2 / n) ** 0.5 * scale).all())


class TestAgainstClosedForms:
    @pytest.mark.parametrize(("kind", "iterations"), [("full", 1), ("full", 6), ("fixed", 3)])
    def test_samples_have_the_law_that_the_recursion_says(self, exact_bridge, kind, iterations):
        exact = exact_bridge(kind, iterations)
        samples = exact.bridge.sample(Y, N, generator=seeded(1)).x
        for x, y in zip(samples, Y):
            assert_law(x, exact.steps[-2].end, y)

    @pytest.mark.parametrize(("kind", "correlated"), [("full", True), ("diagonal", False)])
    def test_a_converged_bridge_samples_the_posterior(self, exact_bridge, kind, correlated):
        exact = exact_bridge(kind, 25, correlated=correlated)
        posterior = AffineGaussian(exact.G, exact.g, exact.C)
        for x, y in zip(exact.bridge.sample(Y, N, generator=seeded(2)).x, Y):
            assert_law(x, posterior, y)

    def test_diagonal_kernels_on_correlated_coordinates(self, exact_bridge):
        exact = exact_bridge("diagonal", 6)
        for x, y in zip(exact.bridge.sample(Y, N, generator=seeded(3)).x, Y):
            assert_law(x, exact.steps[-2].end, y)

    @pytest.mark.parametrize("kind", ["full", "fixed", "diagonal"])
    def test_the_forward_walk_reaches_its_law(self, exact_bridge, kind):
        exact, bridge = exact_bridge(kind, 2), exact_bridge(kind, 2).bridge
        y = Y[1]
        noise = torch.randn(N, 2, generator=seeded(4)).double()
        start = (exact.G @ y.double() + exact.g + noise @ torch.linalg.cholesky(exact.C).T).float()
        with torch.no_grad():
            states = list(
                bridge.walk("forward", start, bridge.contexts("forward", y[None], 10), Noise(seeded(5), 1), 1024)
            )
        assert len(states) == exact.grid.T
        assert_law(states[-1], exact.steps[-1].end, y)

    def test_every_state_on_the_way_has_its_law(self, exact_bridge):
        exact = exact_bridge("full", 2)
        path = exact.bridge.sample(Y, N, generator=seeded(6), trajectory=True).info.trajectory
        law = AffineGaussian(torch.zeros(2, 2).double(), torch.zeros(2).double(), torch.eye(2).double())
        for k in range(exact.grid.T, -1, -1):
            for x, y in zip(path[k], Y):
                assert_law(x, law, y)
            law = exact.steps[-2].kernels[k - 1].push(law)

    def test_refinement_leaves_the_exact_law(self, exact_bridge):
        exact = exact_bridge("full", 25)
        posterior = AffineGaussian(exact.G, exact.g, exact.C)
        found = exact.bridge.sample(Y, N, generator=seeded(7), refine=2)
        assert found.info.forward_evaluations == exact.grid.T * 5
        for x, y in zip(found.x, Y):
            assert_law(x, posterior, y)

    def test_refinement_is_the_forward_and_the_backward_walk(self, exact_bridge):
        exact = exact_bridge("fixed", 1)
        law = exact.steps[0].end
        for kernel in (*exact.steps[1].kernels, *exact.steps[0].kernels[::-1]):
            law = kernel.push(law)
        for x, y in zip(exact.bridge.sample(Y, N, generator=seeded(8), refine=1).x, Y):
            assert_law(x, law, y)
        assert float((law.P - exact.steps[0].end.P).abs().max()) > 0.02

    def test_mean_only_moves_from_mean_to_mean(self, exact_bridge):
        exact = exact_bridge("full", 2)
        found = exact.bridge.sample(Y, 5, generator=seeded(9), mean_only=True, trajectory=True)
        y = Y.repeat_interleave(5, 0).double()
        state = found.info.trajectory[-1].flatten(0, 1).double()
        for kernel in exact.steps[-2].kernels[::-1]:
            state = kernel.mean(state, y)
        torch.testing.assert_close(found.x.flatten(0, 1), state.float(), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def bridge():
    """Untrained weights moved away from zero, states and observations of different sizes and a fitted transform."""
    bridge = make_untrained_bridge(3, 2)
    with torch.no_grad():
        bridge.transform.x_mean += 5
        bridge.transform.x_std *= 2
    return bridge.eval()


@pytest.fixture
def y():
    return torch.randn(4, 2, generator=seeded(1))


class TestRandomness:
    @pytest.mark.parametrize("options", [{}, {"mean_only": True}, {"refine": 1}])
    @pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
    def test_batch_size_changes_nothing(self, bridge, y, options, batch_size):
        one = bridge.sample(y, 5, generator=seeded(2), **options).x
        other = bridge.sample(y, 5, generator=seeded(2), batch_size=batch_size, **options).x
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)

    def test_batch_size_changes_nothing_with_full_covariances(self, exact_bridge):
        bridge = exact_bridge("full").bridge
        one = bridge.sample(Y, 5, generator=seeded(2)).x
        torch.testing.assert_close(one, bridge.sample(Y, 5, generator=seeded(2), batch_size=4).x, rtol=1e-5, atol=1e-5)

    def test_same_seed_same_samples(self, bridge, y):
        one, two, other = (bridge.sample(y, 3, generator=seeded(s)).x for s in (5, 5, 6))
        assert torch.equal(one, two)
        assert not torch.allclose(one, other, atol=1e-2)

    def test_samples_differ_from_each_other(self, bridge, y):
        x = bridge.sample(y[:1], 100, generator=seeded(5)).x[0]
        assert len(x.unique(dim=0)) == 100

    def test_the_global_generator_is_left_alone(self, bridge, y):
        state = torch.random.get_rng_state()
        bridge.sample(y, 3, generator=seeded(5), refine=1)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_without_a_generator_the_global_one_is_used(self, bridge, y):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            one = bridge.sample(y, 3).x
            two = bridge.sample(y, 3).x
            torch.manual_seed(1)
            assert torch.equal(bridge.sample(y, 3).x, one)
        assert not torch.equal(one, two)

    def test_mean_only_is_a_map_of_the_start(self, bridge, y):
        """Two runs share x_T, whatever is drawn after it: the samples agree."""
        generator = seeded(7)
        one = bridge.sample(y, 3, generator=generator, mean_only=True).x
        drawn = seeded(7)
        torch.randn(12, 3, generator=drawn)
        assert torch.equal(generator.get_state(), drawn.get_state())  # x_T and nothing else
        assert torch.equal(one, bridge.sample(y, 3, generator=seeded(7), mean_only=True).x)

    def test_the_initial_weights_are_a_function_of_the_seed(self, bridge):
        spec = BridgeSpec(
            [1.0, 0.5], {"name": "identity", "x_shape": [1], "y_shape": [1]}, KernelSpec({"name": "mlp"}),
            KernelSpec({"name": "mlp"}),
        )  # fmt: skip
        state = torch.random.get_rng_state()
        one, two, other = (build_bridge(spec, seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not all(torch.equal(one[key], other[key]) for key in one)


class TestShapes:
    def test_one_observation_or_many(self, bridge, y):
        assert bridge.sample(y[0], 5, generator=seeded(1)).x.shape == (5, 3)
        assert bridge.sample(y[:1], 5, generator=seeded(1)).x.shape == (1, 5, 3)
        assert bridge.sample(y, 5, generator=seeded(1)).x.shape == (4, 5, 3)
        assert bridge.sample(y[0], generator=seeded(1)).x.shape == (1, 3)
        single, batch = (bridge.sample(v, 5, generator=seeded(1)).x for v in (y[0], y[:1]))
        assert torch.equal(single, batch[0])

    def test_samples_go_with_their_observation(self, exact_bridge):
        # Far apart observations: the samples of each lie around its own posterior mean.
        exact = exact_bridge("full")
        y = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, -10.0]])
        means = exact.bridge.sample(y, 50, generator=seeded(3)).x.mean(1)
        torch.testing.assert_close(means, (y.double() @ exact.steps[-2].end.U.T + exact.g).float(), atol=1.0, rtol=0)

    def test_trajectory(self, bridge, y):
        found = bridge.sample(y, 5, generator=seeded(1), trajectory=True)
        path = found.info.trajectory
        assert path.shape == (4, 4, 5, 3)  # T + 1, B, n, z
        torch.testing.assert_close(found.x, bridge.transform.x_mean + bridge.transform.x_std * path[0])
        start = torch.randn(20, 3, generator=seeded(1))
        assert torch.equal(path[-1].flatten(0, 1), start)
        assert torch.equal(bridge.sample(y, 5, generator=seeded(1)).x, found.x)

    def test_trajectory_of_a_refined_sample_is_the_last_pass(self, bridge, y):
        found = bridge.sample(y, 2, generator=seeded(1), trajectory=True, refine=2)
        assert found.info.trajectory.shape == (4, 4, 2, 3)
        torch.testing.assert_close(found.x, bridge.transform.decode(found.info.trajectory[0], y))

    def test_info(self, bridge, y):
        info = bridge.sample(y, 2, generator=seeded(1)).info
        assert (info.forward_evaluations, info.backward_evaluations) == (3, 0)
        assert info.trajectory is None
        assert info.seconds > 0
        assert bridge.sample(y, 2, generator=seeded(1), refine=3).info.forward_evaluations == 21

    @pytest.mark.parametrize("refine", [0, 2])
    def test_the_count_of_evaluations_is_true(self, bridge, y, refine):
        calls = []
        hooks = [
            bridge.kernel(d).network.register_forward_hook(lambda *_: calls.append(1)) for d in ("backward", "forward")
        ]
        info = bridge.sample(y, 2, generator=seeded(1), refine=refine).info
        for hook in hooks:
            hook.remove()
        assert info.forward_evaluations == len(calls)

    def test_mode_and_gradients(self, bridge, y):
        bridge.train()
        found = bridge.sample(y, 2, generator=seeded(1))
        assert bridge.training
        assert not found.x.requires_grad
        bridge.eval()
        bridge.sample(y, 2, generator=seeded(1))
        assert not bridge.training
        assert found.x.dtype == torch.float32

    def test_double_observations(self, bridge, y):
        one, two = (bridge.sample(v, 2, generator=seeded(1)).x for v in (y, y.double()))
        assert torch.equal(one, two)


def test_bf16_samples_are_near_those_of_full_precision(bridge, y):
    one = bridge.sample(y, 200, generator=seeded(1)).x
    try:
        bridge.precision = "bf16-mixed"
        two = bridge.sample(y, 200, generator=seeded(1)).x
    finally:
        bridge.precision = "32-true"
    assert two.dtype == torch.float32
    assert not torch.equal(one, two)
    assert float((one - two).abs().mean()) < 0.02 * float(one.std())
