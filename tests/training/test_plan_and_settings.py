"""The order of half-steps, the settings' limits and the learning rate."""

import math

import pytest

from csb.errors import CSBError
from csb.training.module import learning_rate
from csb.training.settings import DeviceSettings, OptimizerSettings, TrainingSettings, plan


class TestPlan:
    def test_order(self):
        steps = plan(TrainingSettings(L=2, first_steps=7, steps=5))
        assert [(h.index, h.iteration, h.direction, h.steps, h.name, h.source) for h in steps] == [
            (0, 1, "backward", 7, "01_backward", "forward"),
            (1, 1, "forward", 5, "02_forward", "backward"),
            (2, 2, "backward", 5, "03_backward", "forward"),
            (3, 2, "forward", 5, "04_forward", "backward"),
        ]

    @pytest.mark.parametrize("L", [1, 3, 12])
    def test_counts(self, L):
        assert len(plan(TrainingSettings(L, 1, 1))) == 2 * L
        without = plan(TrainingSettings(L, 1, 1, last_forward=False))
        assert len(without) == 2 * L - 1
        assert without[-1].direction == "backward"
        assert without[-1].iteration == L


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"L": 0}, "L=0 is not possible; give an integer in 1..1000"),
        ({"L": 1.5}, "L=1.5 is not possible"),
        ({"L": True}, "L=True is not possible"),
        ({"first_steps": 0}, "training.first_steps=0 is not possible"),
        ({"steps": -3}, "training.steps=-3 is not possible"),
        ({"batch_size": "many"}, "training.batch_size='many' is not possible"),
        ({"refresh": 0}, "training.refresh=0 is not possible"),
        ({"trajectories": None}, "training.trajectories=None is not possible"),
        ({"cache_bytes": 0}, "training.cache_bytes=0 is not possible"),
        ({"checkpoint_every": 0}, "training.checkpoint_every=0 is not possible"),
        ({"observe_every": 0}, "training.observe_every=0 is not possible"),
        ({"last_forward": 1}, "training.last_forward=1 is not possible; give true or false"),
        (
            {"batch_size": 10, "states_per_pair": 4},
            "training.batch_size=10 is not a multiple of training.states_per_pair=4",
        ),
    ],
    ids=str,
)
def test_ipf_settings(change, message):
    with pytest.raises(CSBError) as error:
        TrainingSettings(**{"L": 1, "first_steps": 10, "steps": 10, **change})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1e-3}, "optimizer.lr=-0.001 is not possible; give a number in [1e-12, 10]"),
        ({"lr": 0}, "optimizer.lr=0 is not possible"),
        ({"later_lr": float("nan")}, "optimizer.later_lr=nan is not possible"),
        ({"lr": float("inf")}, "optimizer.lr=inf is not possible"),
        ({"weight_decay": -1}, "optimizer.weight_decay=-1 is not possible"),
        ({"warmup": 1.1}, "optimizer.warmup=1.1 is not possible; give a number in [0, 1]"),
        ({"ema": 1.0}, "optimizer.ema=1.0 is not possible"),
        ({"clip": 0}, "optimizer.clip=0 is not possible; give a number in [1e-09, 1e+09]"),
        ({"balance": 2}, "optimizer.balance=2 is not possible"),
        ({"lr": "fast"}, "optimizer.lr='fast' is not possible"),
        ({"lr": True}, "optimizer.lr=True is not possible"),
    ],
    ids=str,
)
def test_optimizer_settings(change, message):
    with pytest.raises(CSBError) as error:
        OptimizerSettings(**change)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_device_settings():
    with pytest.raises(CSBError, match="precision='16' is unknown; choose one of 32-true, bf16-mixed"):
        DeviceSettings(precision="16")


class TestLearningRate:
    settings = OptimizerSettings(lr=1e-2, later_lr=2e-3, warmup=0.1)

    def rates(self, iteration=1, steps=200, **changes):
        settings = OptimizerSettings(**{**vars(self.settings), **changes})
        peak = settings.lr if iteration == 1 else settings.later_lr
        return [learning_rate(step, steps, peak, settings.warmup) for step in range(steps)]

    def test_warm_up_is_linear_from_the_first_step(self):
        rates = self.rates()
        assert rates[:20] == pytest.approx([1e-2 * (i + 1) / 20 for i in range(20)])
        assert max(rates) == pytest.approx(1e-2)
        assert rates.index(max(rates)) in (19, 20)

    def test_then_a_cosine_to_one_percent(self):
        rates = self.rates()
        assert rates[20] == pytest.approx(1e-2)
        assert rates[110] == pytest.approx(1e-2 * (0.01 + 0.99 / 2))
        assert rates[65] == pytest.approx(1e-2 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 4))))
        assert 1e-4 <= rates[-1] < 1.1e-4
        assert rates[20:] == sorted(rates[20:], reverse=True)

    def test_later_iterations_have_their_own_peak(self):
        assert max(self.rates(iteration=2)) == pytest.approx(2e-3)

    @pytest.mark.parametrize("steps", [1, 2, 3])
    @pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
    def test_few_steps(self, steps, warmup):
        rates = self.rates(steps=steps, warmup=warmup)
        assert all(1e-4 <= rate <= 1e-2 for rate in rates)
        assert max(rates) == pytest.approx(1e-2)
