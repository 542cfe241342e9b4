"""Scores of samples of digits, and of classes of digits: accuracy, calibration, and whether they show the right one.

Of a class PSNR and the like are left out: a sample is to be near some image of its class, not near the one it is held
against.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from csb.bridge import Bridge
from csb.evaluation.results import Drawn, digits, proper_scores
from csb.evaluation.rows import Row
from csb.evaluation.scores import MetricsSettings, SamplerSettings, draw_chunks
from csb.metrics.digits import digit_features, digit_probabilities, load_or_train
from csb.metrics.distances import frechet
from csb.metrics.ensemble import EnsembleScores, std_error_correlation
from csb.metrics.inputs import ensemble_weights
from csb.problems import Pairs, Problem
from csb.problems.mnist import load_mnist
from csb.process import Stream, seeded

_CHUNK = 64  # observations drawn at once
_RELIABILITY = 100  # observations whose pixels are binned by their standard deviation


def digit_classifier(root: str, seed: int = 0) -> tuple[nn.Module, float]:
    """The repo's digit classifier, trained once and kept beside the data: the model and its test accuracy."""
    data = load_mnist(root)
    images = {split: data[split][0][:, None].float() / 255 for split in ("train", "test")}
    path = Path(root) / "classifier.safetensors"
    return load_or_train(path, images["train"], data["train"][1], images["test"], data["test"][1], seed)


def score_digits(
    bridge: Bridge, test: Pairs, classifier: nn.Module, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Draw ``metrics.samples`` samples for each test pair, in bounded memory, and score them.

    Returns the figures of the bridge, and the rows of a table of pixel std against error.

    Besides :class:`csb.metrics.ensemble.EnsembleScores` (spread, skill, CRPS and std against error inside the hole,
    where there is one): ``digit_accuracy``, the share of samples that the classifier reads as the true digit;
    ``known_error``, the largest change of a known pixel; ``calls``, network calls a sample; ``seconds``.
    """
    scores, generator = EnsembleScores(), seeded(seed, Stream.IMAGES, device=bridge.device)
    right, calls, seconds, known, kept, mask = 0, 0, 0.0, 0.0, [], None
    for pairs, samples, info in draw_chunks(bridge, test, metrics.samples, sampler, generator, _CHUNK):
        calls, seconds = info.forward_evaluations, seconds + info.seconds
        mask = bridge.transform.unknown(pairs.y)
        scores.update(samples, pairs.x, mask=mask)
        assert pairs.labels is not None
        read = digit_probabilities(classifier, samples.flatten(0, 1)).argmax(1).view(len(pairs.x), -1)
        right += int((read == pairs.labels[:, None]).sum())
        if mask is not None:
            known = max(known, float(((samples - pairs.x[:, None]) * ~mask[:, None]).abs().max()))
        if sum(len(part) for part in kept) < _RELIABILITY:
            kept.append(samples)
    row = {**scores.compute(), "digit_accuracy": right / (len(test.x) * metrics.samples)}
    row |= {"calls": calls, "seconds": seconds} | ({} if mask is None else {"known_error": known})
    x = torch.cat(kept)
    bins = std_error_correlation(x, test.x[: len(x)], bridge.transform.unknown(test.y[: len(x)]))
    reliability = [
        {"bin": i, "pixel_std": float(std), "rmse_of_mean": float(rmse)}
        for i, (std, rmse) in enumerate(zip(bins.predicted_std, bins.rmse), start=1)
    ]
    return row, reliability


class Reference(NamedTuple):
    """Real images to compare with, and others of the same classes that say what real images would score."""

    images: Pairs
    others: Pairs

    @classmethod
    def of(cls, problem: Problem) -> Self:
        return cls(problem.pairs("test"), problem.pairs("val"))


def _variance(x: Tensor, w: Tensor) -> Tensor:
    """The variance of weighted images (n, …), w of sum 1, summed over pixels."""
    x = x.flatten(1).double()
    return (w @ (x - w @ x).square()).sum()


def class_figures(drawn: Drawn, labels: Tensor, classifier: nn.Module, real: Reference) -> dict[str, float]:
    """Averages over the classes that occur, all samples of a class together, weights respected.

    frechet: of the classifier's features, against the real images of the class; frechet_floor: that of as many others
    of the class (or what there are); variance_ratio: the samples' variance over that of the real images.
    """
    assert real.images.labels is not None
    assert real.others.labels is not None
    weights = ensemble_weights(drawn.log_weights, drawn.x).cpu()
    rows = []
    for c in labels.unique():
        mine = labels == c
        x, w = drawn.x[mine].flatten(0, 1), (weights[mine] / mine.sum()).flatten()
        there, others = real.images.x[real.images.labels == c], real.others.x[real.others.labels == c][: len(x)]
        seen = digit_features(classifier, there)
        even = torch.full((len(there),), 1 / len(there), dtype=torch.float64)
        near = frechet(digit_features(classifier, x), seen, w)
        floor = frechet(digit_features(classifier, others), seen)
        rows.append((near, floor, float(_variance(x, w) / _variance(there, even))))
    near, floor, spread = (sum(column) / len(rows) for column in zip(*rows))
    return {"frechet": near, "frechet_floor": floor, "variance_ratio": spread}


def class_row(drawn: Drawn, test: Pairs, classifier: nn.Module, real: Reference) -> Row:
    """The row with the scores of a class: digits read, Fréchet distance, diversity, proper scores.

    ``classifier`` must not be the one that guided the samples.
    """
    assert test.labels is not None
    read, of_read = digits(drawn, test.labels, classifier)
    proper, errors = proper_scores(drawn, test.x, ("crps", "energy_score"))
    metrics = read | class_figures(drawn, test.labels, classifier, real) | proper
    return replace(drawn.row, metrics=metrics, standard_errors=errors | of_read)
