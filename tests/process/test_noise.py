"""Random numbers of several observations: from one generator in a row, or from one for each observation."""

import pytest
import torch

from csb.errors import CSBError
from csb.process import Noise, seeded


@pytest.mark.parametrize("kind", ["normal", "uniform"])
class TestDraws:
    def test_one_generator_gives_its_numbers_in_a_row(self, kind):
        found = getattr(Noise(seeded(1), 3), kind)(4, 5)
        fixed = {"normal": torch.randn, "uniform": torch.rand}[kind]
        assert torch.equal(found, fixed((12, 5), generator=seeded(1), dtype=found.dtype))

    def test_each_observation_has_the_numbers_of_its_own_generator(self, kind):
        together = getattr(Noise([seeded(1), seeded(2), seeded(3)], 3), kind)(4, 5)
        for i in range(3):
            alone = getattr(Noise(seeded(i + 1), 1), kind)(4, 5)
            assert torch.equal(together[4 * i : 4 * i + 4], alone)

    def test_a_list_of_one_is_that_one(self, kind):
        one, two = (getattr(Noise(g, 1), kind)(7) for g in (seeded(1), [seeded(1)]))
        assert torch.equal(one, two)

    def test_a_tuple_is_a_list(self, kind):
        one, two = (getattr(Noise(g, 2), kind)(7) for g in ([seeded(1), seeded(2)], (seeded(1), seeded(2))))
        assert torch.equal(one, two)

    def test_none_is_the_global_generator(self, kind):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            one = getattr(Noise(None, 2), kind)(3)
            torch.manual_seed(4)
            assert torch.equal(one, getattr(Noise(None, 2), kind)(3))
            assert not torch.equal(one, getattr(Noise(None, 2), kind)(3))

    def test_a_call_goes_on_where_the_last_one_ended(self, kind):
        noise = Noise([seeded(1), seeded(2)], 2)
        first, second = getattr(noise, kind)(3), getattr(noise, kind)(3)
        assert not torch.equal(first, second)

    def test_type_and_shape(self, kind):
        draw = getattr(Noise([seeded(1), seeded(2)], 2), kind)
        assert draw(3).shape == (6,)
        assert draw(3, 2, 4).shape == (6, 2, 4)
        assert draw(3, dtype=torch.float64).dtype == torch.float64
        assert draw(3).dtype == {"normal": torch.float32, "uniform": torch.float64}[kind]


def test_the_laws():
    noise = Noise([seeded(1), seeded(2)], 2)
    x, u = noise.normal(50_000), noise.uniform(50_000)
    assert abs(float(x.mean())) < 5 / 100_000**0.5
    assert abs(float(x.var()) - 1) < 5 * (2 / 100_000) ** 0.5
    assert 0 <= float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 5 * (1 / 12 / 100_000) ** 0.5


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ([seeded(1)], "1 generators were given for 2 observations; give one for each, or one"),
        ([seeded(1)] * 3, "3 generators were given for 2 observations"),
        ([], "0 generators were given for 2 observations"),
        (7, "generator=7 is no torch.Generator; give one, a list of them, or None"),
        ([1, 2], "generator=[1, 2] is no torch.Generator"),
        ([seeded(1), None], "generator=[<torch"),
    ],
    ids=["few", "many", "none", "seed", "seeds", "hole"],
)
def test_errors(generator, message):
    with pytest.raises(CSBError) as error:
        Noise(generator, 2)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
