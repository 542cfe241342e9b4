"""What every sampler of a comparison is put through: draws with their cost, distances, and scores of a class."""

import math
from dataclasses import replace

import pytest
import torch

import csb
from csb.bridge import SampleInfo, Samples
from csb.evaluation import results
from csb.evaluation.results import Drawn, against_exact, class_figures, class_row, digits, draw, image_row, point_row
from csb.evaluation.rows import Row
from csb.evaluation.scores import MetricsSettings
from csb.metrics.digits import DigitClassifier
from csb.metrics.distances import frechet
from csb.problems import LinearGaussian, Pairs
from csb.process import seeded
from csb.samplers import ExactSampler

PROBLEM = LinearGaussian(dx=2, dy=2, n_train=100)
Y = PROBLEM.pairs("test", 4).y


@pytest.fixture
def calls(monkeypatch):
    """The clouds that C2ST is asked about; the answers are .5, .6, .7 and so on."""
    asked = []

    def answer(a, b):
        asked.append((a, b))
        return 0.4 + 0.1 * len(asked)

    monkeypatch.setattr(results, "c2st", answer)
    return asked


@pytest.fixture(scope="module")
def drawn():
    return draw(ExactSampler(PROBLEM), Row("exact", "exact"), Y, 200, 0, 1)


def normal(*shape, key):
    return torch.randn(shape, generator=seeded(4, key))


def test_frechet_between_gaussians():
    """Of N(0, diag(1, 4)) and N((3, 0), diag(4, 1)): 9 + (1 − 2)² + (2 − 1)²."""
    z = normal(200_000, 2, key=0).double()
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov())).T  # moments 0 and I exactly
    a, b = z * torch.tensor([1.0, 2.0]), z * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, 0.0])
    assert frechet(a, b) == pytest.approx(11, rel=1e-4)
    turned = z @ torch.linalg.cholesky(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)).T
    # C_b = I, so that the cross term is tr C_a^½ = √3 + 1
    assert frechet(turned, z) == pytest.approx(4 + 2 - 2 * (math.sqrt(3) + 1), rel=1e-4)
    counts = torch.tensor([3, 0, 1, 2, 4])  # weights in tenths are those of repeated points
    expected = frechet(a[:5].repeat_interleave(counts, 0), b[:40])
    assert frechet(a[:5], b[:40], counts.double() / 10) == pytest.approx(expected, rel=1e-9)


def images(n, key, spread=0.2):
    return (0.5 + spread * normal(n, 1, 28, 28, key=key)).clamp(0, 1)


@pytest.fixture(scope="module")
def real():
    """A classifier, and images of the classes 0 and 1 in turn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = DigitClassifier().eval()
    labels = torch.arange(200) % 2
    return classifier, results.Reference(*(Pairs(images(200, key), torch.eye(10)[labels], labels) for key in (0, 1)))


def test_figures_of_a_class_are_at_the_floor_for_real_images_and_show_narrow_and_dark_ones(real):
    def figures(x, log_weights=None):
        return class_figures(Drawn(x, log_weights, Row("a", "a")), torch.arange(20) % 2, *real)

    x = images(160, 2).view(20, 8, 1, 28, 28)
    found, narrow, dark = figures(x), figures(0.5 + 0.5 * (x - 0.5)), figures(x - 0.2)
    assert found["frechet"] == pytest.approx(found["frechet_floor"], rel=0.2)
    assert found["variance_ratio"] == pytest.approx(1, rel=0.02)
    assert narrow["variance_ratio"] == pytest.approx(0.25, rel=0.02)
    assert narrow["frechet"] > narrow["frechet_floor"]
    assert dark["frechet"] > 3 * narrow["frechet_floor"]
    w = torch.tensor([0.125] * 8 + [0.0] * 8).log().expand(20, 16)
    weighted = figures(torch.cat([x, torch.ones_like(x)], dim=1), w)
    assert weighted["variance_ratio"] == pytest.approx(found["variance_ratio"], rel=1e-9)
    assert weighted["frechet"] == pytest.approx(found["frechet"], rel=1e-6)


def test_the_row_of_a_class_has_no_scores_of_nearness(real):
    test = Pairs(images(6, 3), torch.eye(10)[:6], torch.arange(6) % 2)
    found = class_row(Drawn(images(24, 6).view(6, 4, 1, 28, 28), None, Row("a", "a")), test, *real)
    assert set(found.metrics) == {
        "digit_accuracy", "digit_entropy", "frechet", "frechet_floor", "variance_ratio", "crps", "energy_score",
    }  # fmt: skip
    assert {"digit_accuracy", "energy_score"} <= set(found.standard_errors)


@pytest.mark.parametrize(("observations", "mean"), [(1, 0.5), (3, 0.6), (9, 0.65)])
def test_c2st_is_the_mean_over_observations_each_with_its_own_samples(drawn, calls, observations, mean):
    settings = MetricsSettings(c2st_samples=200, c2st_observations=observations)
    found, errors = against_exact(PROBLEM, drawn, Y, 0, settings)
    assert found["c2st"] == pytest.approx(mean)
    assert ("c2st" in errors) == (observations > 1)
    assert len(calls) == min(observations, 4)
    for (exact, samples), x, y in zip(calls, drawn.x, Y):
        assert torch.equal(samples.sort(0).values, x.sort(0).values)
        error = (exact.double().mean(0) - PROBLEM.posterior(y).mean).norm()
        assert float(error) < 5 * float(PROBLEM.C.trace() / 200) ** 0.5


def test_more_observations_leave_the_first_alone(drawn, calls):
    for observations in (1, 2):
        against_exact(PROBLEM, drawn, Y, 0, MetricsSettings(c2st_samples=150, c2st_observations=observations))
    (first, again, _) = calls
    assert all(map(torch.equal, first, again))


def test_the_peak_memory_of_each_call_is_measured(monkeypatch):
    """By itself: the highest mark is set back before it (of marks themselves: tests/bridge/test_samples.py)."""
    events = []

    class Told(ExactSampler):
        def sample(self, y, n, generators):
            events.append("call")
            peak = (None, 70, 30)[events.count("call") - 1]
            return Samples(torch.zeros(len(y), n, 2), SampleInfo(1, 0, 0.5, peak))

    monkeypatch.setattr(results, "reset_peak", lambda _: events.append("reset"))
    found = draw(Told(PROBLEM), Row("told", "told"), PROBLEM.pairs("test", 6).y, 3, 0, 2).row
    assert events == ["reset", "call"] * 3
    assert (found.peak_memory, found.seconds) == (70, 1.5)


class Bright(torch.nn.Module):
    """Reads an image as the digit that its first pixel tells, in ninths."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))  # tells the device

    def forward(self, x):
        return 100 * torch.nn.functional.one_hot((9 * x[:, 0, 0, 0]).round().long(), 10).float()


def test_standard_errors_of_digits(drawn):
    labels = torch.tensor([3, 5, 7])
    read = torch.tensor([[3, 3, 3, 3], [5, 5, 0, 0], [7, 0, 0, 0]])  # right: 1, ½, ¼
    x = torch.zeros(3, 4, 1, 28, 28)
    x[..., 0, 0] = read[..., None] / 9
    found, errors = digits(replace(drawn, x=x), labels, Bright())
    assert found["digit_accuracy"] == pytest.approx(7 / 12)
    assert errors["digit_accuracy"] == pytest.approx(torch.tensor([1, 0.5, 0.25]).std().item() / 3**0.5)
    assert set(errors) == {"digit_accuracy", "digit_entropy"}
    assert digits(replace(drawn, x=x[:1]), labels[:1], Bright())[1] == {}


def test_standard_errors_of_points_and_images(drawn):
    points = point_row(drawn, PROBLEM.pairs("test", 4), 0, torch.ones(()))
    x, truth = images(30, 8).view(5, 6, 1, 28, 28), images(5, 9)
    test = Pairs(truth, torch.zeros(5, 1, 28, 28), (9 * x[:, 0, 0, 0, 0]).round().long())
    pictures = image_row(replace(drawn, x=x), test, Bright(), None, 0)
    shared = {"crps", "energy_score", "spread_skill_fair"}
    assert set(points.standard_errors) == shared
    more = {"psnr_mean_per_image", "spread_skill", "digit_accuracy", "digit_entropy"}
    assert set(pictures.standard_errors) == shared | more
    for found in (points, pictures):
        assert set(found.standard_errors) <= set(found.metrics)
        assert all(value > 0 for value in found.standard_errors.values())


def test_scores_of_vectors_without_an_exact_posterior_have_the_unit_of_the_training_pairs():
    wide = csb.problem(lambda n: 100 * torch.randn(n, 2), lambda x: x, n=2000)
    assert torch.allclose(results.scoring_transform(wide).x_scale(), torch.full((2,), 100.0).double(), rtol=0.15)
    assert float(results.scoring_transform(PROBLEM).x_scale()) == 1  # distances to exact samples have x's
