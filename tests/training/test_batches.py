"""Batches: a function of (seed, half-step, step), even over the steps, with the right states, targets and pairs."""

import pytest
import torch

from csb.bridge.objectives import BridgeMatching, Likelihood, MeanMatching, Target
from csb.process import Grid, Power, Reference, seeded
from csb.training.half_step import Batches, Draw
from csb.training.pairs import Cache, EncodedPairs
from csb.training.settings import HalfStep

GRID = Grid.from_schedule(Power(0.2, 2.0), 3)
FIRST, BACKWARD, FORWARD = HalfStep(0, 1, "backward", 50), HalfStep(2, 2, "backward", 50), HalfStep(1, 1, "forward", 50)


def numbered(n=40):
    """Pairs whose numbers can be read off: z = (i, i + .5), c = (i,)."""
    i = torch.arange(n).float()[:, None]
    return torch.cat([i, i + 0.5], 1), i


def numbered_cache(size=30, targets=False):
    """State k of trajectory n is (k, n); its target (step k at index k − 1) is (100 + k, n); pair 39 − n owns it."""
    k, n = torch.meshgrid(torch.arange(4.0), torch.arange(float(size)), indexing="ij")
    states = torch.stack([k, n], dim=2)
    wanted = states[1:] + torch.tensor([100.0, 0.0]) if targets else None
    return Cache(states, wanted, 39 - torch.arange(size))


def batches(
    half_step=FIRST, cache=None, objective=None, size=12, shared=1, seed=0, steps=(0, 10), grid=GRID, pairs=None
):
    objective = objective or Likelihood()
    return Batches(
        Draw(grid, objective, size, shared, seed), half_step, EncodedPairs.of(*pairs or numbered()), cache, steps
    )


def same(a, b):
    parts = lambda s: [s.x, s.k, s.c, s.target.mean, torch.as_tensor(s.target.var)]  # noqa: E731
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(parts(a), parts(b)))


@pytest.mark.parametrize(
    ("half_step", "cache"), [(FIRST, None), (BACKWARD, numbered_cache()), (FORWARD, numbered_cache())]
)
class TestAreAFunctionOfTheStep:
    def test_whatever_came_before(self, half_step, cache):
        whole = list(batches(half_step, cache))
        torch.rand(5)  # the global generator plays no part
        tail = list(batches(half_step, cache, steps=(6, 10)))
        assert [b.step for b in tail] == [6, 7, 8, 9]
        assert all(same(a, b) for a, b in zip(whole[6:], tail, strict=True))

    def test_every_step_seed_and_half_step_its_own(self, half_step, cache):
        other = HalfStep(half_step.index + 2, 9, half_step.direction, 50)
        found = [*batches(half_step, cache), *batches(half_step, cache, seed=1), *batches(other, cache)]
        assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])

    @pytest.mark.parametrize("size", [13, 2])
    def test_every_k_equally_often(self, half_step, cache, size):
        total = torch.zeros(4)
        for batch in batches(half_step, cache, size=size, steps=(0, 300)):
            counts = torch.bincount(batch.k, minlength=4)
            assert int(counts[0]) == 0
            assert int(counts[1:].max() - counts[1:].min()) <= 1
            total += counts
        assert float((total[1:] / total.sum() - 1 / 3).abs().max()) < 0.04


class TestFirst:
    def test_target_and_pair_go_together(self):
        one_step = Grid(torch.tensor([1.0, 0.3]).double())  # with T = 1 the target is x_0 itself
        seen = set()
        for batch in batches(grid=one_step, steps=(0, 30)):
            torch.testing.assert_close(batch.target.mean[:, :1], batch.c)
            torch.testing.assert_close(batch.target.mean[:, 1:], batch.c + 0.5)
            seen |= set(batch.c.flatten().tolist())
        assert seen == set(range(40))

    @pytest.mark.parametrize("shared", [1, 4])
    def test_states_share_their_pair(self, shared):
        one_step = Grid(torch.tensor([1.0, 0.3]).double())
        for batch in batches(grid=one_step, shared=shared):
            assert len(batch.c) == 12 // shared
            assert len(batch.x) == len(batch.k) == 12
            torch.testing.assert_close(batch.target.mean[:, :1], batch.c.repeat_interleave(shared, 0))
            assert len(batch.x.unique(dim=0)) == 12  # each with noise of its own

    def test_states_have_the_reference_law(self):
        z = torch.randn(2000, 1, generator=seeded(1))
        (batch,) = batches(pairs=(z, 2 * z), size=60_000, steps=(0, 1))
        x_0 = batch.c / 2
        for k in range(1, 4):
            law, rows = Reference(GRID).marginal(k), batch.k == k
            noise = (batch.x - float(law.scale) * x_0)[rows] / float(law.var) ** 0.5
            assert abs(float(noise.mean())) < 5 / 20_000**0.5
            assert float(noise.var()) == pytest.approx(1, abs=0.05)
            assert abs(float((noise * x_0[rows]).mean())) < 5 / 20_000**0.5

    @pytest.mark.parametrize("objective", [Likelihood(), MeanMatching()])
    def test_target_is_the_objectives(self, objective):
        for batch in batches(objective=objective, shared=3):
            x_0 = torch.cat([batch.c, batch.c + 0.5], 1).repeat_interleave(3, 0)
            expected = objective.first_target(Reference(GRID), batch.k, batch.x, x_0)
            assert torch.equal(batch.target.mean, expected.mean)
            assert torch.equal(torch.as_tensor(batch.target.var), torch.as_tensor(expected.var))


class TestCached:
    @pytest.mark.parametrize(("half_step", "here", "there"), [(BACKWARD, 0, -1), (FORWARD, -1, 0)])
    @pytest.mark.parametrize("shared", [1, 4])
    def test_states(self, half_step, here, there, shared):
        for batch in batches(half_step, numbered_cache(), shared=shared):
            owner = batch.c.repeat_interleave(shared, 0)[:, 0]
            assert torch.equal(batch.x[:, 0], batch.k + here)
            assert torch.equal(batch.target.mean[:, 0], batch.k + there)
            assert torch.equal(batch.x[:, 1], 39 - owner)
            assert torch.equal(batch.target.mean[:, 1], 39 - owner)
            assert batch.target == Target(batch.target.mean)  # of variance 0

    @pytest.mark.parametrize(("half_step", "here"), [(BACKWARD, 0), (FORWARD, -1)])
    def test_targets_of_their_own(self, half_step, here):
        for batch in batches(half_step, numbered_cache(targets=True), MeanMatching(), shared=2):
            assert torch.equal(batch.x[:, 0], batch.k + here)
            assert torch.equal(batch.target.mean[:, 0], 100 + batch.k)
            assert torch.equal(batch.target.mean[:, 1], batch.x[:, 1])

    def test_all_trajectories_are_used(self):
        seen = {float(n) for batch in batches(BACKWARD, numbered_cache(), steps=(0, 40)) for n in batch.x[:, 1]}
        assert seen == set(range(30))


class TestBetweenEnds:
    """Cached end points (0, n) and (3, n): states lie between them, of the same trajectory."""

    @pytest.mark.parametrize("half_step", [BACKWARD, FORWARD])
    def test_states_belong_to_their_ends_and_pairs(self, half_step):
        whole = numbered_cache()
        cache = Cache(whole.states[[0, 3]] * torch.tensor([1.0, 1e4]), None, whole.owner)
        for batch in batches(half_step, cache, BridgeMatching(), steps=(0, 3)):
            reference = Reference(GRID)
            at = batch.k if half_step is BACKWARD else batch.k - 1
            law = reference.pinned_both(at)
            n = 1e4 * (39 - batch.c[:, 0])
            torch.testing.assert_close(batch.x[:, 1], ((law.near + law.far) * n.double()).float(), atol=5.0, rtol=1e-5)

    def test_targets_are_drawn_where_they_must_be(self):
        args = (FIRST, EncodedPairs.of(*numbered()), None, (0, 3))
        plain, drawn = (Draw(GRID, Likelihood(), 12, 1, 0, draw_targets) for draw_targets in (False, True))
        for one, two in zip(Batches(plain, *args), Batches(drawn, *args), strict=True):
            assert torch.equal(one.x, two.x)
            assert two.target.var == 0.0
            wide = one.target.var[:, 0] > 0
            assert torch.equal(wide, ~(one.target.mean == two.target.mean).all(1))
