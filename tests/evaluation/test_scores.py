"""Scores of a bridge that is exact, and of one that is not."""

import pytest
import torch
from suites.timing import sampling_overhead

from csb.errors import CSBError
from csb.evaluation.chunks import draw_chunks
from csb.evaluation.scores import exact_scores, hole_mask
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.problems import LinearGaussian, Pairs
from csb.process import seeded
from tests.conftest import make_exact_bridge

METRICS = MetricsSettings(exact_samples=8000, exact_observations=4)


class Shifted(LinearGaussian):
    """The problem that make_exact_bridge is exact for: its posterior mean has an offset."""

    name = "shifted"

    def posterior(self, y):
        law = super().posterior(y)
        offset = torch.tensor([0.3, -0.2]).double()
        return type(law)(law.mean + offset, law.cov)


@pytest.fixture(scope="module")
def exact():
    return make_exact_bridge("full", iterations=8)


def test_an_exact_bridge_is_at_the_floor(exact):
    found = exact_scores(Shifted(dx=2, dy=2, seed=1), exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["sliced_w"] < 1.6 * found["sliced_w_floor"]
    assert found["mean_error"] < 0.03
    assert found["cov_error"] < 0.05


def test_a_wrong_bridge_is_not(exact):
    found = exact_scores(LinearGaussian(dx=2, dy=2, seed=1), exact.bridge, SamplerSettings(), METRICS, seed=0)
    assert found["sliced_w"] > 4 * found["sliced_w_floor"]
    posterior = LinearGaussian(dx=2, dy=2, seed=1).C
    expected = (0.3**2 + 0.2**2) ** 0.5 / float(posterior.trace()) ** 0.5
    assert found["mean_error"] == pytest.approx(expected, rel=0.05)


def test_without_noise_the_covariance_is_wrong(exact):
    found = exact_scores(Shifted(dx=2, dy=2, seed=1), exact.bridge, SamplerSettings(mean_only=True), METRICS, seed=0)
    assert found["cov_error"] > 0.2


def test_there_is_no_hole_in_a_vector(exact):
    assert hole_mask(exact.bridge, torch.zeros(3, 2)) is None


@pytest.mark.parametrize("labels", [None, torch.arange(7)], ids=["no labels", "labels"])
def test_chunks_are_calls_of_the_bridge_one_after_the_other(exact, labels):
    test = Pairs(*LinearGaussian(dx=2, dy=2, seed=1).pairs("test", 7)[:2], labels)
    chunks = list(draw_chunks(exact.bridge, test, 5, SamplerSettings(batch_size=4), seeded(3), 3))
    assert [chunk.samples.shape for chunk in chunks] == [(3, 5, 2), (3, 5, 2), (1, 5, 2)]
    generator = seeded(3)
    for chunk, rows in zip(chunks, torch.arange(7).split(3)):
        assert torch.equal(chunk.samples, exact.bridge.sample(test.y[rows], 5, generator=generator, batch_size=4).x)
        assert torch.equal(chunk.pairs.x, test.x[rows])
        assert chunk.pairs.labels is None if labels is None else torch.equal(chunk.pairs.labels, labels[rows])
        assert chunk.info.forward_evaluations == exact.grid.T


def test_the_overhead_is_a_ratio_of_two_times(exact):
    row = sampling_overhead(exact.bridge, torch.zeros(4, 2), 8, repeats=1)
    assert row["states"] == 32
    assert row["T"] == 4
    assert row["ratio"] == pytest.approx(row["sample_ms"] / row["calls_ms"])


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 1), ("observations", 0), ("picture_rows", 13), ("c2st_observations", 0)]
)
def test_settings_are_checked(name, value):
    with pytest.raises(CSBError, match=f"metrics.{name}={value}"):
        MetricsSettings(**{name: value})
