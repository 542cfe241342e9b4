"""The order of half-steps, the settings' limits and the learning rate."""

import math

import pytest

from csb.errors import CSBError
from csb.training.fit import learning_rate
from csb.training.settings import TrainingSettings, plan


class TestPlan:
    def test_order(self):
        settings = TrainingSettings(L=2, first_steps=7, steps=5)
        steps = plan(settings)
        assert plan(settings.replace(last_forward=False)) == steps[:-1]
        assert [(h.index, h.iteration, h.direction, h.steps, h.name, h.source) for h in steps] == [
            (0, 1, "backward", 7, "01_backward", "forward"),
            (1, 1, "forward", 5, "02_forward", "backward"),
            (2, 2, "backward", 5, "03_backward", "forward"),
            (3, 2, "forward", 5, "04_forward", "backward"),
        ]


def test_pairs_that_share_a_batch_unevenly():
    """What one field breaks alone is a matter of csb.schema."""
    with pytest.raises(CSBError, match=r"^training.batch_size=10 is not a multiple of training.states_per_pair=4;"):
        TrainingSettings(1, 10, 10, batch_size=10, states_per_pair=4)


class TestLearningRate:
    def rates(self, steps=200, warmup=0.1):
        return [learning_rate(step, steps, 1e-2, warmup) for step in range(steps)]

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

    @pytest.mark.parametrize("steps", [1, 2, 3])
    @pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
    def test_few_steps(self, steps, warmup):
        rates = self.rates(steps=steps, warmup=warmup)
        assert all(1e-4 <= rate <= 1e-2 for rate in rates)
        assert max(rates) == pytest.approx(1e-2)
