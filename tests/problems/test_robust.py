"""The bulk of a coordinate has unit scale whatever its tails do; offsets leave and return; the finest scale of data."""

import logging

import numpy as np
import pytest
import torch

from csb.errors import CSBError
from csb.problems import FilePairs, Pairs, Probit, Reflect, Standardise, TwoMoons, build_transform
from csb.problems.rows import Rows, finest_scale
from csb.problems.scale import Scale, bulk, codes
from csb.process import seeded
from tests.problems.conftest import KINDS, write

N = 20_000


def normal(n=N, key=0):
    return torch.randn(n, generator=seeded(key), dtype=torch.float64)


def uniform(n=N, key=0):
    return torch.rand(n, generator=seeded(key), dtype=torch.float64)


def changed(every, value):
    v = normal()
    v[::every] = value
    return v


QUARTILES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
CLEAN = {"normal": normal(), "far": 50 + normal(), "uniform": uniform(), "exponential": -uniform().log()}
TAILS = {
    "one row": changed(N, 1e5),
    "a code": changed(1000, -9999.0),
    "codes in 3 %": changed(33, -9999.0),
    "log-normal": (3 * normal()).exp(),
    "both signs over decades": (3 * normal()).exp() * (1 - 2 * (uniform(key=1) < 0.5).double()),
    "log-uniform": 10 ** (6 * uniform() - 3),
    "Cauchy": normal() / normal(key=1),
}


def fitted(v):
    return Scale.fit(v[:, None], v.mean()[None], v.std(correction=0)[None])


@pytest.mark.parametrize("name", CLEAN | TAILS)
def test_a_linear_map_fits_the_bulk_and_clean_coordinates_keep_mean_and_standard_deviation(name):
    v = (CLEAN | TAILS)[name]
    mean, std = v.mean(), v.std(correction=0)
    centre, spread = bulk(v[:, None], mean[None], std[None])
    if name in CLEAN:
        assert (float(centre), float(spread)) == (float(mean), float(std))
        assert bool(fitted(v).plain.all())
        assert torch.equal(fitted(v).encode(v), (v - mean) / std)
    low, middle, high = ((v - centre) / spread).quantile(QUARTILES).tolist()
    assert abs(middle) < 0.4
    assert 0.02 < high - low < 2.8  # a linear map cannot spread what lies over decades


@pytest.mark.parametrize("name", TAILS)
def test_the_bulk_has_unit_scale_and_the_slope_is_the_derivative(name):
    v, scale = TAILS[name], fitted(TAILS[name])
    low, middle, high = scale.encode(v[:, None]).quantile(QUARTILES).tolist()
    assert 0.4 < (high - low) / 1.349 < 2.5
    assert abs(middle) < 0.1
    v = torch.cat([TAILS[name][:500], torch.tensor([-1e6, 1e6])]).double().requires_grad_()
    (slope,) = torch.autograd.grad(scale.encode(v).sum(), v)
    torch.testing.assert_close(scale.log_slope(v.detach()), slope.log(), rtol=1e-6, atol=1e-6)
    z = scale.encode(v.detach()).requires_grad_()
    (back,) = torch.autograd.grad(scale.decode(z).sum(), z)  # guided samplers differentiate decode
    torch.testing.assert_close(back.log(), -slope.log(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CLEAN if name != "far"])
def test_of_y_alone_skewed_coordinates_become_nearly_normal(name):
    v = CLEAN[name].float()[:, None]
    x, y = (standardised(key, v, normal(key=3).float()[:, None]).scale(key) for key in ("x", "y"))
    assert bool(x.plain.all())
    assert bool(y.plain.all()) == (name != "exponential")
    z = y.encode(v).double()
    assert abs(float((z**3).mean())) < 0.7  # 2 of an exponential law in linear units


@pytest.mark.parametrize("name", TAILS)
def test_the_map_is_increasing_on_the_whole_line_and_has_an_inverse(name):
    scale = fitted(TAILS[name])
    size = torch.logspace(-6, 30, 500, dtype=torch.float64)
    v = torch.cat([-size.flip(0), size])
    z = scale.encode(v)
    assert bool((z.diff() > 0).all())
    assert float(z.abs().max()) < 200  # a network still works there
    torch.testing.assert_close(scale.decode(z), v, rtol=1e-9, atol=1e-9)


def test_masses_are_no_codes_and_repeated_ends_far_out_are():
    counts = torch.poisson(torch.full((N,), 3.0), generator=seeded(0)).double()
    for v in (counts * (uniform() > 0.8), torch.poisson(50 * (uniform() > 0.8).double(), generator=seeded(1)), counts):
        assert codes(v[:, None], fitted(v)) == []
    assert codes(TAILS["one row"][:, None], fitted(TAILS["one row"])) == []  # it does not repeat
    both = changed(1000, -9999.0)
    both[1::1000] = 9999.0
    assert codes(both[:, None], fitted(both)) == [(0, -9999.0), (0, 9999.0)]


def standardised(key, bad, good):
    """A fitted transform, of which x or y holds what is bad."""
    shape = bad.shape[1:]
    return Standardise(shape, shape).fit(Rows.of(Pairs(*((bad, good) if key == "x" else (good, bad)))))


@pytest.mark.parametrize("key", ["x", "y"])
def test_a_likely_code_is_named_with_its_rows(key, caplog):
    good, bad = (torch.stack([normal(), second], 1).float() for second in (normal(key=1), changed(1000, -9999)))
    with caplog.at_level(logging.WARNING):
        standardised(key, bad, good)
    (record,) = caplog.records
    assert f"column 1 of {key} is -9999 in 20 rows" in record.getMessage()


@pytest.mark.parametrize("key", ["x", "y"])
def test_one_hot_pixel_leaves_the_others_their_scale(key):
    images = torch.randn(400, 2, 4, 4, generator=seeded(0))
    hot = images.clone()
    hot[5, 1, 2, 2] = 1e6
    transform = standardised(key, hot, images)
    z = transform.encode_x(hot) if key == "x" else transform.encode_y(hot)
    low, high = z[:, 1].flatten().quantile(torch.tensor([0.25, 0.75]))
    assert 0.9 < float(high - low) / 1.349 < 1.1
    torch.testing.assert_close(z[:, 0], images[:, 0], atol=0.1, rtol=0.1)
    if key == "x":
        torch.testing.assert_close(transform.decode(z, hot), hot, rtol=1e-4, atol=1e-4)


class TestBounds:
    """x over six decades, in a box."""

    LOW, HIGH = (1e-3, -1.0), (1e3, 1.0)
    X = torch.stack([TAILS["log-uniform"].clamp(1e-3, 1e3), 2 * uniform(key=3) - 1], 1).float()
    Y = torch.stack([normal(), normal(key=4)], 1).float()

    @pytest.fixture(params=[Reflect, Probit])
    def transform(self, request):
        return request.param((2,), (2,), self.LOW, self.HIGH).fit(Rows.of(Pairs(self.X, self.Y)))

    def test_small_values_are_told_apart(self, transform):
        x = torch.tensor([[2e-3, 0.0], [4e-3, 0.0], [100.0, 0.0], [200.0, 0.0]])
        z = transform.encode_x(x)[:, 0]
        assert float(z[1] - z[0]) > 0.03
        if transform.name == "reflect":
            assert 0.5 < float((z[1] - z[0]) / (z[3] - z[2])) < 2

    def test_states_decode_into_the_box_and_mirrored_ones_to_the_same_x(self, transform):
        z = transform.encode_x(self.X)
        for state in (z, transform.preimage(z, seeded(5))):
            torch.testing.assert_close(transform.decode(state, self.Y), self.X, rtol=2e-3, atol=2e-4)
        wild = transform.decode(20 * torch.randn(N, 2, generator=seeded(6)), self.Y)
        low, high = torch.tensor(self.LOW), torch.tensor(self.HIGH)
        assert bool(((wild >= low) & (wild <= high)).all())

    def test_the_density_has_mass_one(self):
        """That of x for a state N(0, 1), mirrored at the bounds or not, by quadrature over log x."""
        pairs = Pairs(self.X[:, :1], self.Y[:, :1])
        transform = Reflect((1,), (1,), self.LOW[:1], self.HIGH[:1]).fit(Rows.of(pairs))
        grid = torch.linspace(np.log(1.0001e-3), np.log(0.9999e3), 4001, dtype=torch.float64).exp()
        uniform = torch.rand(500, len(grid), 1, generator=seeded(7), dtype=torch.float64)
        total = torch.zeros_like(grid)
        for u in uniform:
            z, log_scale = transform.lift(grid[:, None].float(), u)
            total += (log_scale - 0.5 * (z.double().square().sum(1) + np.log(2 * np.pi))).exp() / len(uniform)
        assert float(torch.trapezoid(total, grid)) == pytest.approx(1, abs=0.01)


class TestOffsets:
    SECONDS = 1.7e9 + 3e3 * normal()[:, None]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("key", ["x", "y"])
    def test_sources_read_float64_where_float32_is_too_coarse(self, kind, key, tmp_path):
        near, far = normal(500, key=1)[:, None].numpy(), self.SECONDS[:500].round().long().numpy()
        problem = FilePairs(**write(tmp_path, kind, {"x": near, "y": near} | {key: far}))
        pairs = problem.pairs("train")
        assert {"x": pairs.x.dtype, "y": pairs.y.dtype} == {"x": torch.float32, "y": torch.float32, key: torch.float64}
        found = torch.cat([getattr(problem.pairs(split), key) for split in ("train", "val", "test")])
        assert sorted(found[:, 0].long().tolist()) == sorted(far[:, 0].tolist())

    @pytest.mark.parametrize("make", [Standardise, lambda x, y: Reflect(x, y, (1.6e9,), (None,))])
    def test_what_is_encoded_comes_back(self, make):
        y = (2.45e6 + normal(key=1))[:, None]
        transform = make((1,), (1,)).fit(Rows.of(Pairs(self.SECONDS, y)))
        z, c = transform.encode_x(self.SECONDS), transform.encode_y(y)
        assert z.dtype == c.dtype == torch.float32
        torch.testing.assert_close(c[:, 0], normal(key=1).float(), atol=0.05, rtol=0.05)
        assert transform.dtype_of("x") == transform.dtype_of("y") == torch.float64
        again = build_transform(transform.spec())
        again.load_state_dict(transform.state_dict())
        x = again.decode(z, y)
        assert x.dtype == torch.float64
        torch.testing.assert_close(x, self.SECONDS, atol=2e-3, rtol=0)

    def test_one_row_far_out_is_no_offset(self, tmp_path):
        x = changed(N, 1e12)[:, None].numpy()
        problem = FilePairs(**write(tmp_path, "npz", {"x": x, "y": x}))
        assert problem.pairs("train").x.dtype == torch.float32
        assert problem.make_transform(problem.rows("train")).dtype_of("x") == torch.float32


def noisy(width, n=20_000):
    """z | c ~ N(c, diag(1, width²)), c ~ N(0, I)."""
    c = torch.randn(n, 2, generator=seeded(1))
    return c + torch.randn(n, 2, generator=seeded(2)) * torch.tensor([1.0, width]), c


class TestTheFinestScale:
    """On laws whose width is known."""

    @pytest.mark.parametrize("width", [0.01, 0.05])
    def test_it_is_the_width_of_the_narrowest_direction(self, width):
        found = finest_scale(*noisy(width, 100_000), seeded(0))
        assert 0.5 * width < found < 1.2 * width  # the tenth of the finest, among neighbours

    def test_it_is_that_of_the_finest_tenth_of_places(self):
        z, c = noisy(0.3)
        narrow = c[:, 0] > 1  # a sixth of them
        z[narrow] = noisy(0.03)[0][narrow]
        assert finest_scale(z, c, seeded(0)) < 0.06

    def test_it_is_that_of_two_moons_crescent(self):
        pairs = TwoMoons().pairs("train", 50_000)
        z, c = ((v - v.mean(0)) / v.std(0) for v in (pairs.x, pairs.y))
        assert 0.5 < finest_scale(z, c, seeded(0)) / (0.01 / float(pairs.x.std())) < 1.5

    def test_shapes_and_too_few(self):
        z, c = noisy(0.1)
        assert finest_scale(z.view(-1, 1, 2), c.view(-1, 2, 1, 1), seeded(0)) == finest_scale(z, c, seeded(0))
        assert 0 < finest_scale(z[:60], c[:60].repeat(1, 40), seeded(0)) < 1  # more numbers in c than pairs
        assert 0 < finest_scale(z[:3000], c[:3000].repeat(1, 2000), seeded(0)) < 1  # a regression would take gigabytes
        many = normal((3000, 300))
        assert 0.3 < finest_scale(many, c[:3000], seeded(0)) < 1  # as would 256 probes
        with pytest.raises(CSBError, match="40 pairs are too few"):
            finest_scale(z[:40], c[:40], seeded(0))
