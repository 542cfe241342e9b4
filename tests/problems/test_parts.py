"""Observations of named parts: how they are laid side by side, scaled and checked."""

import math

import pytest
import torch

from csb.bridge.samples import packed
from csb.errors import CSBError
from csb.problems import FilePairs
from csb.problems.parts import joined, parts_of, views
from csb.problems.sources import SCHEME, hold
from csb.problems.transform import build_transform
from csb.process import seeded
from tests.conftest import one_line

nan = math.nan
N = 200


def observed(seed=0):
    """A series of 1 to 6 rows, a picture whose corner is constant, and two numbers."""
    g = seeded(seed)
    series = 5 + 3 * torch.randn(N, 6, 2, generator=g)
    series[torch.arange(6) >= 1 + torch.arange(N)[:, None] % 6] = nan
    picture = torch.rand(N, 1, 3, 3, generator=g)
    picture[:, :, 0, 0] = 0
    return {"series": series, "picture": picture, "k": 100 * torch.randn(N, 2, generator=g)}


@pytest.fixture
def problem():
    y = observed()
    held = hold(torch.randn(N, 2, generator=seeded(1)), y, "parts")
    found = FilePairs(path=SCHEME + "parts")
    found.prepare()
    yield found
    del held


def test_parts_lie_side_by_side_in_the_order_of_their_names():
    y = observed()
    flat, parts = joined(y)
    assert parts == {"k": (2,), "picture": (1, 3, 3), "series": (6, 2)}
    assert flat.shape == (N, 2 + 9 + 12)
    for view, name in zip(views(flat, parts), parts):
        assert torch.equal(view.nan_to_num(-1), y[name].nan_to_num(-1))
    assert joined({"b": torch.arange(3), "a": torch.zeros(3, 2)})[1] == {"a": (2,), "b": (1,)}


def test_observations_of_a_model_are_packed_alike():
    y = observed()
    flat, parts = joined(y)
    same = packed({name: y[name] for name in reversed(parts)}, parts)
    assert torch.equal(same.nan_to_num(-1), flat.nan_to_num(-1))
    one = packed({"k": y["k"][3], "picture": y["picture"][3].numpy(), "series": y["series"][3, :4]}, parts)
    assert torch.equal(one.nan_to_num(-1), flat[3].nan_to_num(-1))
    lists = packed(
        {"k": y["k"][:2], "picture": y["picture"][:2], "series": [y["series"][i, : i + 1] for i in (0, 1)]}, parts
    )
    assert torch.equal(lists.nan_to_num(-1), flat[:2].nan_to_num(-1))


def test_large_whole_numbers_beside_others_keep_their_values():
    y = {"k": torch.zeros(2), "time": torch.tensor([1_700_000_001, 1_700_000_002])}
    flat, parts = joined(y)
    for found in (flat, packed(y, parts)):
        assert found[:, 1].tolist() == y["time"].tolist()
    assert joined({"k": torch.zeros(2), "class": torch.tensor([0, 3])})[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": None}, "y lacks the part 'k'; give k, picture, series"),
        ({"z": 1.0}, "y has an unknown part 'z'; give k, picture, series"),
        ({"k": [1.0, 2.0, 3.0]}, r"k of y has shape \(3,\); expected \(2,\) or a batch \(B, 2,\)"),
        ({"k": [[1.0, 2.0]] * 3}, "y holds 3 k, 2 picture, 2 series; give one of each for every observation"),
        ({"k": ["a", "b"]}, "k of y holds values of type"),
    ],
)
def test_wrong_parts_are_named(change, message):
    y = observed()
    given = {name: v[:2] for name, v in y.items()} | change
    with pytest.raises(CSBError, match=message):
        packed({name: value for name, value in given.items() if value is not None}, joined(y)[1])
    assert "was one array in training; give one array" in one_line(lambda: packed(given, None))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ({}, "give {name: array, …}"),
        ({1: torch.zeros(N)}, "a text for each part"),
        (
            {"a": torch.zeros(N), "b": torch.zeros(N - 1)},
            r"b of y has shape \(199, 1\).* as many observations N as a has",
        ),
        ({"a": torch.zeros(N, 1, 1, 1, 1)}, "a of y has shape"),
        ({"a": 3.0, "b": torch.zeros(N)}, r"a of y has shape \(\); expected vectors"),
        ({f"p{i}": torch.zeros(N) for i in range(101)}, "y has 101 parts; give at most 100"),
    ],
)
def test_what_makes_no_parts(y, message):
    with pytest.raises(CSBError, match=message):
        joined(y)


def test_rows_and_pixels_share_a_scale_and_numbers_have_one_each(problem):
    maps, y = problem.make_transform(problem.rows("train")), problem.pairs("train").y
    k, picture, series = views(y.double(), problem.parts)
    mean, std = (views(tensor[None], problem.parts) for tensor in (maps.y_mean, maps.y_std))
    rows = series.flatten(0, 1)
    for (found_mean, found_std), (expected, axes) in zip(zip(mean, std), ((k, 0), (picture, (0, 2, 3)), (rows, 0))):
        centre = expected.nanmean(axes)
        wide = (-1, 1, 1) if expected.ndim == 4 else (-1,)
        spread = (expected - centre.view(wide)).square().nanmean(axes).sqrt()
        for found, exact in ((found_mean, centre), (found_std, spread)):
            assert torch.allclose(found[0].double(), exact.view(wide).expand(found[0].shape), rtol=1e-5)
    assert maps.has_rows
    assert maps.has_gaps
    low = views(maps.y_low[None], problem.parts)[2][0]
    assert torch.equal(low, low[:1].expand(6, 2))


def test_a_constant_number_is_refused_by_name_and_a_constant_pixel_is_not():
    y = observed() | {"k": torch.stack([torch.ones(N), torch.arange(N)], 1)}
    held = hold(torch.randn(N, 2, generator=seeded(1)), y, "constant")
    assert "column 0 of k of y is constant at 1" in one_line(FilePairs(path=SCHEME + "constant").prepare)
    del held


def test_the_description_holds_the_parts_and_is_checked(problem):
    spec = problem.new_transform().spec()
    assert build_transform(spec).parts == problem.parts
    for bad in ({"k": [2]}, {"k": [2, 0]}, {"k": "x"}, {}, [1], {"k": [2**40]}):
        with pytest.raises(CSBError):
            build_transform(spec | {"parts": bad})
    assert parts_of(None, (3,)) is None


def test_other_parts_of_the_same_numbers_are_other_pairs():
    x, flat = torch.randn(N, 2, generator=seeded(1)), torch.randn(N, 3, generator=seeded(2))
    digests = set()
    for y in (flat, {"a": flat[:, :1], "b": flat[:, 1:]}, {"a": flat[:, :2], "b": flat[:, 2:]}):
        held = hold(x, y, "digest")
        digests.add(FilePairs(path=SCHEME + "digest").record()["digest"])
        del held
    assert len(digests) == 3
