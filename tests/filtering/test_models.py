"""State-space models: the order of the integrator, invariants, frozen truths."""

import itertools
import math

import pytest
import torch

from csb.errors import CSBError
from csb.filtering import Lorenz63, Lorenz96, twin
from csb.filtering.models import rk4
from csb.process import seeded


def path(f, x, dt, span):
    for _ in range(round(span / dt)):
        x = rk4(f, x, dt)
    return x


def test_rk4_is_of_order_four():
    x = torch.tensor([[1.0, 2.0, 20.0]], dtype=torch.float64)
    exact = path(Lorenz63().f, x, 0.4 / 1024, 0.4)
    errors = [float((path(Lorenz63().f, x, 0.4 / n, 0.4) - exact).norm()) for n in (16, 32, 64)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(3.7 < order < 4.3 for order in orders), orders


def test_lorenz63_stands_still_at_its_fixed_points():
    a = math.sqrt(8 / 3 * 27)
    points = torch.tensor([[0, 0, 0], [a, a, 27], [-a, -a, 27]], dtype=torch.float64)
    assert float(Lorenz63().f(points).abs().max()) < 1e-12


def test_lorenz96_conserves_energy_without_forcing_and_damping():
    x = torch.randn((3, 10), dtype=torch.float64, generator=seeded(0))
    damped = Lorenz96(forcing=0.0).f
    power = (x * (damped(x) + x)).sum(1)
    assert float(power.abs().max()) < 1e-12
    moved = path(lambda s: damped(s) + s, x, 0.002, 0.2)
    assert torch.allclose(moved.square().sum(1), x.square().sum(1), rtol=1e-8)
    assert float((moved - x).norm()) > 0.1
    assert torch.allclose((x * damped(x)).sum(1), -x.square().sum(1))


def test_lorenz96_turns_with_its_circle():
    f, x = Lorenz96().f, torch.randn((2, 7), dtype=torch.float64, generator=seeded(1))
    assert torch.equal(f(x.roll(3, 1)), f(x).roll(3, 1))
    i = 3  # the equation as it is written
    want = (x[:, i + 1] - x[:, i - 2]) * x[:, i - 1] - x[:, i] + 8
    assert torch.allclose(f(x)[:, i], want)
    assert Lorenz96(dx=6).distance()[0].tolist() == [0, 1, 2, 3, 2, 1]


def test_a_twin_is_frozen_and_a_longer_one_begins_with_it():
    model = Lorenz63()
    short, long = twin(model, 5, 3), twin(model, 9, 3)
    assert torch.equal(short.x, long.x[:5])
    assert torch.equal(short.y, long.y[:5])
    assert not torch.equal(short.y, twin(model, 5, 4).y)
    many = twin(model, 400, 0)
    assert abs(float((many.y - many.x).std()) - 2.0) < 0.16  # 4 standard errors


@pytest.mark.parametrize(
    ("observed", "h", "slope"),
    [("linear", lambda x: x, torch.ones_like), ("arctan", torch.atan, lambda x: 1 / (1 + x**2))],
)
def test_the_likelihood_and_the_linearised_observation(observed, h, slope):
    model = Lorenz96(dx=5, observed=observed, noise_std=0.7)
    x, y = torch.randn((4, 5), dtype=torch.float64, generator=seeded(2)), torch.zeros(5, dtype=torch.float64)
    value, J = model.linearised(x)
    assert torch.allclose(value, h(x))
    assert torch.allclose(J.expand(4, -1, -1), torch.diag_embed(slope(x)))
    assert len(J) == (1 if observed == "linear" else 4)
    assert torch.allclose(model.log_likelihood(y, x), -0.5 * (h(x) ** 2).sum(1) / 0.49)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lorenz63(noise_std=0.0), "noise_std=0.0 is not possible"),
        (lambda: Lorenz96(dx=3), "dx=3"),
        (lambda: twin(Lorenz63(), 0, 0), "cycles=0"),
        (lambda: Lorenz63().distance(), "have no distances"),
    ],
)
def test_bad_models(make, message):
    with pytest.raises(CSBError, match=message):
        make()
