"""What every sampler of a comparison is put through: draws with their cost, and distances to the exact posterior."""

import gc
from dataclasses import replace

import pytest
import torch

import csb
from csb.bridge import SampleInfo, Samples
from csb.bridge.samples import memory, reset_peak
from csb.evaluation import results
from csb.evaluation.results import against_exact, digits, draw, image_row, point_row, scoring_transform
from csb.evaluation.rows import Row
from csb.evaluation.scores import MetricsSettings
from csb.problems import LinearGaussian, Pairs
from csb.samplers import ExactSampler
from csb.samplers.base import Sampler

PROBLEM = LinearGaussian(dx=2, dy=2, n_train=100)
Y = PROBLEM.pairs("test", 4).y
MIB = 2**20


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


class TestC2ST:
    @pytest.mark.parametrize(("observations", "mean"), [(1, 0.5), (3, 0.6), (9, 0.65)])
    def test_it_is_the_mean_over_observations(self, drawn, calls, observations, mean):
        settings = MetricsSettings(c2st_samples=150, c2st_observations=observations)
        found, errors = against_exact(PROBLEM, drawn, Y, 0, settings)
        assert found["c2st"] == pytest.approx(mean)
        assert ("c2st" in errors) == (observations > 1)
        assert [(a.shape, b.shape) for a, b in calls] == [((150, 2), (150, 2))] * min(observations, 4)

    def test_each_observation_has_its_own_samples(self, drawn, calls):
        against_exact(PROBLEM, drawn, Y, 0, MetricsSettings(c2st_samples=200, c2st_observations=4))
        for (exact, samples), x, y in zip(calls, drawn.x, Y):
            assert torch.equal(samples.sort(0).values, x.sort(0).values)
            error = (exact.double().mean(0) - PROBLEM.posterior(y).mean).norm()
            assert float(error) < 5 * float(PROBLEM.C.trace() / 200) ** 0.5

    def test_more_observations_leave_the_first_alone(self, drawn, calls):
        for observations in (1, 2):
            against_exact(PROBLEM, drawn, Y, 0, MetricsSettings(c2st_samples=150, c2st_observations=observations))
        (first, again, _) = calls
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


class Hungry(Sampler):
    """Takes 64 MiB for a while."""

    name = "hungry"

    def _sample(self, y, n, noise):
        torch.ones(64 * MIB // 4).sum()
        return Samples(noise.normal(n, 2).view(len(y), n, 2), SampleInfo(1, 0))


def test_the_peak_memory_of_each_call_is_measured():
    """However much was taken before."""
    gc.collect()  # what other tests have left, so that nothing of it is given back meanwhile
    torch.ones(256 * MIB // 4).sum()
    reset_peak(torch.device("cpu"))
    found = memory(torch.device("cpu"))
    if found is None or found.peak > found.now + 16 * MIB:
        pytest.skip("the highest mark of memory cannot be read or set back here")
    torch.ones(256 * MIB // 4).sum()
    peak = draw(Hungry((2,), (2,)), Row("hungry", "hungry"), Y, 3, 0, 2).row.peak_memory
    assert 60 * MIB < peak < 80 * MIB


class Bright(torch.nn.Module):
    """Reads an image as the digit that its first pixel tells, in ninths."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))  # tells the device

    def forward(self, x):
        return 100 * torch.nn.functional.one_hot((9 * x[:, 0, 0, 0]).round().long(), 10).float()


class TestStandardErrors:
    def test_of_digits(self, drawn):
        labels = torch.tensor([3, 5, 7])
        read = torch.tensor([[3, 3, 3, 3], [5, 5, 0, 0], [7, 0, 0, 0]])  # right: 1, ½, ¼
        x = torch.zeros(3, 4, 1, 28, 28)
        x[..., 0, 0] = read[..., None] / 9
        found, errors = digits(replace(drawn, x=x), labels, Bright())
        assert found["digit_accuracy"] == pytest.approx(7 / 12)
        assert errors["digit_accuracy"] == pytest.approx(torch.tensor([1, 0.5, 0.25]).std().item() / 3**0.5)
        assert set(errors) == {"digit_accuracy", "digit_entropy"}
        assert digits(replace(drawn, x=x[:1]), labels[:1], Bright())[1] == {}

    def test_of_results(self, drawn):
        points = point_row(drawn, PROBLEM.pairs("test", 4), 0, torch.ones(()))
        assert set(points.standard_errors) == {"crps", "energy_score", "spread_skill_fair"}
        generator = torch.Generator().manual_seed(0)
        x = torch.rand((5, 6, 1, 28, 28), generator=generator)
        test = Pairs(
            torch.rand((5, 1, 28, 28), generator=generator),
            torch.zeros(5, 1, 28, 28),
            (9 * x[:, 0, 0, 0, 0]).round().long(),
        )
        images = image_row(replace(drawn, x=x), test, Bright(), None, 0)
        assert set(images.standard_errors) == {
            "crps", "energy_score", "psnr_mean_per_image", "spread_skill", "spread_skill_fair",
            "digit_accuracy", "digit_entropy",
        }  # fmt: skip
        for found in (points, images):
            assert set(found.standard_errors) <= set(found.metrics)
            assert all(value > 0 for value in found.standard_errors.values())


def test_scores_of_vectors_without_an_exact_posterior_have_the_unit_of_the_training_pairs():
    wide = csb.problem(lambda n: 100 * torch.randn(n, 2), lambda x: x, n=2000)
    assert torch.allclose(scoring_transform(wide).x_scale(), torch.full((2,), 100.0).double(), rtol=0.15)
    assert float(scoring_transform(LinearGaussian(dx=2, dy=2)).x_scale()) == 1  # distances to exact samples have x's
