"""A small digit classifier that this repository trains itself, to ask which digits a posterior's samples show.

Two strided convolutions and two linear layers, no batch statistics; about 99 % on MNIST's test images after half a
minute on a CPU core. It is a measuring instrument: a sampler is judged by it, so a classifier below 98.5 % is refused.
"""

import logging
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from csb.bridge.bridge import autocast
from csb.dtypes import automatic_precision
from csb.errors import CSBError, in_one_line
from csb.files import SUFFIX, load_state, model_file, save_state
from csb.process import initialised, seeded

logger = logging.getLogger(__name__)

MIN_ACCURACY = 0.985
EPOCHS = 4
BATCH = 128
PEAK_RATE = 2e-3
SAME_ACCURACY = 0.002  # a cached model may differ by this much from its recorded accuracy (hardware, precision)


class DigitClassifier(nn.Sequential):
    """Images (B, 1, 28, 28) in [0, 1] to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )


def _initialised(seed: int) -> DigitClassifier:
    with initialised(seeded(seed, 0).initial_seed()):
        return DigitClassifier()


def train_classifier(images: Tensor, labels: Tensor, *, seed: int, epochs: int = EPOCHS) -> nn.Module:
    """Train on the device of ``images``: AdamW, batches of 128, one-cycle rate to 2e-3, bf16 where it is fast.

    Args:
        images: (N, 1, 28, 28), floats in [0, 1].
        labels: (N,), integers 0–9.
        seed: sets the initial weights and the order of the batches.
        epochs: passes over the images, ≥ 1.
    """
    device, precision = images.device, automatic_precision(images.device)
    labels = labels.to(device=device, dtype=torch.long)
    model = _initialised(seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-3)
    steps = epochs * -(-len(images) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps + 1, pct_start=0.2)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=seeded(seed, 1, epoch)).to(device)
        for batch in order.split(BATCH):
            with autocast(precision, device):
                loss = functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return model.eval()


@torch.no_grad()
def _outputs(layers: nn.Module, images: Tensor, batch: int) -> Tensor:
    """The output for images (B, 1, 28, 28), any floats; a sampler's overshoot beyond [0, 1] is clipped."""
    device = next(layers.parameters()).device
    return torch.cat([layers(part.to(device, torch.float32).clamp(0, 1)) for part in images.split(batch)])


def digit_probabilities(model: nn.Module, images: Tensor, batch: int = 1000) -> Tensor:
    """(B, 10), float32, on the images' device: the classifier's probability of each digit, ``batch`` images at once."""
    return _outputs(model, images, batch).softmax(1).to(images.device)


def digit_features(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 128), float32, on the CPU: what the classifier's last layer reads of images."""
    return _outputs(nn.Sequential(*list(model.children())[:-1]), images, 1000).cpu()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction in [0, 1] of images (B, 1, 28, 28) whose most probable digit is the label (B,)."""
    return float((digit_probabilities(model, images).argmax(1) == labels.to(images.device)).double().mean())


def load_or_train(
    path: str | os.PathLike[str],
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    seed: int,
    *,
    epochs: int = EPOCHS,
) -> tuple[nn.Module, float]:
    """The classifier in the file at ``path``, or a new one, trained on the training images and written there.

    The file holds tensors and the accuracy; one of an older version ends in ``.pt``. A loaded model is measured on the
    test images again: a file that is corrupt, holds another network, or does not reach its recorded accuracy is
    replaced, with a warning in the log. CSBError for a new classifier below 98.5 %, which is not written.

    Returns:
        (model in evaluation mode on the device of ``test_images``, its accuracy on the test images in [0, 1]).
    """
    file = model_file(Path(path).parent, Path(path).stem)
    if file.exists() and (found := _stored(file, test_images, test_labels)) is not None:
        return found
    model = train_classifier(train_images, train_labels, seed=seed, epochs=epochs).to(test_images.device)
    reached = accuracy(model, test_images, test_labels)
    if reached < MIN_ACCURACY:
        raise CSBError(
            f"the digit classifier reached {reached:.2%} after {epochs} epochs on {len(train_images)} images; "
            f"expected at least {MIN_ACCURACY:.1%}; train on all of MNIST, for more epochs or with another seed"
        )
    save_state(file.with_suffix(SUFFIX), {"accuracy": reached, "state": model.state_dict()})
    return model, reached


def _stored(file: Path, test_images: Tensor, test_labels: Tensor) -> tuple[nn.Module, float] | None:
    """The classifier in the file; None, with a warning, where it cannot be used."""
    try:
        content = load_state(file)
        model = _initialised(0)
        model.load_state_dict(content["state"])
        model, recorded = model.to(test_images.device).eval(), float(content["accuracy"])
        reached, why = accuracy(model, test_images, test_labels), "other figures than it records"
        if reached >= MIN_ACCURACY and abs(reached - recorded) <= SAME_ACCURACY:
            return model, reached
    except Exception as error:  # whatever a damaged file raises: it is only a cache
        why = in_one_line(error, 120)
    logger.warning("%s is no digit classifier (%s); training it again", file, why)
    return None
