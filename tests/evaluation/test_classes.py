"""Scores of samples of a class."""

import math

import pytest
import torch

from csb.evaluation.results import Drawn, Reference, class_figures, class_row
from csb.evaluation.rows import Row
from csb.metrics.digits import DigitClassifier
from csb.metrics.distances import frechet
from csb.problems import Pairs
from csb.process import seeded


def test_frechet_between_gaussians():
    """Of N(0, diag(1, 4)) and N((3, 0), diag(4, 1)): 9 + (1 − 2)² + (2 − 1)²."""
    z = torch.randn(200_000, 2, generator=seeded(0), dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov())).T  # moments 0 and I exactly
    a, b = z * torch.tensor([1.0, 2.0]), z * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, 0.0])
    assert frechet(a, b) == pytest.approx(11, rel=1e-4)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    turned = z @ torch.linalg.cholesky(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)).T
    # C_b = I, so that the cross term is tr C_a^½ = √3 + 1
    assert frechet(turned, z) == pytest.approx(4 + 2 - 2 * (math.sqrt(3) + 1), rel=1e-4)


def test_frechet_of_weighted_points_is_that_of_repeated_ones():
    a = torch.randn(5, 3, generator=seeded(1))
    b = torch.randn(40, 3, generator=seeded(2))
    counts = torch.tensor([3, 0, 1, 2, 4])
    assert frechet(a, b, counts.double() / 10) == pytest.approx(frechet(a.repeat_interleave(counts, 0), b), rel=1e-9)


def images(n, key, spread=0.2):
    return (0.5 + spread * torch.randn(n, 1, 28, 28, generator=seeded(4, key))).clamp(0, 1)


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DigitClassifier().eval()


@pytest.fixture(scope="module")
def real():
    labels = torch.arange(200) % 2
    pairs = [Pairs(images(200, key), torch.eye(10)[labels], labels) for key in (0, 1)]
    return Reference(*pairs)


def drawn(x, log_weights=None):
    return Drawn(x, log_weights, Row("a", "a"))


def test_figures_of_real_images_are_the_floor_and_narrow_ones_show(classifier, real):
    labels = torch.arange(20) % 2
    x = images(160, 2).view(20, 8, 1, 28, 28)
    right, narrow, dark = drawn(x), drawn(0.5 + 0.5 * (x - 0.5)), drawn(x - 0.2)
    found = class_figures(right, labels, classifier, real)
    assert found["frechet"] == pytest.approx(found["frechet_floor"], rel=0.2)
    assert found["variance_ratio"] == pytest.approx(1, rel=0.02)
    less = class_figures(narrow, labels, classifier, real)
    assert less["variance_ratio"] == pytest.approx(0.25, rel=0.02)
    assert less["frechet"] > less["frechet_floor"]
    assert class_figures(dark, labels, classifier, real)["frechet"] > 3 * less["frechet_floor"]


def test_weights_count(classifier, real):
    labels = torch.arange(20) % 2
    x = images(80, 5).view(20, 4, 1, 28, 28)
    mixed = torch.cat([x, torch.ones_like(x)], dim=1)
    w = torch.tensor([0.25] * 4 + [0.0] * 4).log().expand(20, 8)
    found, expected = (class_figures(d, labels, classifier, real) for d in (drawn(mixed, w), drawn(x)))
    assert found["variance_ratio"] == pytest.approx(expected["variance_ratio"], rel=1e-9)
    assert found["frechet"] == pytest.approx(expected["frechet"], rel=1e-6)


def test_the_result_has_no_scores_of_nearness(classifier, real):
    test = Pairs(real.images.x[:6], real.images.y[:6], torch.arange(6) % 2)
    found = class_row(drawn(images(24, 6).view(6, 4, 1, 28, 28)), test, classifier, real)
    assert set(found.metrics) == {
        "digit_accuracy", "digit_entropy", "frechet", "frechet_floor", "variance_ratio", "crps", "energy_score",
    }  # fmt: skip
    assert {"digit_accuracy", "energy_score"} <= set(found.standard_errors)
