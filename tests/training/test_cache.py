"""The trajectory cache: a function of its seed, within its budget, and of the laws that the kernels say."""

import pytest
import torch

from csb.bridge.objectives import BridgeMatching, Likelihood, MeanMatching
from csb.errors import CSBError
from csb.problems.gaussian_ipf import AffineGaussian
from csb.process import seeded
from csb.training.pairs import EncodedPairs, bytes_per_trajectory, capacity, fill

N = 60_000


def pairs_of(exact, n=N):
    """Pairs (z, c) with z | c ~ N(G c + g, C)."""
    c = 1.2 * torch.randn(n, 2, generator=seeded(1)) + 0.3
    noise = torch.randn(n, 2, generator=seeded(2)).double() @ torch.linalg.cholesky(exact.C).T
    return (c.double() @ exact.G.T + exact.g + noise).float(), c


def filled(exact, source="forward", objective=None, size=200, seed=(0, 1, 0, 0), n=500, **options):
    return fill(
        exact.bridge, source, objective or Likelihood(), EncodedPairs.of(*pairs_of(exact, n)), size, seed, **options
    )


def assert_law(states, c, law):
    """States (n, 2) regressed on their observations have the mean map U c + u and the covariance P."""
    X = torch.cat([c, torch.ones(len(c), 1)], dim=1).double()
    w = torch.linalg.lstsq(X, states.double()).solution
    cov = (states.double() - X @ w).T.cov()
    error = 5 * (law.P.diagonal().max() * torch.linalg.inv(X.T @ X).diagonal().max()).sqrt()
    expected = torch.cat([law.U, law.u[:, None]], dim=1).T
    assert float((w - expected).abs().max()) < float(error)
    assert float((cov - law.P).abs().max()) < 5 * (2 / len(c)) ** 0.5 * float(law.P.max())


class TestLaws:
    @pytest.mark.parametrize("kind", ["full", "fixed", "diagonal"])
    def test_forward_trajectories_start_at_the_data(self, exact_bridge, kind):
        exact = exact_bridge(kind, 1)
        z, c = pairs_of(exact)
        cache = fill(exact.bridge, "forward", Likelihood(), EncodedPairs.of(z, c), N, (0, 1, 0, 0))
        assert torch.equal(cache.states[0], z[cache.owner])
        law = AffineGaussian(exact.G, exact.g, exact.C)
        for k, kernel in enumerate(exact.steps[1].kernels, start=1):
            law = kernel.push(law)
            assert_law(cache.states[k], c[cache.owner], law)

    @pytest.mark.parametrize("kind", ["full", "fixed", "diagonal"])
    def test_backward_trajectories_start_at_the_noise(self, exact_bridge, kind):
        exact = exact_bridge(kind, 1)
        z, c = pairs_of(exact)
        cache = fill(exact.bridge, "backward", Likelihood(), EncodedPairs.of(z, c), N, (0, 1, 0, 0))
        law = AffineGaussian(torch.zeros(2, 2).double(), torch.zeros(2).double(), torch.eye(2).double())
        assert_law(cache.states[-1], c[cache.owner], law)
        for k in range(exact.grid.T, 0, -1):
            law = exact.steps[0].kernels[k - 1].push(law)
            assert_law(cache.states[k - 1], c[cache.owner], law)

    def test_steps_of_a_trajectory_belong_together(self, exact_bridge):
        """The joint law of neighbours: what is left of x_k after its kernel's mean has the kernel's covariance."""
        exact = exact_bridge("full", 1)
        z, c = pairs_of(exact)
        for source, half in (("forward", 1), ("backward", 0)):
            cache = fill(exact.bridge, source, Likelihood(), EncodedPairs.of(z, c), N, (0, 1, 0, 0))
            for k, kernel in enumerate(exact.steps[half].kernels, start=1):
                before, after = (k - 1, k) if source == "forward" else (k, k - 1)
                rest = cache.states[after] - kernel.mean(cache.states[before], c[cache.owner])
                error = 5 * (2 / N) ** 0.5 * float(kernel.S.max())
                torch.testing.assert_close(rest.double().T.cov(), kernel.S, atol=error, rtol=0)
                assert float(rest.mean(0).abs().max()) < 5 * float(kernel.S.max() / N) ** 0.5


class TestMeanTargets:
    @pytest.mark.parametrize(("source", "half"), [("forward", 1), ("backward", 0)])
    def test_formula_at_every_step(self, exact_bridge, source, half):
        exact = exact_bridge("fixed", 1)
        cache = filled(exact, source, MeanMatching())
        c = pairs_of(exact, 500)[1][cache.owner]
        assert cache.targets.shape == (exact.grid.T, 200, 2)
        for k, kernel in enumerate(exact.steps[half].kernels, start=1):
            start, end = (k - 1, k) if source == "forward" else (k, k - 1)
            start, end = cache.states[start], cache.states[end]
            expected = end + kernel.mean(start, c) - kernel.mean(end, c)
            torch.testing.assert_close(cache.targets[k - 1], expected, rtol=1e-4, atol=1e-5)

    def test_likelihood_stores_none(self, exact_bridge):
        exact = exact_bridge("fixed", 1)
        one, two = filled(exact, objective=Likelihood()), filled(exact, objective=MeanMatching())
        assert one.targets is None
        assert torch.equal(one.states, two.states)


class TestEnds:
    @pytest.mark.parametrize("source", ["forward", "backward"])
    def test_are_those_of_the_whole_trajectory(self, exact_bridge, source):
        exact = exact_bridge("full", 1)
        whole, ends = filled(exact, source), filled(exact, source, BridgeMatching())
        assert ends.targets is None
        assert torch.equal(ends.states, whole.states[[0, -1]])
        assert torch.equal(ends.owner, whole.owner)


class TestIsAFunctionOfItsSeed:
    @pytest.mark.parametrize("source", ["forward", "backward"])
    def test_twice_the_same(self, exact_bridge, source):
        exact = exact_bridge("full", 1)
        state = torch.random.get_rng_state()
        one = filled(exact, source)
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.rand(3)
        two = filled(exact, source)
        assert torch.equal(one.states, two.states)
        assert torch.equal(one.owner, two.owner)

    @pytest.mark.parametrize("seed", [(1, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1)])
    def test_each_part_of_it_counts(self, exact_bridge, seed):
        exact = exact_bridge("full", 1)
        for source in ("forward", "backward"):
            one, two = filled(exact, source), filled(exact, source, seed=seed)
            assert not torch.equal(one.owner, two.owner)
            assert float((one.states[2] - two.states[2]).abs().mean()) > 0.05

    def test_pairs_are_drawn_evenly(self, exact_bridge):
        owner = filled(exact_bridge("full", 1), size=20_000, n=10).owner
        assert float((torch.bincount(owner, minlength=10) / 20_000 - 0.1).abs().max()) < 0.012

    @pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 3000])
    def test_sizes_that_do_and_do_not_fill_chunks(self, exact_bridge, size):
        exact = exact_bridge("full", 1)
        cache = filled(exact, size=size)
        assert cache.states.shape == (exact.grid.T + 1, size, 2)
        assert bool(torch.isfinite(cache.states).all())
        assert cache.owner.shape == (size,)

    def test_needs_no_gradients(self, exact_bridge):
        assert not filled(exact_bridge("full", 1)).states.requires_grad


class TestBudget:
    @pytest.mark.parametrize("objective", [Likelihood(), MeanMatching(), BridgeMatching()])
    def test_bytes_are_what_is_said(self, exact_bridge, objective):
        cache = filled(exact_bridge("fixed", 1), objective=objective, size=37)
        held = [t for t in (cache.states, cache.targets, cache.owner) if t is not None]
        assert sum(t.nbytes for t in held) == 37 * bytes_per_trajectory((2,), 4, objective)
        states = {"states": 5, "targets": 9, "ends": 2}[objective.caches]
        assert bytes_per_trajectory((2,), 4, objective) == 4 * 2 * states + 8

    @pytest.mark.parametrize("budget", [48, 95, 10_000, 10**9])
    def test_capacity_is_the_most_that_fits(self, budget):
        size = capacity(bytes_per_trajectory((2,), 4, Likelihood()), 1000, budget)
        each = bytes_per_trajectory((2,), 4, Likelihood())
        assert each == 48
        assert size * each <= budget
        assert size == 1000 or (size + 1) * each > budget

    def test_too_small_for_one(self):
        with pytest.raises(
            CSBError, match=r"^training.cache_bytes=47 cannot hold one trajectory of 48 bytes; raise it$"
        ):
            capacity(48, 1000, 47)
