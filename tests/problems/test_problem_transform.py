"""Transforms to unit scale and of pixels."""

import pytest
import torch

from csb.errors import CSBError
from csb.problems import Pairs, PixelRange, Rows, Standardise
from csb.process import seeded


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed, 7), dtype=torch.float64)


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
    for shapes, key in ((((1, 2), (3,)), "x_shape="), (((2,), (1, 3)), "y_shape=")):
        with pytest.raises(CSBError, match=key):
            Standardise(*shapes)


def test_pixel_range():
    t = PixelRange((1, 4, 4), (1, 2, 2))
    x, y = torch.rand(3, 1, 4, 4, generator=seeded(0)), torch.rand(3, 1, 2, 2, generator=seeded(1))
    assert torch.equal(t.encode_x(x), 2 * x - 1)
    assert torch.equal(t.encode_y(y), 2 * y - 1)
    torch.testing.assert_close(t.decode(t.encode_x(x), y), x)
    beyond = torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert t.decode(beyond, y[:2]).flatten(1).unique(dim=1).tolist() == [[0.0], [1.0]]


def test_transforms_move_with_their_module():
    t = Standardise((2,), (3,)).fit(Rows.of(Pairs(normal(50, 2).float(), normal(50, 3, seed=1).float()))).double()
    assert t.encode_x(normal(4, 2)).dtype == torch.float64
