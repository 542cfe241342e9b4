"""The scores of one sampler, and how they are kept."""

import json

import pytest
import torch
from suites.scores import REFERENCE_Y, Scores, ScoreSettings, score_sampler
from torch import Tensor

from csb.bridge import SampleInfo, Samples
from csb.errors import CSBError
from csb.evaluation.results import Results
from csb.problems import BOD, TwoMoons
from csb.process import Noise
from csb.samplers import ExactSampler, Sampler

SMALL = {"observations": 3, "samples": 400, "c2st_observations": 2, "c2st_samples": 100, "moment_samples": 500}


class Shifted(Sampler):
    """Exact samples moved by ``shift``, half of them without weight where ``weighted``; counts its calls."""

    name = "shifted"

    def __init__(self, problem, shift=0.0, weighted=False):
        super().__init__(problem.x_shape, problem.y_shape)
        self.exact, self.shift, self.weighted, self.used = ExactSampler(problem), shift, weighted, 0

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        self.used += 1
        x = self.exact.sample(y, n, noise.generator).x + self.shift
        if not self.weighted:
            return Samples(x, SampleInfo(7, 3))
        x[:, ::2] = 100.0  # without weight
        w = torch.zeros(x.shape[:2])
        w[:, 1::2] = 2 / n
        return Samples(x, SampleInfo(7, 3), w.log())


@pytest.fixture
def store(tmp_path):
    return Scores(Results(tmp_path / "scores.json", tmp_path / "scores"), {"source": "abc"})


def test_what_a_score_holds(store):
    problem, settings = TwoMoons(), ScoreSettings(**SMALL)
    good = score_sampler(Shifted(problem), problem, settings, store)
    assert (good["calls"], good["backward_calls"]) == (7, 3)
    assert good["seconds"] > 0
    assert (len(good["c2st_each"]), len(good["sliced_w_each"])) == (2, 3)
    assert good["c2st"] == pytest.approx(sum(good["c2st_each"]) / 2)
    assert good["c2st_se"] == pytest.approx(abs(good["c2st_each"][0] - good["c2st_each"][1]) / 2)
    assert good["mean_error"] < 0.3
    assert "moments" not in good
    bad = score_sampler(Shifted(problem, 0.3), problem, settings, Scores(store.store, {"source": "other"}))
    assert bad["sliced_w"] > 3 * good["sliced_w"]
    assert bad["c2st"] > 0.8 > good["c2st"]


def test_weights_count(store):
    problem, settings = TwoMoons(), ScoreSettings(**SMALL)
    found = score_sampler(Shifted(problem, weighted=True), problem, settings, store)
    assert found["sliced_w"] < 0.2
    assert found["mean_error"] < 0.3
    assert found["c2st"] < 0.8


def test_moments_at_the_published_observation(store):
    problem = BOD()
    found = score_sampler(Shifted(problem), problem, ScoreSettings(**{**SMALL, "moment_samples": 20_000}), store)
    exact = found["moments"]["exact"]
    assert exact["mean"] == pytest.approx([0.0436, 0.9265], abs=1e-4)
    assert exact["var"] == pytest.approx([0.1693, 0.3995], abs=1e-4)
    assert exact["skew"] == pytest.approx([2.012, 0.642], abs=1e-3)
    assert exact["kurtosis"] == pytest.approx([9.061, 3.400], abs=1e-3)
    assert found["moments"]["found"]["mean"] == pytest.approx(exact["mean"], abs=0.02)
    assert found["moments"]["found"]["skew"] == pytest.approx(exact["skew"], abs=0.3)
    assert {"skew_error", "kurtosis_error"} <= set(found)
    assert REFERENCE_Y["bod"] == (0.18, 0.32, 0.42, 0.49, 0.54)


class TestStore:
    def test_nothing_is_scored_twice(self, store):
        problem, settings, sampler = BOD(), ScoreSettings(**SMALL), Shifted(BOD())
        first = score_sampler(sampler, problem, settings, store)
        assert sampler.used == 4
        assert score_sampler(sampler, problem, settings, store) == first
        assert sampler.used == 4

    def test_more_observations_score_the_new_ones_only(self, store):
        problem, sampler = TwoMoons(), Shifted(TwoMoons())
        first = score_sampler(sampler, problem, ScoreSettings(**SMALL), store)
        second = score_sampler(sampler, problem, ScoreSettings(**{**SMALL, "observations": 5}), store)
        assert sampler.used == 5
        assert second["sliced_w_each"][:3] == first["sliced_w_each"]

    @pytest.mark.parametrize("change", [{"samples": 300}, {"seed": 1}, {"projections": 5}, {"c2st_samples": 50}])
    def test_other_settings_share_nothing(self, store, change):
        problem, sampler = TwoMoons(), Shifted(TwoMoons())
        score_sampler(sampler, problem, ScoreSettings(**SMALL), store)
        score_sampler(sampler, problem, ScoreSettings(**{**SMALL, **change}), store)
        assert sampler.used == (5 if "c2st_samples" in change else 6)  # the third observation has no C2ST

    def test_another_sampler_shares_nothing_and_older_files_are_read(self, store, tmp_path):
        store.save({"a": 1}, {"c2st": 0.5})
        assert store.load({"a": 1}) == {"c2st": 0.5}
        assert store.load({"a": 2}) is None
        assert Scores(store.store, {"source": "other"}).load({"a": 1}) is None
        (tmp_path / "scores").mkdir()
        key = {"sampler": {"source": "abc"}, "settings": {"a": 3}}
        (tmp_path / "scores" / "x.json").write_text(json.dumps({"key": key, "scores": {"c2st": 0.7}}))
        (tmp_path / "scores" / "y.json").write_text("{")  # a damaged one is no score
        again = Scores(Results(tmp_path / "scores.json", tmp_path / "scores"), {"source": "abc"})
        assert (again.load({"a": 1}), again.load({"a": 3})) == ({"c2st": 0.5}, {"c2st": 0.7})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": 0}, "suite.score.observations=0 is not possible"),
        ({"samples": "x"}, "suite.score.samples='x' is not possible"),
        ({"c2st_samples": 1000}, "suite.score.c2st_samples=1000 exceeds samples=400"),
        ({"c2st_observations": 4}, "suite.score.c2st_observations=4 exceeds observations=3"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(CSBError, match=message):
        ScoreSettings(**{**SMALL, **change})


def test_c2st_in_processes_and_none():
    problem = TwoMoons()
    settings = ScoreSettings(**{**SMALL, "c2st_samples": 50})
    one, two = (score_sampler(Shifted(problem), problem, settings, Nowhere(), n) for n in (1, 2))
    assert one["c2st_each"] == two["c2st_each"]
    settings = ScoreSettings(**{**SMALL, "c2st_observations": 0, "observations": 1})
    found = score_sampler(Shifted(problem), problem, settings, Nowhere())
    assert "c2st" not in found
    assert "sliced_w_se" not in found


class Nowhere:
    """Keeps nothing."""

    def load(self, settings):
        return None

    def save(self, settings, scores):
        pass
