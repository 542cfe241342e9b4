"""Bridge.sample and its walks against closed forms, batches, paths and counts (see tests/samplers/test_protocol.py)."""

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.kernel import COVARIANCES
from csb.problems.gaussian_ipf import AffineGaussian
from csb.process import Noise, seeded
from tests.conftest import make_exact_bridge, make_untrained_bridge

Y = torch.tensor([[0.0, 0.0], [1.5, -0.7], [-2.0, 1.0]])
N = 40_000


def assert_law(samples, law, y, n=N):
    """Samples (n, 2) have the mean U y + u and the covariance P, within five standard errors."""
    mean, cov = law.U @ y.double() + law.u, law.P
    error = (cov.diagonal() / n).sqrt()
    assert bool(((samples.double().mean(0) - mean).abs() < 5 * error).all())
    scale = torch.outer(cov.diagonal(), cov.diagonal()).sqrt()
    assert bool(((samples.double().T.cov() - cov).abs() < 5 * (2 / n) ** 0.5 * scale).all())


def assert_laws(samples, law):
    """The same of samples (3, n, 2) at each of Y."""
    for x, y in zip(samples, Y, strict=True):
        assert_law(x, law, y)


class TestAgainstClosedForms:
    @pytest.mark.parametrize(
        ("kind", "iterations"), [("full", 1), ("full", 6), ("full", 25), ("fixed", 3), ("diagonal", 6), ("low_rank", 8)]
    )
    def test_every_state_has_the_law_that_the_recursion_says(self, kind, iterations):
        exact = make_exact_bridge(kind, iterations)
        found = exact.bridge.sample(Y, N, generator=seeded(6), trajectory=True)
        law = AffineGaussian(torch.zeros(2, 2).double(), torch.zeros(2).double(), torch.eye(2).double())
        for k in range(exact.grid.T, 0, -1):
            assert_laws(found.info.trajectory[k], law)
            law = exact.steps[-2].kernels[k - 1].push(law)
        assert_laws(found.x, law)
        if iterations == 25:
            assert_laws(found.x, AffineGaussian(exact.G, exact.g, exact.C))

    @pytest.mark.parametrize("kind", ["full", "fixed", "diagonal"])
    def test_the_forward_walk_reaches_its_law(self, exact_bridge, kind):
        exact, y = exact_bridge(kind, 2), Y[1]
        noise = torch.randn(N, 2, generator=seeded(4)).double()
        start = (exact.G @ y.double() + exact.g + noise @ torch.linalg.cholesky(exact.C).T).float()
        with torch.no_grad():
            contexts = exact.bridge.contexts("forward", y[None], 10)
            states = list(exact.bridge.walk("forward", start, contexts, Noise(seeded(5), 1), 1024))
        assert len(states) == exact.grid.T
        assert_law(states[-1], exact.steps[-1].end, y)

    @pytest.mark.parametrize("rounds", [1, 2])
    def test_refinement_is_the_forward_and_the_backward_walk(self, exact_bridge, rounds):
        exact = exact_bridge("fixed", 1)
        law = exact.steps[0].end
        for kernel in (*exact.steps[1].kernels, *exact.steps[0].kernels[::-1]) * rounds:
            law = kernel.push(law)
        found = exact.bridge.sample(Y, N, generator=seeded(8), refine=rounds)
        assert found.info.forward_evaluations == exact.grid.T * (1 + 2 * rounds)
        assert_laws(found.x, law)
        assert float((law.P - exact.steps[0].end.P).abs().max()) > 0.02

    def test_mean_only_moves_from_mean_to_mean(self, exact_bridge):
        exact, generator, start = exact_bridge("full", 2), seeded(9), seeded(9)
        found = exact.bridge.sample(Y, 5, generator=generator, mean_only=True, trajectory=True)
        state, y = torch.randn(15, 2, generator=start), Y.repeat_interleave(5, 0).double()
        assert torch.equal(found.info.trajectory[-1].flatten(0, 1), state)
        assert torch.equal(generator.get_state(), start.get_state())  # x_T is drawn and nothing else
        for kernel in exact.steps[-2].kernels[::-1]:
            state = kernel.mean(state.double(), y)
        torch.testing.assert_close(found.x.flatten(0, 1), state.float(), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def bridge():
    """Untrained weights moved away from zero, states and observations of different sizes and a fitted transform."""
    bridge = make_untrained_bridge(3, 2)
    with torch.no_grad():
        bridge.transform.x_mean += 5
        bridge.transform.x_std *= 2
    return bridge.eval()


FOUR = torch.randn(4, 2, generator=seeded(1))  # observations


@pytest.mark.parametrize("options", [{}, {"mean_only": True}, {"refine": 1}], ids=str)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_batch_size_changes_nothing(covariance, options):
    bridge = make_untrained_bridge(3, 2, covariance)
    whole, *parts = (bridge.sample(FOUR, 5, generator=seeded(2), batch_size=b, **options).x for b in (20, 1, 3, 7))
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)


def test_the_initial_weights_are_a_function_of_the_seed():
    part, transform = KernelSpec({"name": "mlp"}), {"name": "identity", "x_shape": [1], "y_shape": [1]}
    state = torch.random.get_rng_state()
    one, two, other = (build_bridge(BridgeSpec([1.0, 0.5], transform, part, part), s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("refine", [0, 2])
def test_the_trajectory_is_that_of_the_last_pass(bridge, refine):
    found = bridge.sample(FOUR, 5, generator=seeded(1), trajectory=True, refine=refine)
    path = found.info.trajectory
    assert path.shape == (4, 4, 5, 3)  # T + 1, B, n, z
    torch.testing.assert_close(found.x, bridge.transform.x_mean + bridge.transform.x_std * path[0])
    start = torch.randn(20, 3, generator=seeded(1))
    assert torch.equal(path[-1].flatten(0, 1), start) is (refine == 0)
    plain = bridge.sample(FOUR, 5, generator=seeded(1), refine=refine)
    assert torch.equal(plain.x, found.x)
    assert plain.info.trajectory is None


@pytest.mark.parametrize("training", [False, True])
def test_evaluations_mode_and_gradients(bridge, training):
    calls = []
    networks = [bridge.kernel(direction).network for direction in ("backward", "forward")]
    hooks = [network.register_forward_hook(lambda *_: calls.append(1)) for network in networks]
    bridge.train(training)
    found = bridge.sample(FOUR, 2, generator=seeded(1), refine=3)
    assert bridge.training is training
    bridge.eval()
    for hook in hooks:
        hook.remove()
    assert found.info.forward_evaluations == len(calls) == 21
    assert found.info.backward_evaluations == 0
    assert found.info.seconds > 0
    assert not found.x.requires_grad


def test_bf16_samples_are_near_those_of_full_precision(bridge, monkeypatch):
    one = bridge.sample(FOUR, 200, generator=seeded(1)).x
    monkeypatch.setattr(bridge, "precision", "bf16-mixed")
    two = bridge.sample(FOUR, 200, generator=seeded(1)).x
    assert two.dtype == torch.float32
    assert not torch.equal(one, two)
    assert float((one - two).abs().mean()) < 0.02 * float(one.std())
