"""The finest scale of the data, on laws whose width is known."""

import pytest
import torch

from csb.errors import CSBError
from csb.problems import TwoMoons
from csb.problems.rows import finest_scale
from csb.process import Power, seeded


def noisy(width, n=20_000):
    """z | c ~ N(c, diag(1, width²)), c ~ N(0, I)."""
    c = torch.randn(n, 2, generator=seeded(1))
    return c + torch.randn(n, 2, generator=seeded(2)) * torch.tensor([1.0, width]), c


@pytest.mark.parametrize("width", [0.01, 0.05])
def test_is_the_width_of_the_narrowest_direction(width):
    found = finest_scale(*noisy(width, 100_000), seeded(0))
    assert 0.5 * width < found < 1.2 * width  # the tenth of the finest, among neighbours


def test_is_that_of_the_finest_tenth_of_places():
    z, c = noisy(0.3)
    narrow = c[:, 0] > 1  # a sixth of them
    z[narrow] = noisy(0.03)[0][narrow]
    assert finest_scale(z, c, seeded(0)) < 0.06


def test_two_moons_crescent():
    pairs = TwoMoons().pairs("train", 50_000)
    z, c = ((v - v.mean(0)) / v.std(0) for v in (pairs.x, pairs.y))
    assert 0.5 < finest_scale(z, c, seeded(0)) / (0.01 / float(pairs.x.std())) < 1.5


def test_grows_with_the_structure_and_repeats():
    found = [finest_scale(*noisy(width), seeded(0)) for width in (0.02, 0.1, 0.5)]
    assert found == sorted(found)
    assert finest_scale(*noisy(0.1), seeded(0)) == found[1]


def test_shapes_and_too_few():
    z, c = noisy(0.1)
    assert finest_scale(z.view(-1, 1, 2), c.view(-1, 2, 1), seeded(0)) == finest_scale(z, c, seeded(0))
    assert 0 < finest_scale(z[:60], c[:60].repeat(1, 40), seeded(0)) < 1  # more numbers in c than pairs
    with pytest.raises(CSBError, match="40 pairs are too few"):
        finest_scale(z[:40], c[:40], seeded(0))


@pytest.mark.parametrize(("T", "scale"), [(2, 0.01), (10, 0.005), (20, 0.1)])
def test_the_first_step_resolves_the_scale(T, scale):
    schedule = Power.resolving(0.1, T, scale)
    first = 1 - float(schedule.alpha_bar(torch.tensor(1 / T).double()))
    assert first**0.5 == pytest.approx(scale, rel=1e-6)


def test_the_power_stays_in_its_range():
    assert Power.resolving(0.1, 10, 0.9).power == 1
    assert Power.resolving(0.1, 2, 1e-5).power == 19
    assert Power.resolving(0.1, 1, 0.01) == Power(0.1)
    with pytest.raises(CSBError, match="scale"):
        Power.resolving(0.1, 10, 1.5)
