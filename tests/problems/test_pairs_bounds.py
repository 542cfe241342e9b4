"""Own pairs whose x has bounds: the transform keeps samples inside, and what does not fit is reported in one line."""

import numpy as np
import pytest
import torch

from csb.errors import CSBError
from csb.problems import FilePairs, Probit, Reflect, Standardise, build_problem


@pytest.fixture
def path(tmp_path):
    """x uniform in [−1, 1] × [0, ∞) × ℝ."""
    generator = np.random.default_rng(0)
    x = np.stack([generator.uniform(-1, 1, 300), generator.exponential(size=300), generator.normal(size=300)], 1)
    np.savez(tmp_path / "p.npz", x=x, y=x[:, :2] + generator.normal(size=(300, 2)))
    return str(tmp_path / "p.npz")


def read_all(path, **arguments):
    """As a training does it: shapes first, then the data."""
    problem = FilePairs(path, **arguments)
    problem.new_transform()
    problem.prepare()


LOW, HIGH = (-1, 0, None), (1, None, None)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({}, Standardise),
        ({"low": LOW, "high": HIGH}, Reflect),
        ({"low": LOW}, Reflect),
        ({"low": (-1, None, None), "high": HIGH, "transform": "probit"}, Probit),
        ({"low": LOW, "high": HIGH, "transform": "standardise"}, Standardise),
    ],
)
def test_the_transform_of_the_bounds(path, arguments, kind):
    problem = FilePairs(path, **arguments)
    transform = problem.make_transform(problem.pairs("train"))
    assert type(transform) is kind
    again = build_problem(problem.spec())
    assert again.spec() == problem.spec()
    x = transform.decode(torch.randn(500, 3) * 5, torch.zeros(500, 2))
    if kind is not Standardise:
        assert bool(problem.support.contains(x).all())
        assert float(x[:, 2].min()) < -1  # which has no bound


def test_one_number_is_for_all_coordinates(path):
    assert FilePairs(path, low=-10, high=10.0).support == ((-10.0,) * 3, (10.0,) * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": "logit"}, "transform='logit' is unknown; choose one of auto"),
        ({"transform": "reflect"}, "transform=reflect needs the bounds of x; give data.low"),
        ({"low": (0, 0)}, "low=(0, 0) does not bound x of shape (3,)"),
        ({"low": (float("-inf"), 0, 0)}, "low=(-inf, 0, 0) is not possible; give a finite number or a list"),
        ({"low": (-1, 0, 1), "high": (1, 2, 1)}, "is not below high"),
        ({"low": LOW, "transform": "probit"}, "has one bound"),
        ({"low": -0.5}, "of the 300 x of"),
        ({"low": LOW, "high": (0.5, None, None)}, "and not in [-1, 0.5]; fix the bounds"),
    ],
)
def test_what_does_not_fit(path, arguments, message):
    with pytest.raises(CSBError) as error:
        read_all(path, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_images_have_no_bounds(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.random.default_rng(0).normal(size=(200, 1, 4, 4)), y=np.zeros((200, 1, 4, 4)))
    with pytest.raises(CSBError, match=r"bounds are for vectors"):
        FilePairs(str(tmp_path / "p.npz"), low=0).new_transform()


def test_ill_typed_bounds(path):
    for value in ("zero", [[0]], True):
        with pytest.raises(CSBError, match="low="):
            build_problem({"name": "pairs", "path": path, "low": value})
