"""Angles, integers and categories: samples are of their kind, training states decode to x, densities are exact."""

import pytest
import torch

from csb.errors import CSBError
from csb.problems import FilePairs, Mixed, Pairs, build_transform
from csb.problems.rows import Rows, finest_scale
from csb.process import seeded
from tests.problems.conftest import write

N, PI = 5000, torch.pi
BOX, KINDS = ((0.0, -PI, 0.0, 0.0), (None, PI, None, 2.0)), ("real", "angle", "integer", "category")


def pairs(n=N, key=0):
    """A rate x₀ > 0, an angle x₁ around ±π, a count x₂ over decades, a category x₃ of three; and y."""
    g = seeded(7, key)
    rate, turn, wide = torch.randn(3, n, generator=g)
    angle, count = (0.8 * turn).remainder(2 * PI) - PI, torch.poisson((3 * wide).exp(), generator=g)
    x = torch.stack([rate.exp(), angle, count, torch.randint(3, (n,), generator=g)], 1)
    return Pairs(x, torch.randn(n, 2, generator=g) + x[:, :1])


@pytest.fixture(scope="module")
def fitted():
    return Mixed((4,), (2,), *BOX, KINDS).fit(Rows.of(pairs()))


def test_samples_are_of_their_kind_and_files_restore_it(fitted):
    size = 10.0 ** (24 * torch.rand(N, 1, generator=seeded(1)) - 12)
    z, y = torch.cat([3 * torch.ones(N, 1), size]) * torch.randn(2 * N, 4, generator=seeded(2)), torch.zeros(2 * N, 2)
    rate, angle, count, category = (x := fitted.decode(z, y)).T
    assert -PI <= float(angle.min()) < float(angle.max()) < PI
    assert torch.equal(count, count.round())
    assert float(rate.min()) >= 0 == float(count.min())
    assert category.unique().tolist() == [0, 1, 2]
    again = build_transform(fitted.spec())
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again.decode(z, y), x)
    assert torch.equal(again.preimage(z[:N], seeded(1)), fitted.preimage(z[:N], seeded(1)))


def test_training_states_decode_to_x_and_fill_the_cells(fitted):
    x, y, _ = pairs(key=1)
    z, c = fitted.encode_x(x), fitted.encode_y(y)
    moved, whole = fitted.preimage(z, seeded(4)), fitted.dequantised(z, seeded(5))
    torch.testing.assert_close(fitted.decode(moved, y), x, atol=1e-5, rtol=1e-4)
    assert float((moved[x[:, 3] == 1, 3] * fitted.x_std[3]).std()) == pytest.approx(12**-0.5, rel=0.05)
    assert finest_scale(z, c, seeded(6)) < 1e-3 < 0.02 < finest_scale(whole, c, seeded(6))


def test_states_of_a_uniform_angle_fall_off_at_both_ends():
    x, s = PI * (2 * torch.rand(200_000, 1, generator=seeded(1)) - 1), 0.3
    transform = Mixed((1,), (1,), (-PI,), (PI,), ("angle",)).fit(Rows.of(Pairs(x, x + 1)))
    transform.softness.fill_(s)
    z = transform.preimage(transform.encode_x(x), seeded(2))[:, 0]
    for beyond in (z > 3**0.5, z < -(3**0.5)):  # ∫ Φ(−δ/s) dδ over the period √12
        assert float(beyond.double().mean()) == pytest.approx(s / (24 * PI) ** 0.5, rel=0.05)
    torch.testing.assert_close(transform.decode(z[:, None], x), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ([(7, 2, 1.5)], {}, "column 2 of x of .* is 1.5 in row 7; as integer it must be whole: round it"),
        ([(9, 1, 4)], {}, r"column 1 is 4 and not in \[-3.14159, 3.14159\]"),
        ([], {"low": (None, -4, None, None)}, "coordinate 1 of x is of kind angle and has one bound"),
        ([], {"kinds": ("angle",)}, r"kinds=\['angle'\] do not fit x of shape \(4,\)"),
        ([], {"transform": "probit", "low": 0}, "transform=probit knows no kinds"),
    ],
)
def test_that_do_not_fit(tmp_path, change, more, message):
    x, y, _ = pairs(300)
    for row, column, value in change:
        x[row, column] = value
    files = write(tmp_path, "npz", {"x": x.numpy(), "y": y.numpy()})
    with pytest.raises(CSBError, match=message):
        FilePairs(**files, **{"kinds": KINDS, **more}).new_transform()
