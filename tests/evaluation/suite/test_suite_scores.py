"""The scores of one sampler of a suite and how they are kept; its tables, published numbers and figure."""

import pytest
import torch
from suites.scores import (
    PUBLISHED,
    REFERENCE_Y,
    Published,
    Scores,
    ScoreSettings,
    scores_of,
    suite_panels,
    suite_tables,
)
from suites.scores.figure import _looks, apart
from suites.scores.tables import pooled

from csb.bridge import SampleInfo, Samples
from csb.errors import CSBError
from csb.evaluation.plots import curves_figure, draw_curves
from csb.evaluation.results import Results
from csb.problems import BOD, TwoMoons
from csb.samplers import ExactSampler, Sampler

SMALL = {"observations": 3, "samples": 400, "c2st_observations": 2, "c2st_samples": 100, "moment_samples": 500}


class Shifted(Sampler):
    """Exact samples moved by ``shift``, half of them without weight where ``weighted``; counts its calls."""

    name = "shifted"

    def __init__(self, problem, shift=0.0, weighted=False):
        super().__init__(problem.x_shape, problem.y_shape)
        self.exact, self.shift, self.weighted, self.used = ExactSampler(problem), shift, weighted, 0

    def _sample(self, y, n, noise):
        self.used += 1
        x = self.exact.sample(y, n, noise.generator).x + self.shift
        if not self.weighted:
            return Samples(x, SampleInfo(7, 3))
        x[:, ::2] = 100.0  # without weight
        w = torch.zeros(x.shape[:2])
        w[:, 1::2] = 2 / n
        return Samples(x, SampleInfo(7, 3), w.log())


@pytest.fixture
def score(tmp_path):
    """score(sampler, source=…, **settings): the scores of a sampler, kept in a file."""

    def run(sampler, source="abc", **settings):
        store = Scores(Results(tmp_path / "scores.json"), {"source": source})
        return scores_of(sampler, sampler.exact.problem, ScoreSettings(**SMALL | settings), store)

    return run


def test_what_a_score_holds(score):
    good, bad = (score(Shifted(TwoMoons(), shift), str(shift)) for shift in (0.0, 0.3))
    assert (good["calls"], good["backward_calls"]) == (7, 3)
    assert good["seconds"] > 0
    assert (len(good["c2st_each"]), len(good["sliced_w_each"])) == (2, 3)
    assert good["c2st"] == pytest.approx(sum(good["c2st_each"]) / 2)
    assert good["c2st_se"] == pytest.approx(abs(good["c2st_each"][0] - good["c2st_each"][1]) / 2)
    assert good["mean_error"] < 0.3
    assert "moments" not in good
    assert bad["sliced_w"] > 3 * good["sliced_w"]
    assert bad["c2st"] > 0.8 > good["c2st"]
    weighted = score(Shifted(TwoMoons(), weighted=True), "weighted")
    assert weighted["sliced_w"] < 0.2
    assert weighted["mean_error"] < 0.3
    assert weighted["c2st"] < 0.8
    alone = score(Shifted(TwoMoons()), "alone", c2st_observations=0, observations=1)
    assert not {"c2st", "sliced_w_se"} & set(alone)


def test_moments_at_the_published_observation(score):
    found = score(Shifted(BOD()), moment_samples=20_000)
    exact = found["moments"]["exact"]
    assert exact["mean"] == pytest.approx([0.0436, 0.9265], abs=1e-4)
    assert exact["var"] == pytest.approx([0.1693, 0.3995], abs=1e-4)
    assert exact["skew"] == pytest.approx([2.012, 0.642], abs=1e-3)
    assert exact["kurtosis"] == pytest.approx([9.061, 3.400], abs=1e-3)
    assert found["moments"]["found"]["mean"] == pytest.approx(exact["mean"], abs=0.02)
    assert found["moments"]["found"]["skew"] == pytest.approx(exact["skew"], abs=0.3)
    assert {"skew_error", "kurtosis_error"} <= set(found)
    assert REFERENCE_Y["bod"] == (0.18, 0.32, 0.42, 0.49, 0.54)


@pytest.mark.parametrize(
    ("change", "more"),  # calls of the second scoring; the third observation has no C2ST
    [({}, 0), ({"observations": 5}, 2), ({"samples": 300}, 3), ({"seed": 1}, 3), ({"projections": 5}, 3),
     ({"c2st_samples": 50}, 2), ({"source": "other"}, 3)],
)  # fmt: skip
def test_what_is_kept_is_not_scored_again(score, change, more):
    sampler = Shifted(TwoMoons())
    first = score(sampler)
    assert sampler.used == 3
    second = score(sampler, **change)
    assert sampler.used == 3 + more
    if set(change) <= {"observations"}:
        assert second["sliced_w_each"][:3] == first["sliced_w_each"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c2st_samples": 1000}, "suite.score.c2st_samples=1000 exceeds samples=400"),
        ({"c2st_observations": 4}, "suite.score.c2st_observations=4 exceeds observations=3"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(CSBError, match=message):
        ScoreSettings(**{**SMALL, **change})


def row(problem="two_moons", label="bridge", pairs=10_000, T=10, L=1, seed=0, c2st=(0.55, 0.57), **more):
    scores = {"c2st_each": list(c2st)} if c2st else {}
    return {
        "problem": problem, "label": label, "pairs": pairs, "T": T, "L": L, "seed": seed, "train_seconds": 60.0,
        "calls": T or 0, "seconds": 0.5, "sliced_w_each": [0.02, 0.04], "mean_error_each": [0.1, 0.2], **scores, **more,
    }  # fmt: skip


def exact(problem="two_moons", **more):
    about = dict.fromkeys(("pairs", "T", "L", "seed", "train_seconds"))
    return row(problem, "exact", c2st=(0.5, 0.5), **{**about, "sliced_w_each": [0.01, 0.01], **more})


class TestTables:
    def test_a_row_a_group_and_a_column_a_number_of_pairs(self):
        many = {"pairs": 100_000}
        rows = [exact(), row(), row(L=2, c2st=(0.51, 0.51)), row(**many, c2st=(0.52, 0.52)), row(T=20, **many)]
        table = suite_tables(rows, [])["two_moons"]
        found = [(one["method"], one["T"], one["L"], one["C2ST, 10k"], one["C2ST, 100k"]) for one in table]
        assert found == [
            ("exact", None, None, "0.500 ± 0.000", "0.500 ± 0.000"),
            ("bridge", 10, 1, "0.560 ± 0.010", "0.520 ± 0.000"),
            ("bridge", 10, 2, "0.510 ± 0.000", None),
            ("bridge", 20, 1, None, "0.560 ± 0.010"),
        ]
        assert table[1]["sliced W (floor), 10k"] == "0.03 (0.01)"
        assert (table[1]["training s, 10k"], table[1]["calls"], table[1]["seconds / 10k samples"]) == (60.0, 10, 0.5)

    def test_seeds_are_averaged_before_observations(self):
        rows = [row(c2st=(0.5, 0.6)), row(seed=1, c2st=(0.6, 0.7))]
        assert len(suite_tables(rows, [])["two_moons"]) == 1
        assert pooled(rows, "c2st") == pytest.approx((0.6, 0.05))
        assert pooled([row(c2st=(0.6,))], "c2st") == (0.6, None)
        assert pooled(rows, "skew_error") is None

    def test_published_numbers_of_the_same_pairs_stand_below(self):
        """Of four problems, six each; no two of the same method, pairs and problem; all are accuracies."""
        assert len(PUBLISHED) == len({(one.problem, one.method, one.pairs) for one in PUBLISHED}) == 24
        assert all(0.5 <= one.c2st <= 1 for one in PUBLISHED)
        one = suite_tables([row(pairs=100_000)], PUBLISHED)["two_moons"]
        assert [(r["method"].split(",")[0], r.get("calls")) for r in one[1:]] == [
            ("NPE (Lueckmann et al. 2021)", None), ("flow matching", 10), ("flow matching", 50),
            ("flow matching", 500), ("EDM-VP", None),
        ]  # fmt: skip
        assert one[1]["C2ST, 100k"] == "0.542"
        assert len(suite_tables([row(pairs=500)], PUBLISHED)["two_moons"]) == 1
        assert len(suite_tables([row("bod")], PUBLISHED)["bod"]) == 1

    def test_moments_at_a_published_observation(self):
        moments = {"found": {"mean": [0.1, 0.9], "var": [0.2, 0.4]}, "exact": {"mean": [0.0, 1.0], "var": [0.2, 0.3]}}
        rows = [exact("bod", moments=moments), row("bod", moments=moments), row("bod", L=2, moments=moments)]
        _, errors, table = suite_tables(rows, []).values()
        assert [(one["label"], one["L"], one["mean_1"], one["var_2"]) for one in table] == [
            ("exact, by quadrature", None, 0.0, 0.3), ("bridge", 1, 0.1, 0.4), ("bridge", 2, 0.1, 0.4),
        ]  # fmt: skip
        assert errors[1] == {"method": "bridge", "T": 10, "L": 1, "mean, 10k": pytest.approx(0.15)}


class TestFigure:
    def test_a_panel_a_problem_with_c2st_and_a_line_a_published_number(self, tmp_path):
        rows = [row(T=T, pairs=n) for T in (1, 10) for n in (10_000, 100_000)]
        figure = curves_figure(suite_panels([exact(), *rows, row("bod"), row("x", c2st=None)], PUBLISHED))
        assert figure is not None
        assert len(figure.axes) == 2
        assert figure.axes[1].get_title(loc="left").startswith("bod: C2ST")
        assert len(figure.axes[0].texts) == 6
        theirs = [Published("two_moons", "a", "a", "b", 10_000, 0.6)]
        assert draw_curves(tmp_path / "suite.png", suite_panels([row(c2st=(0.49,))], theirs))
        assert not draw_curves(tmp_path / "suite.png", suite_panels([row(c2st=None)], PUBLISHED))
        assert not (tmp_path / "suite.png").exists()

    def test_every_line_has_its_own_look(self):
        """Of all methods of the suite there are more than colours."""
        labels = [("bridge", L) for L in (1, 2, 3)]
        labels += [(label, None) for label in ("score, DDPM", "score, DPM-Solver++", "flow, Euler", "flow, Heun")]
        rows = [row(label=label, L=L, pairs=n) for label, L in labels for n in (10_000, 100_000)]
        assert len({(one.color, one.marker, one.dash) for one in _looks(rows, []).values()}) == 14

    def test_labels_stay_apart(self):
        assert apart([0.1, 0.5], 0.1) == [0.1, 0.5]
        assert apart([0.1, 0.12, 0.5], 0.1) == pytest.approx([0.1, 0.2, 0.5])
        assert apart([0.95, 0.97], 0.1) == pytest.approx([0.9, 1.0])
        assert apart([], 0.1) == []
