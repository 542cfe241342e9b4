"""Transforms for a box: samples stay inside, nothing is lost on the way, and the fold has no atoms."""

import json

import pytest
import torch
from scipy import stats

from csb.errors import CSBError
from csb.problems import (
    Pairs,
    Probit,
    Reflect,
    SbiGaussianLinearUniform,
    SbiGaussianMixture,
    Standardise,
    Support,
    TwoMoons,
    build_problem,
    build_transform,
)
from csb.problems.bounded import EDGE, fold, make_bounded
from csb.problems.rows import Rows
from csb.process import seeded
from csb.training.pairs import encoded

KINDS = {"reflect": Reflect, "probit": Probit}
SUPPORT = Support((-1.0, 0.1, -float("inf")), (1.0, 0.3, float("inf")))


def uniform(n, key=0):
    """x uniform in the box of SUPPORT, normal where it has no bounds; and y."""
    generator = seeded(3, key)
    u = torch.rand(n, 3, generator=generator)
    x = torch.stack([2 * u[:, 0] - 1, 0.1 + 0.2 * u[:, 1], 5 + 2 * torch.randn(n, generator=generator)], 1)
    low, high = SUPPORT.tensors(x)
    return Pairs(x.clamp(low, high), torch.randn(n, 2, generator=generator))


def fit(kind, pairs):
    return make_bounded(kind, (3,), (2,), SUPPORT).fit(Rows.of(pairs))


@pytest.fixture(params=KINDS)
def fitted(request):
    return fit(request.param, uniform(20_000))


def test_decode_lies_in_the_closed_box_for_any_state(fitted):
    generator = seeded(4)
    size = 10.0 ** (60 * torch.rand(20_000, 1, generator=generator) - 30)
    ends = torch.tensor([[0.0], [1e30], [-1e30]]).expand(3, 3)
    z = torch.cat([size * torch.randn(20_000, 3, generator=generator), ends])
    x = fitted.decode(z, torch.zeros(len(z), 2))
    assert bool(torch.isfinite(x).all())
    assert bool(SUPPORT.contains(x).all())
    if fitted.name == "probit":
        with pytest.raises(CSBError, match="1 of 50 x lie outside the box"):
            fitted.encode_x(torch.cat([uniform(49).x, torch.tensor([[1.5, 0.2, 0.0]])]))
    if fitted.name == "reflect":  # no atom, at a bound or elsewhere
        x = fitted.decode(3 * torch.randn(20_000, 3, generator=generator), torch.zeros(20_000, 2))
        assert len(x[:, 0].unique()) > 19_000


def test_values_at_the_bounds_stay_finite(fitted):
    x = torch.tensor([[-1.0, 0.1, 5.0], [1.0, 0.3, 5.0]])
    z = fitted.encode_x(x)
    assert float(z.abs().max()) < 5.5
    torch.testing.assert_close(fitted.decode(z, torch.zeros(2, 2)), x, atol=3 * EDGE, rtol=1e-6)


def test_spec_is_strict_json_and_restores(fitted):
    x, y, _ = uniform(100, 2)
    text = json.dumps(fitted.spec(), allow_nan=False)
    assert json.loads(text)["low"] == [-1.0, 0.1, None]
    again = build_transform(json.loads(text))
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again.encode_x(x), fitted.encode_x(x))
    assert torch.equal(again.decode(x, y), fitted.decode(x, y))
    held = {key: value for key, value in fitted.state_dict().items() if key != "softness"}
    assert set(held) == set(Standardise((3,), (2,)).state_dict())
    older = build_transform(fitted.spec())
    older.load_state_dict(held)  # of before the softness
    assert torch.equal(older.preimage(x, seeded(1)), x)


class TestPreimage:
    """Reflect.preimage: the fold undone at random."""

    def test_decodes_to_the_same_x_as_the_state_itself(self, fitted):
        x, y, _ = uniform(20_000, 1)
        z = fitted.encode_x(x)
        torch.testing.assert_close(z.std(0), torch.ones(3), atol=0.05, rtol=0)
        torch.testing.assert_close(fitted.decode(z, y), x, atol=2e-6, rtol=1e-6)  # in float32 both
        moved = fitted.preimage(z, seeded(1))
        torch.testing.assert_close(fitted.decode(moved, y), x, atol=3e-6, rtol=1e-6)
        assert bool((moved != z).any()) == (fitted.name == "reflect")
        assert torch.equal(moved[:, 2], z[:, 2])  # without bounds
        assert torch.equal(fitted.preimage(z, seeded(1)), moved)

    def test_trainings_take_it(self):
        """csb.training.pairs.encoded, the only way from pairs to what is fitted."""
        x, y, _ = both = uniform(5000)
        t, rows = fit("reflect", both), torch.arange(5000)
        pairs = encoded(t, Rows.of(both))
        (z, c), plain = pairs.to_train_on(rows, seeded(0)), t.encode_x(x)
        moved = z != plain
        assert 0.005 < float(moved[:, :2].float().mean()) < 0.2
        torch.testing.assert_close(t.decode(z, y), x, atol=3e-6, rtol=1e-6)
        assert torch.equal(c, t.encode_y(y))
        assert torch.equal(pairs.plain(rows)[0], plain)
        assert torch.equal(pairs.to_train_on(rows, seeded(0))[0], z)
        assert not torch.equal(pairs.to_train_on(rows, seeded(1))[0], z)

    def test_density_crosses_the_wall_as_the_formula_says(self):
        """x uniform: the density of states is Φ(signed distance/s)."""
        pairs = uniform(400_000)
        t = fit("reflect", pairs)
        s, width = float(t.softness[0]), float(2 / t.x_std[0])
        assert 0.01 < s <= width / 8
        z = t.preimage(t.encode_x(pairs.x), seeded(2))[:, 0]
        bound = float((1 - t.x_mean[0]) / t.x_std[0])
        edges = torch.linspace(-4 * s, 4 * s, 33)
        counts = torch.histc(bound - z, 32, -4 * s, 4 * s).double()  # positive: inside
        inside = torch.special.ndtr(edges / s).double()
        middle = torch.special.ndtr((edges[1:] + edges[:-1]) / 2 / s).double()
        simpson = (inside[1:] + inside[:-1] + 4 * middle) / 6
        expected = len(z) / width * (8 * s / 32) * simpson
        chi2 = ((counts - expected).square() / expected)[expected > 5]
        assert stats.chi2.sf(float(chi2.sum()), len(chi2)) > 1e-3

    def test_a_point_on_the_wall_and_no_softness(self):
        t = make_bounded("reflect", (3,), (2,), SUPPORT)
        z = torch.tensor([[1.0, 0.2, 0.0]]).repeat(1000, 1)
        assert torch.equal(t.preimage(z, seeded(0)), z)
        assert not bool(fit("reflect", uniform(20)).softness.any())  # too few pairs to see a scale


def test_a_uniform_prior_becomes_standard_normal_under_probit():
    problem = SbiGaussianLinearUniform(n_train=20_000, transform="probit")
    pairs = problem.pairs("train")
    z = problem.make_transform(pairs).encode_x(pairs.x)
    for column in z.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-4
    assert float((z.T.corrcoef() - torch.eye(10)).abs().max()) < 0.04


def test_the_fold_is_a_mirror_at_each_wall_and_moves_nothing_inside():
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    x = torch.tensor([[-1.25], [1.25], [3.5], [-3.5], [5.0], [0.3], [1.0], [-1.0]])
    expected = torch.tensor([[-0.75], [0.75], [-0.5], [0.5], [1.0], [0.3], [1.0], [-1.0]])
    torch.testing.assert_close(fold(x, low, high), expected)
    inside = 2 * torch.rand(1000, 1, generator=seeded(1)) - 1
    assert torch.equal(fold(inside, low, high), inside)
    infinite = torch.tensor([float("inf")])
    torch.testing.assert_close(fold(x, low, infinite), torch.where(x < -1, -2 - x, x))
    torch.testing.assert_close(fold(x, -infinite, high), torch.where(x > 1, 2 - x, x))
    assert torch.equal(fold(x, -infinite, infinite), x)


HALF = Support((0.0,), (float("inf"),))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Reflect((2,), (2,), (0.0,), (1.0,)), r"is not below high=\[1.0\] in each of 2 coordinates"),
        (lambda: Reflect((1, 2, 2), (2,), (0.0,), (1.0,)), "x_shape="),
        (lambda: Probit((1,), (2,), (float("nan"),), (1.0,)), r"low\[0\]="),
        (lambda: build_problem({"name": "two_moons", "transform": "logit"}), "transform='logit' is unknown"),
        (lambda: make_bounded("probit", (1,), (1,), HALF), "coordinate 0 of x has one bound; probit needs both or"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(CSBError, match=match):
        make()


@pytest.mark.parametrize(("kind", "cls"), [("standardise", Standardise), *KINDS.items()])
def test_the_problems_take_each_kind(kind, cls):
    problem = SbiGaussianMixture(n_train=300, transform=kind)
    pairs = problem.pairs("train")
    t = problem.make_transform(pairs)
    assert type(t) is cls
    x = t.decode(3 * torch.randn(500, 2, generator=seeded(1)), pairs.y[:1].expand(500, -1))
    assert bool(problem.support.contains(x).all()) == (kind != "standardise")
    assert bool(problem.support.contains(problem.impose(20 * x, x)).all())
    assert isinstance(TwoMoons().new_transform(), Standardise)
    assert isinstance(SbiGaussianMixture().new_transform(), Reflect)


def test_images_are_standardised_channel_by_channel():
    generator = seeded(8)
    x = 3 + 2 * torch.randn(2500, 2, 4, 6, generator=generator)
    x[:, 1] = 100 + 10 * x[:, 1]
    x[:, 0, 0, 0] = 3.0  # a constant pixel is fine
    y = 7 * torch.randn(2500, 5, generator=generator)
    t = Standardise((2, 4, 6), (5,)).fit(Rows.of(Pairs(x, y)))
    z = t.encode_x(x)
    assert t.z_shape == (2, 4, 6)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(t.decode(z, y), x, rtol=1e-5, atol=1e-4)
    again = build_transform(json.loads(json.dumps(t.spec())))
    again.load_state_dict(t.state_dict())
    assert torch.equal(again.encode_x(x), z)
    x[:, 1] = 4.0
    with pytest.raises(CSBError, match="channel 1 of x is constant"):
        t.fit(Rows.of(Pairs(x, y)))
    with pytest.raises(CSBError, match="x_shape="):
        Standardise((1, 2), (3,))


def test_standardise_names_the_useless_column():
    x, y = torch.randn(50, 2, generator=seeded(1)), torch.randn(50, 3, generator=seeded(2))
    t = Standardise((2,), (3,)).fit(Rows.of(Pairs(x, y)))
    assert all(v.dtype == torch.float32 for v in t.state_dict().values())
    assert t.double().encode_x(x.double()).dtype == torch.float64
    y[:, 1] = 0.1
    with pytest.raises(CSBError, match="column 1 of y is constant"):
        t.fit(Rows.of(Pairs(x, y)))
    x[3, 0] = float("nan")
    with pytest.raises(CSBError, match="column 0 of x"):
        t.fit(Rows.of(Pairs(x, y)))
