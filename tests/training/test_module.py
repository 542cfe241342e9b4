"""One half-step's module: step weights, moving average, and what is frozen."""

import pytest
import torch

from csb.bridge.objectives import Likelihood, MeanMatching, Target
from csb.process import seeded
from csb.training.fit import Fit, MovingAverage
from csb.training.half_step import Batch, HalfStepModule, balance
from csb.training.settings import DeviceSettings, HalfStep, OptimizerSettings
from csb.training.state import to_cpu

BACKWARD, FORWARD = HalfStep(2, 2, "backward", 10), HalfStep(3, 2, "forward", 10)


@pytest.fixture
def bridge(exact_bridge):
    return exact_bridge("full", 1).bridge


def batch(step=0, size=8, shared=1):
    generator = seeded(step)
    x, target = (torch.randn(size, 2, generator=generator) for _ in range(2))
    k = torch.arange(size) % 4 + 1
    return Batch(x, k, torch.randn(size // shared, 2, generator=generator), Target(target), step)


class TestBalance:
    @pytest.mark.parametrize("direction", ["backward", "forward"])
    @pytest.mark.parametrize("exponent", [0.0, 0.3, 0.5, 1.0])
    def test_mean_one_and_the_formula(self, bridge, direction, exponent):
        kernel = bridge.kernel(direction)
        kernel.table[2] = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0])
        weight = balance(kernel, exponent)
        assert float(weight[1:].mean()) == pytest.approx(1, rel=1e-6)
        expected = (bridge.grid.beta[1:].float() / torch.tensor([0.25, 1.0, 4.0, 16.0])) ** exponent
        torch.testing.assert_close(weight[1:] / weight[1], expected / expected[0])


class TestMovingAverage:
    def test_formula(self):
        layer = torch.nn.Linear(1, 1, bias=False)
        average, expected = MovingAverage(layer, 0.5), None
        for n, value in enumerate([1.0, 2.0, -3.0, 5.0, 0.5, 8.0, 1.0, 1.0, 4.0, 2.0, 7.0, 3.0]):
            with torch.no_grad():
                layer.weight.fill_(value)
            average.update(list(layer.parameters()), n)
            # The first update copies; update n ≥ 1 has decay min(0.5, (1 + n)/(10 + n)).
            decay = min(0.5, (1 + n) / (10 + n))
            expected = value if expected is None else decay * expected + (1 - decay) * value
            assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)

    def test_is_adopted_at_the_end(self, bridge):
        module = HalfStepModule(bridge, BACKWARD, Likelihood(), OptimizerSettings())
        with torch.no_grad():
            for p in module.average.module.parameters():
                p.fill_(0.123)
        module.adopt_average()
        assert all(torch.equal(p, torch.full_like(p, 0.123)) for p in bridge.kernel("backward").parameters())
        assert not any(bool((p == 0.123).all()) for p in bridge.kernel("forward").parameters())


def fit(module, batches, state=None, after=lambda step, loss, rate: None):
    """The fit, with its optimiser."""
    found = Fit(module, DeviceSettings("cpu"), 1.0, state=state)
    found.run(batches, after, lambda: None)
    return found


class TestFit:
    @pytest.mark.parametrize(("half_step", "other"), [(BACKWARD, "forward"), (FORWARD, "backward")])
    def test_only_one_direction_moves(self, bridge, half_step, other):
        module = HalfStepModule(bridge, half_step, Likelihood(), OptimizerSettings())
        assert {p.requires_grad for p in bridge.kernel(half_step.direction).parameters()} == {True}
        assert {p.requires_grad for p in bridge.kernel(other).parameters()} == {False}
        before = to_cpu(bridge.state_dict())
        fit(module, [batch(i) for i in range(3)])
        assert all(torch.equal(v, before[k]) for k, v in bridge.state_dict().items() if k.startswith(other))
        moved = [k for k, v in bridge.state_dict().items() if not torch.equal(v, before[k])]
        assert {key.split("_kernel")[0] for key in moved} == {half_step.direction}

    def test_loss_is_the_weighted_mean_of_the_objective(self, bridge):
        for objective in (Likelihood(), MeanMatching()):
            module = HalfStepModule(bridge, BACKWARD, objective, OptimizerSettings(balance=0.5))
            module.step_weight.copy_(torch.tensor([0.0, 0.1, 0.5, 1.4, 2.0]))
            b = batch()
            law = module.kernel(b.x, b.k, b.c)
            each = objective.loss(law, b.target, bridge.grid.beta.float()[b.k]).mean(1)
            expected = (each * module.step_weight[b.k]).mean()
            torch.testing.assert_close(module.training_step(b), expected)
            torch.testing.assert_close(module.last_loss, each.mean().detach())

    def test_the_direction_can_change(self, bridge):
        HalfStepModule(bridge, BACKWARD, Likelihood(), OptimizerSettings())
        HalfStepModule(bridge, FORWARD, Likelihood(), OptimizerSettings())
        assert {p.requires_grad for p in bridge.kernel("backward").parameters()} == {False}
        assert {p.requires_grad for p in bridge.kernel("forward").parameters()} == {True}

    def test_observations_are_shared_in_order(self, bridge):
        """Four states for each of two observations: the same loss as with the observations repeated."""
        module = HalfStepModule(bridge, BACKWARD, Likelihood(), OptimizerSettings())
        b = batch(shared=4)
        assert len(b.c) == 2
        repeated = b._replace(c=b.c[[0, 0, 0, 0, 1, 1, 1, 1]])
        torch.testing.assert_close(module.training_step(b), module.training_step(repeated))

    def test_learning_rate_is_that_of_the_batchs_step(self, bridge):
        module = HalfStepModule(bridge, BACKWARD, Likelihood(), OptimizerSettings(later_lr=1e-2, warmup=1.0))
        seen = []
        found = fit(module, [batch(i) for i in (4, 5)], after=lambda step, loss, rate: seen.append((step, rate)))
        assert [step for step, _ in seen] == [5, 6]
        assert seen[-1][1] == found.optimizer.param_groups[0]["lr"]
        assert seen[-1][1] == pytest.approx(1e-2 * 6 / 10)

    def test_two_rounds_are_one(self, bridge, exact_bridge):
        """A second fit with the optimiser's state goes on exactly where the first ended."""
        batches = [batch(i) for i in range(6)]
        module = HalfStepModule(bridge, BACKWARD, Likelihood(), OptimizerSettings())
        fit(module, batches)
        parts = HalfStepModule(exact_bridge("full", 1).bridge, BACKWARD, Likelihood(), OptimizerSettings())
        state = to_cpu(fit(parts, batches[:3]).optimizer.state_dict()["state"])
        fit(parts, batches[3:], state)
        for one, two in ((module.kernel, parts.kernel), (module.average, parts.average)):
            for key, value in one.state_dict().items():
                assert torch.equal(value, two.state_dict()[key]), key


def test_bfloat16_is_taken_up_without_a_word(bridge, caplog):
    """A library's line for each half-step would hide those of csb."""
    module = HalfStepModule(bridge, BACKWARD, MeanMatching(), OptimizerSettings())
    with caplog.at_level("INFO"):
        fit = Fit(module, DeviceSettings("cpu", precision="bf16-mixed"), 1.0)
    assert fit.fabric._precision.precision == "bf16-mixed"
    assert not caplog.records
