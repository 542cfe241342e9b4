"""Seeds and their streams; random numbers of several observations, from one generator or from one for each."""

import pytest
import torch

from csb.errors import CSBError
from csb.process import Noise, noise_like, seeded


def stream(*keys):
    return tuple(torch.rand(4, generator=seeded(*keys)).tolist())


def test_streams_are_functions_of_all_their_keys():
    assert stream(3, 1, 4) == stream(3, 1, 4)
    keys = [(s, a, b) for s in range(4) for a in range(4) for b in range(4)]
    keys += [(1,), (1, 0), (7,), (7, 0, 0, 0)]  # a trailing zero is a key
    assert len({stream(*k) for k in keys}) == len(keys)
    a, b = (torch.randn(100_000, generator=seeded(0, 0, i)) for i in range(2))
    assert abs(float((a * b).mean())) < 5 / 100_000**0.5
    with pytest.raises(CSBError, match=r"seed=-1 with keys \(\) is not possible; seeds and keys are integers"):
        seeded(-1)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    noise_like(torch.zeros(3), seeded(1))
    Noise([seeded(1), seeded(2)], 2).normal(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
class TestDraws:
    def test_one_generator_gives_its_numbers_in_a_row(self, kind):
        found = getattr(Noise(seeded(1), 3), kind)(4, 5)
        fixed = {"normal": torch.randn, "uniform": torch.rand}[kind]
        assert found.dtype == {"normal": torch.float32, "uniform": torch.float64}[kind]
        assert torch.equal(found, fixed((12, 5), generator=seeded(1), dtype=found.dtype))

    def test_each_observation_has_the_numbers_of_its_own_generator(self, kind):
        noise = Noise((seeded(1), seeded(2), seeded(3)), 3)
        first, second = getattr(noise, kind)(4, 5), getattr(noise, kind)(4, 5)
        assert not torch.equal(first, second)  # a call goes on where the last one ended
        for i in range(3):
            alone = getattr(Noise(seeded(i + 1), 1), kind)(4, 5)
            assert torch.equal(first[4 * i : 4 * i + 4], alone)

    def test_none_is_the_global_generator(self, kind):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            one = getattr(Noise(None, 2), kind)(3, dtype=torch.float64)
            torch.manual_seed(4)
            assert torch.equal(one, getattr(Noise(None, 2), kind)(3, dtype=torch.float64))
            assert not torch.equal(one, getattr(Noise(None, 2), kind)(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ([seeded(1)], "1 generators were given for 2 observations; give one for each, or one"),
        ([], "0 generators were given for 2 observations"),
        (7, "generator=7 is no torch.Generator; give one, a list of them, or None"),
        ([seeded(1), None], "generator=[<torch"),
    ],
    ids=["few", "none", "seed", "hole"],
)
def test_errors(generator, message):
    with pytest.raises(CSBError) as error:
        Noise(generator, 2)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
