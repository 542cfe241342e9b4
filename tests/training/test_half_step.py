"""A half-step: batches as a function of (seed, half-step, step), step weights, moving average, what is frozen."""

import math

import pytest
import torch

from csb.bridge.objectives import BridgeMatching, Likelihood, MeanMatching, Target
from csb.errors import CSBError
from csb.process import Grid, Power, Reference, seeded
from csb.training.fit import Fit, MovingAverage, learning_rate
from csb.training.half_step import Batch, Batches, Draw, HalfStepModule, ahead, balance, on_device
from csb.training.pairs import Cache, EncodedPairs
from csb.training.settings import DeviceSettings, HalfStep, OptimizerSettings, TrainingSettings, plan
from csb.training.state import to_cpu

GRID = Grid.from_schedule(Power(0.2, 2.0), 3)
ONE_STEP = Grid(torch.tensor([1.0, 0.3]).double())  # with T = 1 the target is x_0 itself
FIRST, BACKWARD, FORWARD = HalfStep(0, 1, "backward", 10), HalfStep(2, 2, "backward", 10), HalfStep(3, 2, "forward", 10)


def numbered(n=40):
    """Pairs whose numbers can be read off: z = (i, i + .5), c = (i,)."""
    i = torch.arange(n).float()[:, None]
    return torch.cat([i, i + 0.5], 1), i


def numbered_cache(size=30, targets=False):
    """State k of trajectory n is (k, n); its target (step k at index k − 1) is (100 + k, n); pair 39 − n owns it."""
    states = torch.cartesian_prod(torch.arange(4.0), torch.arange(float(size))).view(4, size, 2)
    wanted = states[1:] + torch.tensor([100.0, 0.0]) if targets else None
    return Cache(states, wanted, 39 - torch.arange(size))


def batches(half_step=FIRST, cache=None, objective=None, size=12, shared=1, seed=0, steps=(0, 10), pairs=None, **draw):
    draw = Draw(draw.pop("grid", GRID), objective or Likelihood(), size, shared, seed, **draw)
    return Batches(draw, half_step, EncodedPairs.of(*pairs or numbered()), cache, steps)


def same(a, b):
    one, two = ([s.x, s.k, s.c, s.target.mean, torch.as_tensor(s.target.var)] for s in (a, b))
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(one, two))


@pytest.mark.parametrize(
    ("half_step", "cache"), [(FIRST, None), (BACKWARD, numbered_cache()), (FORWARD, numbered_cache())]
)
class TestBatchesAreAFunctionOfTheStep:
    def test_whatever_came_before_and_every_seed_and_half_step_its_own(self, half_step, cache):
        whole, other = list(batches(half_step, cache)), HalfStep(half_step.index + 2, 9, half_step.direction, 50)
        tail = list(batches(half_step, cache, steps=(6, 10)))
        assert [b.step for b in tail] == [6, 7, 8, 9]
        assert all(same(a, b) for a, b in zip(whole[6:], tail, strict=True))
        found = [*whole, *batches(half_step, cache, seed=1), *batches(other, cache)]
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


class TestFirstBatches:
    @pytest.mark.parametrize("shared", [1, 4])
    def test_states_share_their_pair_and_have_noise_of_their_own(self, shared):
        seen = set()
        for batch in batches(grid=ONE_STEP, shared=shared, steps=(0, 100)):
            assert (len(batch.c), len(batch.x), len(batch.k)) == (12 // shared, 12, 12)
            owner = batch.c.repeat_interleave(shared, 0)
            torch.testing.assert_close(batch.target.mean, torch.cat([owner, owner + 0.5], 1))
            assert len(batch.x.unique(dim=0)) == 12
            seen |= set(batch.c.flatten().tolist())
        assert seen == set(range(40))

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
    def test_the_target_is_the_objectives_or_drawn_from_it(self, objective):
        drawn = batches(objective=objective, shared=3, draw_targets=True)
        for batch, other in zip(batches(objective=objective, shared=3), drawn, strict=True):
            x_0 = torch.cat([batch.c, batch.c + 0.5], 1).repeat_interleave(3, 0)
            expected = objective.first_target(Reference(GRID), batch.k, batch.x, x_0)
            assert same(batch, batch._replace(target=expected))
            assert torch.equal(batch.x, other.x)
            assert other.target.var == 0.0
            wide = (torch.as_tensor(expected.var) > 0).expand_as(x_0)[:, 0]
            assert torch.equal(wide, ~(expected.mean == other.target.mean).all(1))


@pytest.mark.parametrize(("half_step", "here", "there"), [(BACKWARD, 0, -1), (FORWARD, -1, 0)])
class TestCachedBatches:
    @pytest.mark.parametrize(("shared", "targets"), [(1, False), (4, False), (2, True)])
    def test_states_targets_and_owners_go_together(self, half_step, here, there, shared, targets):
        objective, seen = MeanMatching() if targets else Likelihood(), set()
        for batch in batches(half_step, numbered_cache(targets=targets), objective, shared=shared, steps=(0, 100)):
            n = 39 - batch.c.repeat_interleave(shared, 0)[:, 0]
            assert torch.equal(batch.x, torch.stack([batch.k + here, n], 1))
            assert torch.equal(batch.target.mean, torch.stack([batch.k + (100 if targets else there), n], 1))
            assert batch.target.var == 0.0
            seen |= set(n.tolist())
        assert seen == set(range(30))  # all trajectories are used

    def test_between_ends_states_belong_to_their_trajectory_and_pair(self, half_step, here, there):
        whole, reference = numbered_cache(), Reference(GRID)
        cache = Cache(whole.states[[0, 3]] * torch.tensor([1.0, 1e4]), None, whole.owner)
        for batch in batches(half_step, cache, BridgeMatching(), steps=(0, 3)):
            law, n = reference.pinned_both(batch.k + here), 1e4 * (39 - batch.c[:, 0])
            torch.testing.assert_close(batch.x[:, 1], ((law.near + law.far) * n.double()).float(), atol=5.0, rtol=1e-5)


class TestAhead:
    def make(self, fails=False):
        for batch in batches():
            if fails and batch.step == 2:
                raise CSBError("no more")
            self.made = batch.step
            yield batch

    def test_batches_are_the_same_in_the_same_order(self):
        assert all(same(one, two) for one, two in zip(batches(), ahead(batches(), torch.device("cpu")), strict=True))

    def test_what_fails_is_raised_where_it_is_asked_for(self):
        iterator = ahead(self.make(fails=True), torch.device("cpu"))
        assert [next(iterator).step, next(iterator).step] == [0, 1]
        with pytest.raises(CSBError, match=r"^no more$"):
            next(iterator)

    def test_no_more_are_made_than_asked_for(self):
        iterator = ahead(self.make(), torch.device("cpu"))
        next(iterator)
        iterator.close()
        assert self.made <= 1

    @pytest.mark.parametrize(("share", "moved"), [(0.5, True), (0.4, False)])
    def test_a_gpu_takes_what_fits_its_share_and_a_cpu_all_as_it_is(self, monkeypatch, share, moved):
        found, to = batches(), []
        assert on_device(found, DeviceSettings("cpu")) is found
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 2 * 40 * 3 * 4))  # none is free
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(found, "move", to.append)
        assert (on_device(found, DeviceSettings("auto", gpu_share=share)) is found) is moved
        assert to == [torch.device("cuda")] * moved


@pytest.fixture
def bridge(exact_bridge):
    return exact_bridge("full", 1).bridge


def module(bridge, half_step=BACKWARD, objective=None, **optimizer):
    return HalfStepModule(bridge, half_step, objective or Likelihood(), OptimizerSettings(**optimizer))


def batch(step=0, size=8, shared=1):
    generator = seeded(step)
    x, target, c = (torch.randn(rows, 2, generator=generator) for rows in (size, size, size // shared))
    return Batch(x, torch.arange(size) % 4 + 1, c, Target(target), step)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.5, 1.0])
def test_the_steps_weights_have_mean_one_and_the_formula(bridge, exponent):
    kernel = bridge.kernel("backward")
    kernel.table[2] = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0])
    weight = balance(kernel, exponent)
    assert float(weight[1:].mean()) == pytest.approx(1, rel=1e-6)
    expected = (bridge.grid.beta[1:].float() / torch.tensor([0.25, 1.0, 4.0, 16.0])) ** exponent
    torch.testing.assert_close(weight[1:] / weight[1], expected / expected[0])


def test_the_moving_average_has_a_shorter_memory_at_first():
    layer = torch.nn.Linear(1, 1, bias=False)
    average, expected = MovingAverage(layer, 0.5), 0.0
    for n, value in enumerate([1.0, 2.0, -3.0, 5.0, 0.5, 8.0, 1.0, 1.0, 4.0, 2.0, 7.0, 3.0]):
        torch.nn.init.constant_(layer.weight, value)
        average.update(list(layer.parameters()), n)
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0
        expected = decay * expected + (1 - decay) * value
        assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)


class TestLearningRate:
    def rates(self, steps=200, warmup=0.1):
        return [learning_rate(step, steps, 1e-2, warmup) for step in range(steps)]

    def test_warm_up_is_linear_then_a_cosine_to_one_percent(self):
        rates = self.rates()
        assert rates[:20] == pytest.approx([1e-2 * (i + 1) / 20 for i in range(20)])
        assert [max(rates), rates[19], rates[20]] == pytest.approx([1e-2] * 3)
        for step, cosine in ((110, 0), (65, math.cos(math.pi / 4))):
            assert rates[step] == pytest.approx(1e-2 * (0.01 + 0.99 * 0.5 * (1 + cosine)))
        assert 1e-4 <= rates[-1] < 1.1e-4
        assert rates[20:] == sorted(rates[20:], reverse=True)

    @pytest.mark.parametrize("steps", [1, 2, 3])
    @pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
    def test_few_steps(self, steps, warmup):
        rates = self.rates(steps=steps, warmup=warmup)
        assert all(1e-4 <= rate <= 1e-2 for rate in rates)
        assert max(rates) == pytest.approx(1e-2)


def fit(fitted, batches, state=None, after=lambda step, loss, rate: None, **device):
    """The fit, with its optimiser."""
    found = Fit(fitted, DeviceSettings("cpu", **device), 1.0, state=state)
    found.run(batches, after, lambda: None)
    return found


class TestModule:
    @pytest.mark.parametrize("directions", [("backward", "forward"), ("forward", "backward")])
    def test_only_one_direction_moves_and_ends_with_the_average(self, bridge, directions):
        here, other = directions
        module(bridge, FORWARD if here == "backward" else BACKWARD)  # the half-step before
        fitted = module(bridge, FORWARD if here == "forward" else BACKWARD)
        assert {p.requires_grad for p in bridge.kernel(here).parameters()} == {True}
        assert {p.requires_grad for p in bridge.kernel(other).parameters()} == {False}
        before = to_cpu(bridge.state_dict())
        fit(fitted, [batch(i) for i in range(3)])
        moved = [key for key, value in bridge.state_dict().items() if not torch.equal(value, before[key])]
        assert {key.split("_kernel")[0] for key in moved} == {here}
        for p in fitted.average.module.parameters():
            p.fill_(0.123)
        fitted.adopt_average()
        assert all(bool((p == 0.123).all()) for p in bridge.kernel(here).parameters())
        assert not any(bool((p == 0.123).all()) for p in bridge.kernel(other).parameters())

    @pytest.mark.parametrize("objective", [Likelihood(), MeanMatching()])
    def test_the_loss_is_the_weighted_mean_of_the_objective(self, bridge, objective):
        fitted, b = module(bridge, objective=objective), batch()
        fitted.step_weight.copy_(torch.tensor([0.0, 0.1, 0.5, 1.4, 2.0]))
        law = fitted.kernel(b.x, b.k, b.c)
        each = objective.loss(law, b.target, bridge.grid.beta.float()[b.k]).mean(1)
        torch.testing.assert_close(fitted.training_step(b), (each * fitted.step_weight[b.k]).mean())
        torch.testing.assert_close(fitted.last_loss, each.mean().detach())

    def test_observations_are_shared_in_order(self, bridge):
        """Four states for each of two observations: the same loss as with the observations repeated."""
        fitted, b = module(bridge), batch(shared=4)
        repeated = b._replace(c=b.c[[0, 0, 0, 0, 1, 1, 1, 1]])
        torch.testing.assert_close(fitted.training_step(b), fitted.training_step(repeated))

    def test_the_learning_rate_is_that_of_the_batchs_step(self, bridge):
        seen, fitted = [], module(bridge, later_lr=1e-2, warmup=1.0)
        found = fit(fitted, [batch(i) for i in (4, 5)], after=lambda step, loss, rate: seen.append((step, rate)))
        assert seen == [(5, pytest.approx(1e-2 * 5 / 10)), (6, pytest.approx(1e-2 * 6 / 10))]
        assert seen[-1][1] == found.optimizer.param_groups[0]["lr"]

    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    def test_gradients_are_clipped_to_norm_one_and_small_ones_kept(self, bridge, scale):
        fitted, b = module(bridge, objective=MeanMatching()), batch()
        b = b._replace(target=Target(scale * b.target.mean + fitted.kernel(b.x, b.k, b.c).mean.detach()))
        weights = list(fitted.kernel.parameters())
        own = torch.autograd.grad(fitted.training_step(b), weights)
        norm = float(torch.nn.utils.get_total_norm(own))
        assert (norm > 1) == (scale > 1)
        fit(fitted, [b])
        for found, before in zip(weights, own, strict=True):
            torch.testing.assert_close(found.grad, before / max(norm, 1.0))

    def test_two_rounds_are_one(self, bridge, exact_bridge):
        """A second fit with the optimiser's state goes on exactly where the first ended."""
        steps, whole, parts = [batch(i) for i in range(6)], module(bridge), module(exact_bridge("full", 1).bridge)
        fit(whole, steps)
        fit(parts, steps[3:], to_cpu(fit(parts, steps[:3]).state))
        for one, two in ((whole.kernel, parts.kernel), (whole.average, parts.average)):
            assert [
                key for key, value in one.state_dict().items() if not torch.equal(value, two.state_dict()[key])
            ] == []

    def test_bfloat16_is_taken_up_without_a_word(self, bridge, caplog):
        """A library's line for each half-step would hide those of csb."""
        with caplog.at_level("INFO"):
            found = fit(module(bridge, objective=MeanMatching()), [], precision="bf16-mixed")
        assert found.fabric._precision.precision == "bf16-mixed"
        assert not caplog.records


def test_the_order_of_half_steps():
    settings = TrainingSettings(L=2, first_steps=7, steps=5)
    steps = plan(settings)
    assert plan(settings.replace(last_forward=False)) == steps[:-1]
    assert [(h.index, h.iteration, h.direction, h.steps, h.name, h.source) for h in steps] == [
        (0, 1, "backward", 7, "01_backward", "forward"),
        (1, 1, "forward", 5, "02_forward", "backward"),
        (2, 2, "backward", 5, "03_backward", "forward"),
        (3, 2, "forward", 5, "04_forward", "backward"),
    ]
