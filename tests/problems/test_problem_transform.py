"""Transforms and operators."""

import pytest
import torch

from csb.errors import CSBError
from csb.problems import (
    AveragePool,
    Hole,
    InpaintBox,
    Matrix,
    Pairs,
    PixelRange,
    Rows,
    Standardise,
    build_transform,
)
from csb.process import seeded

SHAPE = (2, 8, 12)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed, 7), dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: InpaintBox((28, 28), (0, 0, 4, 4)), "give a list of 3, each an integer"),
        (lambda: InpaintBox(SHAPE, (5, 0, 4, 4)), "does not lie"),
        (lambda: InpaintBox(SHAPE, (-1, 0, 4, 4)), "does not lie"),
        (lambda: InpaintBox(SHAPE, (0, 0, 0, 4)), "does not lie"),
        (lambda: AveragePool(SHAPE, 3), "factor=3"),
        (lambda: AveragePool(SHAPE, 0), "factor=0"),
        (lambda: Matrix(torch.zeros(3)), "expected a matrix"),
        (lambda: Hole(SHAPE, (0, 9, 4, 4)), "does not lie"),
        (lambda: Standardise((1, 2), (3,)), "x_shape="),
        (lambda: Standardise((2,), (1, 3)), "y_shape="),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(CSBError, match=match):
        make()


def test_standardise():
    x, y = 3 + 2 * normal(500, 2).float(), normal(500, 3, seed=1).float() - 100
    t = Standardise((2,), (3,)).fit(Rows.of(Pairs(x, y)))
    for z in (t.encode_x(x), t.encode_y(y)):
        torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.std(0, correction=0), torch.ones(z.shape[1]), atol=1e-4, rtol=0)
    assert {"x_mean", "x_std", "y_mean", "y_std"} <= set(t.state_dict())
    assert all(v.dtype == torch.float32 for v in t.state_dict().values())


def test_standardise_names_the_useless_column():
    x, y = normal(50, 2).float(), normal(50, 3, seed=1).float()
    y[:, 1] = 0.1
    with pytest.raises(CSBError, match="column 1 of y is constant"):
        Standardise((2,), (3,)).fit(Rows.of(Pairs(x, y)))
    x[3, 0] = float("nan")
    with pytest.raises(CSBError, match="column 0 of x"):
        Standardise((2,), (3,)).fit(Rows.of(Pairs(x, y)))


def test_pixel_range():
    t = PixelRange((1, 4, 4), (1, 2, 2))
    x, y = torch.rand(3, 1, 4, 4, generator=seeded(0)), torch.rand(3, 1, 2, 2, generator=seeded(1))
    assert torch.equal(t.encode_x(x), 2 * x - 1)
    assert torch.equal(t.encode_y(y), 2 * y - 1)
    torch.testing.assert_close(t.decode(t.encode_x(x), y), x)
    beyond = torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert t.decode(beyond, y[:2]).flatten(1).unique(dim=1).tolist() == [[0.0], [1.0]]


def test_hole_runs_over_the_unknown_pixels_only():
    box = (1, 2, 3, 5)
    t, A = Hole(SHAPE, box), InpaintBox(SHAPE, box)
    x = torch.rand(4, *SHAPE, generator=seeded(0))
    y = A(x)
    z, c = t.encode_x(x), t.encode_y(y)
    assert z.shape == (4, *t.z_shape) == (4, 2, 3, 5)
    assert torch.equal(z, 2 * x[:, :, 1:4, 2:7] - 1)
    assert bool((c[:, :, 1:4, 2:7] == 0).all())
    known = A.mask.bool()
    assert torch.equal(c[:, known], 2 * y[:, known] - 1)
    torch.testing.assert_close(t.decode(z, y), x)
    other = t.decode(torch.full_like(z, 9.0), y)
    assert torch.equal(other[:, known], x[:, known])
    assert bool((other[:, ~known] == 1).all())
    assert bool((y[:, ~known] == 0).all())  # y itself is left as it was
    again = build_transform(t.spec())
    assert torch.equal(again.encode_y(y), c)


def test_transforms_move_with_their_module():
    t = Standardise((2,), (3,)).fit(Rows.of(Pairs(normal(50, 2).float(), normal(50, 3, seed=1).float()))).double()
    assert t.encode_x(normal(4, 2)).dtype == torch.float64
