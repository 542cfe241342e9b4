"""Scores of samples of a class of images: do they show it, are they like its images, and as diverse?

PSNR and the like are left out: a sample is to be near some image of its class, not near the one it is held against.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from csb.evaluation.classifier import digit_features
from csb.evaluation.inputs import ensemble_weights
from csb.evaluation.report import Row
from csb.evaluation.results import Drawn, digits, proper_scores
from csb.problems import Pairs, Problem


class Reference(NamedTuple):
    """Real images to compare with, and others of the same classes that say what real images would score."""

    images: Pairs
    others: Pairs


def reference_of(problem: Problem) -> Reference:
    """The test images, and the validation images."""
    return Reference(problem.pairs("test"), problem.pairs("val"))


def frechet(a: Tensor, b: Tensor, weights: Tensor | None = None) -> float:
    """‖μ_a − μ_b‖² + tr(C_a + C_b − 2(C_a^½ C_b C_a^½)^½): W_2² of the Gaussians with the moments of two clouds.

    (Dowson & Landau 1982; Heusel et al. 2017, of a network's features.) It rises as clouds become smaller: compare it
    with that of as many real images.

    Args:
        a: (n, d), with ``weights`` (n,) of sum 1, or None for equal ones.
        b: (m, d).
    """
    a, b = a.double(), b.double()
    w = a.new_full((len(a),), 1 / len(a)) if weights is None else weights.to(a)
    mean_a, mean_b = w @ a, b.mean(0)
    cov_a, cov_b = (a - mean_a).T @ (w[:, None] * (a - mean_a)), (b - mean_b).T @ (b - mean_b) / len(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


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
