"""The digit classifier: fast on made-up digits, and in full on MNIST (slow)."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from csb.errors import CSBError
from csb.files import load_state, save_state
from csb.metrics.digits import MIN_ACCURACY, accuracy, digit_probabilities, load_or_train, train_classifier
from csb.problems.mnist import load_mnist
from csb.process import seeded


def bars(n: int, key: int) -> tuple[Tensor, Tensor]:
    """Digit c as a bright column at 2c + 3, with noise."""
    generator = seeded(3, key)
    labels = torch.randint(10, (n,), generator=generator)
    images = 0.3 * torch.rand(n, 1, 28, 28, generator=generator)
    images[torch.arange(n), 0, :, 2 * labels + 3] = 0.9
    return images, labels


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return train_classifier(*bars(1500, 0), seed=0, epochs=2)


def test_it_learns_made_up_digits_and_gives_probabilities(model: torch.nn.Module):
    assert accuracy(model, *bars(300, 1)) >= MIN_ACCURACY
    images, _ = bars(23, 2)
    whole = digit_probabilities(model, images)
    assert (whole.shape, whole.dtype) == ((23, 10), torch.float32)
    torch.testing.assert_close(whole.sum(1), torch.ones(23))
    torch.testing.assert_close(digit_probabilities(model, images, batch=4), whole, rtol=1e-4, atol=1e-6)
    overshoot = torch.where(images > 0.5, 3.0, -1.0)
    clipped = digit_probabilities(model, overshoot.clamp(0, 1).double())
    torch.testing.assert_close(digit_probabilities(model, overshoot), clipped)


def test_training_repeats_and_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (train_classifier(*bars(256, 0), seed=seed, epochs=1) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [next(m.parameters()).detach() for m in (first, second, other)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.nightly
def test_the_file_is_used_and_a_bad_one_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path, data = tmp_path / "cache" / "digits.safetensors", (*bars(1500, 0), *bars(300, 1))

    def load():
        return load_or_train(path, *data, seed=0, epochs=2)

    _, reached = load()
    written = path.stat().st_mtime_ns
    loaded, again = load()
    assert (again, path.stat().st_mtime_ns, loaded.training) == (reached, written, False)
    assert not caplog.records
    content = load_state(path)
    for bad in (b"not a file of torch", {"accuracy": 1.0}, {**content, "accuracy": 0.5}, {**content, "state": {}}):
        path.write_bytes(bad) if isinstance(bad, bytes) else save_state(path, bad)
        with caplog.at_level(logging.WARNING):
            assert load()[1] == reached
        assert str(path) in caplog.messages[-1]
        assert load_state(path)["accuracy"] == reached
    torch.save(content, path.with_suffix(".pt"))  # as an older version
    path.unlink()
    assert load()[1] == reached
    assert not path.exists()


def test_a_poor_classifier_is_refused_and_not_written(tmp_path: Path):
    images, labels = bars(200, 0)
    with pytest.raises(CSBError, match=r"expected at least 98\.5%"):
        load_or_train(tmp_path / "c.pt", images, labels.flip(0), images, labels, seed=0, epochs=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_mnist(tmp_path: Path):
    splits = load_mnist(tmp_path)
    train, test = ((images[:, None].float() / 255, labels) for images, labels in (splits["train"], splits["test"]))
    _, reached = load_or_train(tmp_path / "digits.pt", *train, *test, seed=0)
    assert reached >= MIN_ACCURACY
