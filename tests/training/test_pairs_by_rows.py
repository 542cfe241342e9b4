"""Pairs that are read by rows give the batches of pairs in memory, bit for bit; caches on the disk and at half."""

import math

import numpy as np
import pytest
import torch

from csb.bridge.objectives import BridgeMatching, Likelihood, MeanMatching
from csb.problems import FilePairs
from csb.process import Grid, Power, seeded
from csb.training.half_step import Batches, Draw
from csb.training.pairs import EncodedPairs, bytes_per_trajectory, capacity, encoded, fill
from csb.training.regression import example_batches, flow_path
from csb.training.settings import DTYPES, HalfStep
from tests.conftest import make_exact_bridge

GRID = Grid.from_schedule(Power(0.2, 2.0), 3)
FIRST, BACKWARD = HalfStep(0, 1, "backward", 50), HalfStep(2, 2, "backward", 50)


@pytest.fixture(params=[{}, {"low": -3.0}, {"low": -3.0, "high": 3.0, "transform": "probit"}], ids=str)
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
        assert same(one.to_train_on(indices, seeded(2)), two.to_train_on(indices, seeded(2)))
        assert torch.equal(one.conditions(indices), two.conditions(indices))
        assert same(one.head(10), two.plain(torch.arange(10)))

    def test_batches(self, both):
        lists = [list(Batches(Draw(GRID, Likelihood(), 64, 2, 0), FIRST, p, None, (0, 4))) for p in both]
        for a, b in zip(*lists, strict=True):
            assert same((a.x, a.k, a.c, a.target.mean), (b.x, b.k, b.c, b.target.mean))

    def test_examples(self, both):
        lists = [list(example_batches(p, flow_path, 64, 0, (0, 4))) for p in both]
        for a, b in zip(*lists, strict=True):
            assert same(a[:4], b[:4])

    @pytest.mark.parametrize("source", ["forward", "backward"])
    def test_caches(self, both, source):
        exact = make_exact_bridge("full", 1)
        wide = [widened(p) for p in both]
        a, b = (fill(exact.bridge, source, Likelihood(), p, 300, (0, 1, 0, 0)) for p in wide)
        assert torch.equal(a.states, b.states)


def widened(pairs):
    """The pairs with observations of two numbers, for a bridge of two."""
    z, c = pairs.to_train_on(torch.arange(len(pairs)), seeded(0))
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

    @pytest.mark.parametrize("name", ["float16", "bfloat16"])
    @pytest.mark.parametrize("source", ["forward", "backward"])
    def test_fits_differ_by_rounding_alone(self, name, source):
        """Least squares on the cached states, which is the optimum of the likelihood for Gaussians.

        Rounding to p bits moves v by at most u |v|, u = 2^−p, with errors of mean square ≤ u² v²/3 that are as good as
        independent of everything. In first order they change a fit by their correlation with it in the sample, u/√N;
        in second order they add u² v²/3 to the variance of a target, and, by the slope, to that of a regressor.
        """
        n, unit = 20_000, torch.finfo(DTYPES[name]).eps / 2
        one, two = (filled(Likelihood(), n, dtype, source, n) for dtype in (torch.float32, DTYPES[name]))
        assert not torch.equal(one.states, two.states.float())
        torch.testing.assert_close(two.states.float(), one.states, rtol=unit, atol=1e-6)
        c = conditions(n)[one.owner]
        worst = 0.0
        for k in range(1, 5):
            before, after = (k - 1, k) if source == "forward" else (k, k - 1)
            a, b = (least_squares(cache.states[before], cache.states[after], c) for cache in (one, two))
            size = float(one.states[[before, after]].square().mean(1).max())  # E v² of the largest coordinate
            spread, slope = float(a.cov.diagonal().max()), float(a.slopes.norm())
            first = 8 * unit * math.sqrt(size * spread / n) * (1 + slope)
            second = unit**2 / 3 * size * (1 + slope**2)
            gap = float((a.cov - b.cov).abs().max())
            assert gap < 2 * math.sqrt(spread) * first + 2 * second
            worst = max(worst, gap / float(a.cov.diagonal().min()))
            inverse = float(a.inverse.diagonal().max())  # of the regressors' covariance
            assert float((a.slopes - b.slopes).abs().max()) < math.sqrt(inverse) * first + 2 * inverse * second
        known = math.sqrt(2 / 50_000)  # to which a variance is known from a cache of the default size
        assert worst < known * {"float16": 0.02, "bfloat16": 0.2}[name]


class Fit:
    def __init__(self, slopes, cov, inverse):
        self.slopes, self.cov, self.inverse = slopes, cov, inverse


def least_squares(inputs, targets, c):
    """The regression of targets (N, 2) on inputs, c and 1."""
    X = torch.cat([inputs, c, torch.ones(len(c), 1)], 1).double()
    targets = targets.double()
    inverse = torch.linalg.inv(X.T @ X / len(X))
    slopes = inverse @ (X.T @ targets / len(X))
    return Fit(slopes, (targets - X @ slopes).T.cov(), inverse)
