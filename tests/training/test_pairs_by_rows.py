"""Pairs that are read by rows give the batches of pairs in memory, bit for bit; caches on the disk and at half."""

import numpy as np
import pytest
import torch
from conftest import make_exact_bridge

from csb.bridge.objectives import BridgeMatching, Likelihood, MeanMatching
from csb.problems import FilePairs
from csb.process import Grid, Power, seeded
from csb.training.batches import Batches, Draw
from csb.training.pairs import EncodedPairs, bytes_per_trajectory, capacity, encoded, fill
from csb.training.settings import DTYPES, HalfStep

GRID = Grid.from_schedule(Power(0.2, 2.0), 3)
FIRST = HalfStep(0, 1, "backward", 50)


@pytest.fixture(params=[{}, {"low": -3.0}], ids=str)
def both(request, tmp_path):
    """Encoded pairs of one problem from an .npz file and from .npy files."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 2)).clip(-3, 3), rng.normal(size=(2000, 1))
    np.savez(tmp_path / "p.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    problems = (
        FilePairs(str(tmp_path / "p.npz"), **request.param),
        FilePairs(None, x=str(tmp_path / "x.npy"), y=str(tmp_path / "y.npy"), **request.param),
    )
    found = [encoded(p.make_transform(p.rows("train")), p.rows("train")) for p in problems]
    assert [one.in_memory for one in found] == [True, False]
    return found


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class TestBothKindsOfPairs:
    def test_rows(self, both):
        one, two = both
        assert len(one) == len(two) == 1600
        assert one.z_shape == two.z_shape == (2,)
        indices = torch.randint(1600, (333,), generator=seeded(1))
        assert same(one.plain(indices), two.plain(indices))
        assert same(one.rows(indices, seeded(2)), two.rows(indices, seeded(2)))
        assert torch.equal(one.conditions(indices), two.conditions(indices))
        assert same(one.head(10), two.plain(torch.arange(10)))

    def test_batches(self, both):
        lists = [list(Batches(Draw(GRID, Likelihood(), 64, 2, 0), FIRST, p, None, (0, 4))) for p in both]
        for a, b in zip(*lists, strict=True):
            assert same((a.x, a.k, a.c, a.target.mean), (b.x, b.k, b.c, b.target.mean))

    @pytest.mark.parametrize("source", ["forward", "backward"])
    def test_caches(self, both, source):
        exact = make_exact_bridge("full", 1)
        wide = [widened(p) for p in both]
        a, b = (fill(exact.bridge, source, Likelihood(), p, 300, (0, 1, 0, 0)) for p in wide)
        assert torch.equal(a.states, b.states)


def widened(pairs):
    """The pairs with observations of two numbers, for a bridge of two."""
    z, c = pairs.rows(torch.arange(len(pairs)), seeded(0))
    return EncodedPairs.of(z, c.repeat(1, 2))


def conditions(n):
    return torch.randn(n, 2, generator=seeded(1))


def filled(objective, size=500, dtype=torch.float32, source="forward", n=400):
    exact, c = make_exact_bridge("full", 1), conditions(n)
    z = c + 1 + 0.5 * torch.randn(n, 2, generator=seeded(2))
    return fill(exact.bridge, source, objective, EncodedPairs.of(z, c), size, (0, 1, 0, 0), dtype)


OBJECTIVES = [Likelihood(), MeanMatching(), BridgeMatching()]


class TestHalfPrecision:
    @pytest.mark.parametrize("name", ["float16", "bfloat16"])
    def test_states_are_those_of_float32_rounded(self, name):
        one, two = filled(Likelihood()), filled(Likelihood(), dtype=DTYPES[name])
        assert two.states.dtype == DTYPES[name]
        assert torch.equal(two.states, one.states.to(DTYPES[name]))

    @pytest.mark.parametrize("name", ["float16", "bfloat16"])
    @pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.caches)
    def test_bytes_are_what_is_said(self, name, objective):
        cache = filled(objective, size=37, dtype=DTYPES[name])
        held = sum(t.nbytes for t in (cache.states, cache.targets, cache.owner) if t is not None)
        assert held == 37 * bytes_per_trajectory((2,), 4, objective, DTYPES[name])
        assert 2 * (held - 37 * 8) == 37 * (bytes_per_trajectory((2,), 4, objective) - 8)
        assert capacity(bytes_per_trajectory((2,), 4, objective, DTYPES[name]), 10**9, held) == 37
