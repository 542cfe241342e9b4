"""Scores of posterior samples of digits: accuracy, calibration, and whether they show the right digit."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csb.bridge import Bridge
from csb.evaluation.chunks import draw_chunks
from csb.evaluation.classifier import digit_probabilities, load_or_train
from csb.evaluation.metrics import EnsembleScores, std_error_correlation
from csb.evaluation.scores import hole_mask
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.problems import Pairs
from csb.problems.tasks.mnist import load_mnist
from csb.process import Stream, seeded

_CHUNK = 64  # observations drawn at once
_RELIABILITY = 100  # observations whose pixels are binned by their standard deviation


class ImageScores(NamedTuple):
    """``row``: figures of one bridge; ``reliability``: rows of the table of pixel std against error."""

    row: dict[str, float]
    reliability: list[dict[str, float]]


def digit_classifier(root: str, seed: int = 0) -> tuple[nn.Module, float]:
    """The repo's digit classifier, trained once and kept beside the data: the model and its test accuracy."""
    data = load_mnist(root)
    images = {split: data[split][0][:, None].float() / 255 for split in ("train", "test")}
    path = Path(root) / "classifier.pt"
    return load_or_train(path, images["train"], data["train"][1], images["test"], data["test"][1], seed)


def score_digits(
    bridge: Bridge,
    test: Pairs,
    classifier: nn.Module,
    sampler: SamplerSettings,
    metrics: MetricsSettings,
    seed: int,
) -> ImageScores:
    """Draws ``metrics.samples`` samples for each test pair, in bounded memory, and scores them.

    Besides :class:`csb.evaluation.metrics.EnsembleScores` (spread, skill, CRPS and std against error inside the hole,
    where there is one): ``digit_accuracy``, the share of samples that the classifier reads as the true digit;
    ``known_error``, the largest change of a known pixel; ``calls``, network calls a sample; ``seconds``.
    """
    scores, generator = EnsembleScores(), seeded(seed, Stream.IMAGES, device=bridge.device)
    right, calls, seconds, known, kept, mask = 0, 0, 0.0, 0.0, [], None
    for pairs, samples, info in draw_chunks(bridge, test, metrics.samples, sampler, generator, _CHUNK):
        calls, seconds = info.forward_evaluations, seconds + info.seconds
        mask = hole_mask(bridge, pairs.y)
        scores.update(samples, pairs.x, mask=mask)
        assert pairs.labels is not None
        read = digit_probabilities(classifier, samples.flatten(0, 1)).argmax(1).view(len(pairs.x), -1)
        right += int((read == pairs.labels[:, None]).sum())
        if mask is not None:
            known = max(known, float(((samples - pairs.x[:, None]) * ~mask[:, None]).abs().max()))
        if sum(len(part) for part in kept) < _RELIABILITY:
            kept.append(samples)
    row = scores.compute() | {
        "digit_accuracy": right / (len(test.x) * metrics.samples),
        "calls": calls,
        "seconds": seconds,
    }
    row |= {} if mask is None else {"known_error": known}
    shown = torch.cat(kept)
    return ImageScores(row, _reliability(shown, test.x, hole_mask(bridge, test.y[: len(shown)])))


def _reliability(samples: Tensor, truth: Tensor, mask: Tensor | None) -> list[dict[str, Any]]:
    found = std_error_correlation(samples, truth[: len(samples)], mask)
    return [
        {"bin": i + 1, "pixel_std": float(std), "rmse_of_mean": float(rmse)}
        for i, (std, rmse) in enumerate(zip(found.predicted_std, found.rmse))
    ]
