"""EnKF and bootstrap filter against Kalman; what every filter does with seeds and bad input."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from csb.errors import CSBError
from csb.filtering import (
    FILTERS,
    Analysis,
    Bootstrap,
    BridgeFilter,
    EnKF,
    EnSF,
    Filter,
    Lorenz63,
    Lorenz96,
    track,
    twin,
)
from csb.filtering.cycle import batch_mean
from csb.filtering.filters import gaspari_cohn
from csb.process import seeded
from tests.filtering.filter_examples import OBSERVED, errors, gaussian_model
from tests.filtering.kalman import Gaussian, LinearGaussianModel

SMALL = {"bridge": {"T": 2, "L": 1, "features": 4}, "ensf": {"steps": 20}}
EYE = torch.eye(2).double()
PLAIN = LinearGaussianModel(EYE, EYE, EYE, Gaussian(torch.zeros(2), EYE), 0.5)
EVERY = [FILTERS[name](**SMALL.get(name, {})) for name in FILTERS]


@pytest.mark.parametrize("method", [EnKF(), Bootstrap(), Bootstrap(0.5)])
def test_cycles_reach_the_kalman_filter(method):
    model = gaussian_model()
    truth, laws = twin(model, 6, 0), []
    x, dynamics, own = model.initial(20_000, seeded(3)), seeded(4), seeded(5)
    for y in truth.y:
        x = method(model, model.forecast(x, dynamics), y, own).x
        laws.append(x)
    exact = model.kalman(truth.y)
    for found, law, most in ((laws[0], exact[0], (0.035, 0.045)), (laws[-1], exact[-1], (0.05, 0.08))):
        mean, cov = errors(found, law)
        assert mean < most[0], mean  # 1/√M is .007, and the effective sample a third of M
        assert cov < most[1], cov


def test_inflation_is_of_the_forecasts_spread():
    model = gaussian_model()
    x = model.initial(20_000, seeded(1))
    inflated = EnKF(inflation=1.5)(model, x, OBSERVED, seeded(2)).x
    wide = model.condition(model.start._replace(cov=1.5**2 * model.start.cov), OBSERVED)
    assert errors(inflated, wide)[1] < 0.05
    assert errors(inflated, model.condition(model.start, OBSERVED))[1] > 0.2


def test_taper():
    at = gaspari_cohn(torch.tensor([0.0, 1.0, 2.0, 3.999, 4.0, 9.0], dtype=torch.float64), 2.0)
    assert (float(at[0]), at[4:].tolist()) == (1, [0, 0])
    assert abs(float(at[2]) - 5 / 24) < 1e-12  # both pieces of eq. 4.10 at z = 1
    assert float(at[3]) < 1e-9
    assert bool((at.diff() <= 0).all())
    circle = gaspari_cohn(Lorenz96(dx=30).distance(), 3.0)
    assert float(torch.linalg.eigvalsh(circle).min()) > -1e-10


def test_localisation_helps_few_members_where_coordinates_are_far_apart():
    model = Lorenz96(dx=40)
    x = 3 * torch.randn((15, 40), dtype=torch.float64, generator=seeded(0))  # independent coordinates
    truth = 3 * torch.randn((1, 40), dtype=torch.float64, generator=seeded(1))
    y = model.simulate(truth, seeded(2))[0]
    wide, local = (EnKF(localisation=c)(model, x, y, seeded(3)).x.mean(0) for c in (None, 1.0))
    assert float((local - truth).norm()) < 0.6 * float((wide - truth).norm())


def test_particles_are_told():
    model = gaussian_model(0.05)
    reported = Bootstrap()(model, model.initial(500, seeded(0)), OBSERVED, seeded(1)).diagnostics
    assert 1 < reported["ess"] < 100
    assert 1 < reported["ancestors"] < 250


@pytest.mark.parametrize("method", EVERY, ids=FILTERS)
class TestEvery:
    def test_cycles_and_seeds(self, method):
        model = Lorenz63()
        truth = twin(model, 25, 0)
        one, again, other = (track(model, method, 60, truth, seed) for seed in (0, 0, 1))
        assert torch.equal(one.rmse, again.rmse)
        assert all(torch.equal(one.diagnostics[key], again.diagnostics[key]) for key in one.diagnostics)
        assert not torch.equal(one.rmse, other.rmse)
        assert all(value > 0 for value in one.summary(5).values())

    def test_members_of_float32_are_left_as_they_were(self, method):
        model = gaussian_model()
        x = model.initial(100, seeded(0)).float()
        before = x.clone()
        one, two = (method(model, part, OBSERVED.to(part), seeded(1)).x for part in (x, x.double()))
        assert one.dtype == torch.float64
        assert torch.allclose(one, two, atol=1e-5)
        assert torch.equal(x, before)

    def test_a_coordinate_that_does_not_vary_stays(self, method):
        x = torch.randn((400, 2), dtype=torch.float64, generator=seeded(0))
        x[:, 1] = 0.3
        found = method(PLAIN, x, torch.tensor([1.0, 0.5], dtype=torch.float64), seeded(1)).x
        assert torch.allclose(found[:, 1], x[:, 1])
        assert float(found[:, 0].mean()) == pytest.approx(0.8, abs=0.2)
        x = torch.ones(100, 2).double()
        assert torch.allclose(method(PLAIN, x, x[0], seeded(1)).x, x)


@pytest.mark.parametrize("factor", [1e10, float("nan")])
def test_a_filter_that_diverges_is_told_with_its_cycle(factor):
    class Far(Filter):
        name = "far"

        def _analyse(self, model, x, y, generator):
            return Analysis(x * factor + factor, {})

    with pytest.raises(CSBError, match=r"cycle 1: far gave members .* it diverged"):
        track(Lorenz63(), Far(), 10, twin(Lorenz63(), 3, 0), 0)


def test_scores_of_a_known_ensemble():
    truth = twin(Lorenz63(), 30, 0)
    states = iter(truth.x)

    class Truth(Filter):
        """Members around the truth, known in advance."""

        name = "truth"

        def _analyse(self, model, x, y, generator):
            return Analysis(next(states) + torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]).double(), {"n": 1.0})

    found = track(Lorenz63(), Truth(), 4, truth, 0)
    assert float(found.rmse.max()) < 1e-12
    assert torch.allclose(found.spread, torch.full((30,), (4 / 3) ** 0.5, dtype=torch.float64))
    assert torch.allclose(found.crps, torch.full((30,), 1 - 2 / 3, dtype=torch.float64))  # 1 − ½ mean |x_i − x_j|
    assert found.diagnostics["n"].tolist() == [1.0] * 30


def test_standard_errors_know_that_neighbours_are_alike():
    noise = torch.randn(20_000, dtype=torch.float64, generator=seeded(0))
    smooth = torch.from_numpy(lfilter([1.0], [1.0, -0.9], noise.numpy()))
    assert abs(batch_mean(noise)[1] / 20_000**-0.5 - 1) < 0.5
    assert abs(batch_mean(smooth)[1] / (10 * 20_000**-0.5) - 1) < 0.5  # 1/(1 − .9) times as large
    with pytest.raises(CSBError, match="too few for a standard error"):
        batch_mean(noise[:19])


THREE, SEEN = torch.eye(3).double(), torch.zeros(3).double()


def analysed(method, x=THREE, y=SEEN):
    """Of three members, which are too few for most."""
    return method(Lorenz63(), x, y, seeded(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnKF(inflation=0.9), "inflation=0.9"),
        (lambda: Bootstrap(-1), "regularisation=-1"),
        (lambda: EnSF(floor=1), "floor=1"),
        (lambda: BridgeFilter(way="back"), "way='back' is unknown"),
        (lambda: analysed(EnKF(localisation=2.0)), "distances"),
        (lambda: analysed(BridgeFilter()), "cannot fit 32"),
        (lambda: analysed(EnKF(), THREE[:1]), r"members \(1, 3\) and y \(3,\) do not fit lorenz63"),
        (lambda: analysed(EnKF(), THREE[:, :2]), r"members \(3, 2\)"),
        (lambda: analysed(EnKF(), y=SEEN[:2]), r"y \(2,\)"),
        (lambda: analysed(EnKF(), THREE / 0), "the filter diverged"),
        (lambda: analysed(EnKF(), y=np.ma.array(np.zeros(3), mask=[0, 1, 0])), "are not finite"),
    ],
)
def test_bad_settings_and_what_does_not_fit(make, message):
    with pytest.raises(CSBError, match=message):
        make()


def test_a_direction_without_spread():
    x = torch.randn((400, 1), dtype=torch.float64, generator=seeded(0)) * torch.tensor([1.0, 2.0]).double()
    found = BridgeFilter()(PLAIN, x, torch.tensor([1.0, 2.0]).double(), seeded(1)).x
    assert torch.allclose(found[:, 1], 2 * found[:, 0])
    assert float(found[:, 0].mean()) == pytest.approx(5 / 5.25, abs=0.1)


def test_twins_of_an_observation_without_noise():
    H = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    model, y = LinearGaussianModel(EYE, EYE, H, PLAIN.start, 1e-12), torch.tensor([0.4, 0.4]).double()
    x = torch.randn((400, 2), dtype=torch.float64, generator=seeded(0))
    found = EnKF()(model, x, y, seeded(1)).x
    assert torch.allclose(found[:, 0], torch.full((400,), 0.4).double(), atol=1e-6)
    assert torch.allclose(model.condition(model.start, y).mean, torch.tensor([0.4, 0.0]).double(), atol=1e-6)
