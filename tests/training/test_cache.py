"""Pairs in memory and on disk, and the trajectory cache: a function of its seed, of the laws that the kernels say."""

import numpy as np
import pytest
import torch

from csb.bridge.objectives import BridgeMatching, Likelihood, MeanMatching
from csb.errors import CSBError
from csb.problems import FilePairs
from csb.problems.gaussian_ipf import AffineGaussian
from csb.problems.transform import Identity
from csb.process import Grid, Power, seeded
from csb.training.half_step import Batches, Draw
from csb.training.pairs import EncodedPairs, bytes_per_trajectory, capacity, encoded, fill
from csb.training.regression import example_batches, flow_path
from csb.training.settings import DTYPES, HalfStep
from tests.conftest import make_exact_bridge

N = 60_000
OBJECTIVES = [Likelihood(), MeanMatching(), BridgeMatching()]
SEED = (0, 1, 0, 0)


def pairs_of(exact, n=500):
    """Pairs (z, c) with z | c ~ N(G c + g, C)."""
    c = 1.2 * torch.randn(n, 2, generator=seeded(1)) + 0.3
    noise = torch.randn(n, 2, generator=seeded(2)).double() @ torch.linalg.cholesky(exact.C).T
    return (c.double() @ exact.G.T + exact.g + noise).float(), c


@pytest.fixture(scope="module")
def exact():
    return make_exact_bridge("fixed", 1)


def filled(exact, source="forward", objective=OBJECTIVES[0], size=200, seed=SEED, n=500, **options):
    return fill(exact.bridge, source, objective, EncodedPairs.of(*pairs_of(exact, n)), size, seed, **options)


def assert_law(states, c, law):
    """States (n, 2) regressed on their observations have the mean map U c + u and the covariance P."""
    X = torch.cat([c, torch.ones(len(c), 1)], dim=1).double()
    w = torch.linalg.lstsq(X, states.double()).solution
    cov = (states.double() - X @ w).T.cov()
    error = 5 * (law.P.diagonal().max() * torch.linalg.inv(X.T @ X).diagonal().max()).sqrt()
    assert float((w - torch.cat([law.U, law.u[:, None]], dim=1).T).abs().max()) < float(error)
    assert float((cov - law.P).abs().max()) < 5 * (2 / len(c)) ** 0.5 * float(law.P.max())


@pytest.mark.parametrize("kind", ["full", "fixed", "diagonal"])
@pytest.mark.parametrize("source", ["forward", "backward"])
def test_trajectories_have_the_laws_of_the_kernels(kind, source):
    """From the data, or the noise, on; and jointly: what is left of a step's mean has its covariance."""
    exact = make_exact_bridge(kind, 1)
    T, (z, c) = exact.grid.T, pairs_of(exact, N)
    cache = fill(exact.bridge, source, Likelihood(), EncodedPairs.of(z, c), N, SEED)
    law, steps = AffineGaussian(exact.G, exact.g, exact.C), [(k, k - 1, k) for k in range(1, T + 1)]
    if source == "backward":
        zero = torch.zeros(2, 2).double()
        law, steps = AffineGaussian(zero, zero[0], torch.eye(2).double()), [(k, k, k - 1) for k in range(T, 0, -1)]
        assert_law(cache.states[-1], c[cache.owner], law)
    else:
        assert torch.equal(cache.states[0], z[cache.owner])
    for k, before, after in steps:
        kernel = exact.steps[1 if source == "forward" else 0].kernels[k - 1]
        law = kernel.push(law)
        assert_law(cache.states[after], c[cache.owner], law)
        rest = cache.states[after] - kernel.mean(cache.states[before], c[cache.owner])
        error = 5 * (2 / N) ** 0.5 * float(kernel.S.max())
        torch.testing.assert_close(rest.double().T.cov(), kernel.S, atol=error, rtol=0)
        assert float(rest.mean(0).abs().max()) < 5 * float(kernel.S.max() / N) ** 0.5


@pytest.mark.parametrize("source", ["forward", "backward"])
def test_what_is_kept_of_a_trajectory(exact, source):
    whole, means, ends = (filled(exact, source, objective) for objective in OBJECTIVES)
    assert whole.targets is ends.targets is None
    assert torch.equal(means.states, whole.states)
    assert torch.equal(ends.states, whole.states[[0, -1]])
    assert torch.equal(ends.owner, whole.owner)
    c, half = pairs_of(exact)[1][means.owner], 1 if source == "forward" else 0
    assert means.targets.shape == (exact.grid.T, 200, 2)
    for k, kernel in enumerate(exact.steps[half].kernels, start=1):
        start, end = (means.states[at] for at in ((k - 1, k) if source == "forward" else (k, k - 1)))
        expected = end + kernel.mean(start, c) - kernel.mean(end, c)
        torch.testing.assert_close(means.targets[k - 1], expected, rtol=1e-4, atol=1e-5)


class TestACacheIsAFunctionOfItsSeed:
    @pytest.mark.parametrize("source", ["forward", "backward"])
    def test_and_every_part_of_it_counts(self, exact, source):
        state = torch.random.get_rng_state()
        one, two = filled(exact, source), filled(exact, source)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(one.states, two.states)
        assert torch.equal(one.owner, two.owner)
        for seed in ((1, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1)):
            other = filled(exact, source, seed=seed)
            assert not torch.equal(one.owner, other.owner), seed
            assert float((one.states[2] - other.states[2]).abs().mean()) > 0.05, seed

    def test_pairs_are_drawn_evenly(self, exact):
        owner = filled(exact, size=20_000, n=10).owner
        assert float((torch.bincount(owner, minlength=10) / 20_000 - 0.1).abs().max()) < 0.012

    @pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 3000])
    def test_sizes_that_do_and_do_not_fill_chunks(self, exact, size):
        cache = filled(exact, size=size)
        assert cache.states.shape == (exact.grid.T + 1, size, 2)
        assert bool(torch.isfinite(cache.states).all())
        assert cache.owner.shape == (size,)
        assert not cache.states.requires_grad


class TestBudget:
    @pytest.mark.parametrize("name", DTYPES)
    @pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.caches)
    def test_bytes_are_what_is_said_and_states_those_of_float32_rounded(self, exact, objective, name):
        cache = filled(exact, objective=objective, size=37, dtype=DTYPES[name])
        each = bytes_per_trajectory(Identity((2,), (2,)), 4, objective, 0.0, DTYPES[name])
        assert sum(tensor.nbytes for tensor in cache.tensors) == 37 * each
        kept = {"states": 5, "targets": 9, "ends": 2}[objective.caches]
        assert each == (4 if name == "float32" else 2) * 2 * kept + 8
        assert capacity(each, 10**9, 37 * each) == 37
        assert torch.equal(cache.states, filled(exact, objective=objective, size=37).states.to(DTYPES[name]))

    @pytest.mark.parametrize(("budget", "size"), [(48, 1), (95, 1), (10_000, 208), (10**9, 1000)])
    def test_capacity_is_the_most_that_fits(self, budget, size):
        assert capacity(48, 1000, budget) == size

    def test_too_small_for_one(self):
        with pytest.raises(CSBError, match=r"^training.cache_bytes=47 cannot hold one trajectory of 48 bytes; raise"):
            capacity(48, 1000, 47)


@pytest.mark.parametrize("options", [{}, {"low": -3.0}, {"low": -3.0, "high": 3.0, "transform": "probit"}], ids=str)
def test_pairs_that_are_read_by_rows_are_those_in_memory_bit_for_bit(options, tmp_path, exact):
    """Of an .npz file and of .npy files; so are all that is made of them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 2)).clip(-3, 3), rng.normal(size=(2000, 2))
    np.savez(tmp_path / "p.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    sources = {"path": f"{tmp_path}/p.npz"}, {"path": None, "x": f"{tmp_path}/x.npy", "y": f"{tmp_path}/y.npy"}
    problems = [FilePairs(**source, **options) for source in sources]
    both = [encoded(p.make_transform(p.rows("train")), p.rows("train")) for p in problems]
    assert [(of.in_memory, len(of), of.z_shape) for of in both] == [(True, 1600, (2,)), (False, 1600, (2,))]
    indices, grid = torch.randint(1600, (333,), generator=seeded(1)), Grid.from_schedule(Power(0.2, 2.0), 3)

    def made(pairs):
        yield from (
            *pairs.plain(indices),
            *pairs.to_train_on(indices, seeded(2)),
            pairs.conditions(indices),
            *pairs.head(10),
        )
        for batch in Batches(Draw(grid, Likelihood(), 64, 2, 0), HalfStep(0, 1, "backward", 50), pairs, None, (0, 4)):
            yield from (batch.x, batch.k, batch.c, batch.target.mean)
        for batch in example_batches(pairs, flow_path, 64, 0, (0, 4)):
            yield from batch[:4]
        for source in ("forward", "backward"):
            yield fill(exact.bridge, source, Likelihood(), pairs, 300, SEED).states

    assert all(torch.equal(one, two) for one, two in zip(*map(made, both), strict=True))
    assert torch.equal(both[0].head(10)[0], both[1].plain(torch.arange(10))[0])
