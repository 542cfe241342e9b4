"""Tables, published numbers and the figure of a suite, from rows made by hand."""

import pytest
from suites.scores import PUBLISHED, Published, suite_panels, suite_tables
from suites.scores.figure import _looks, apart
from suites.scores.tables import count_text, pooled

from csb.evaluation.plots import curves_figure, draw_curves
from csb.evaluation.table import markdown_table


def row(problem="two_moons", label="bridge", pairs=10_000, T=10, L=1, seed=0, c2st=(0.55, 0.57), **more):
    scores = {"c2st_each": list(c2st)} if c2st else {}
    return {
        "problem": problem, "label": label, "pairs": pairs, "T": T, "L": L, "seed": seed, "train_seconds": 60.0,
        "calls": T or 0, "seconds": 0.5, "sliced_w_each": [0.02, 0.04], "mean_error_each": [0.1, 0.2], **scores, **more,
    }  # fmt: skip


def exact(problem="two_moons", **more):
    about = {"label": "exact", "pairs": None, "T": None, "L": None, "seed": None, "train_seconds": None}
    return row(problem, c2st=(0.5, 0.5), **{**about, "sliced_w_each": [0.01, 0.01], **more})


class TestTables:
    def test_a_row_a_group_and_a_column_a_number_of_pairs(self):
        rows = [
            exact(),
            row(),
            row(L=2, c2st=(0.51, 0.51)),
            row(pairs=100_000, c2st=(0.52, 0.52)),
            row(T=20, pairs=100_000),
        ]
        table = suite_tables(rows, [])["two_moons"]
        assert [(one["method"], one["T"], one["L"]) for one in table] == [
            ("exact", None, None), ("bridge", 10, 1), ("bridge", 10, 2), ("bridge", 20, 1),
        ]  # fmt: skip
        assert table[1]["C2ST, 10k"] == "0.560 ± 0.010"
        assert table[1]["C2ST, 100k"] == "0.520 ± 0.000"
        assert table[1]["sliced W (floor), 10k"] == "0.03 (0.01)"
        assert (table[1]["training s, 10k"], table[1]["calls"], table[1]["seconds / 10k samples"]) == (60.0, 10, 0.5)
        assert table[2]["C2ST, 100k"] is None
        assert table[3]["C2ST, 10k"] is None
        assert table[0]["C2ST, 10k"] == table[0]["C2ST, 100k"] == "0.500 ± 0.000"
        assert "| exact  |   – |" in markdown_table(table)

    def test_seeds_are_averaged_before_observations(self):
        rows = [row(c2st=(0.5, 0.6)), row(seed=1, c2st=(0.6, 0.7))]
        assert len(suite_tables(rows, [])["two_moons"]) == 1
        mean, error = pooled(rows, "c2st")  # pyright: ignore
        assert mean == pytest.approx(0.6)
        assert error == pytest.approx(0.05)
        assert pooled([row(c2st=(0.6,))], "c2st") == (0.6, None)
        assert pooled(rows, "skew_error") is None

    def test_published_numbers_of_the_same_pairs_stand_below(self):
        one = suite_tables([row(pairs=100_000)], PUBLISHED)["two_moons"]
        both = suite_tables([row(), row(pairs=100_000)], PUBLISHED)["two_moons"]
        assert [r["method"].split(",")[0] for r in one[1:]] == [
            "NPE (Lueckmann et al. 2021)", "flow matching", "flow matching", "flow matching", "EDM-VP",
        ]  # fmt: skip
        assert (one[1]["C2ST, 100k"], both[1 + 0]["C2ST, 10k"]) == ("0.542", "0.606")
        assert [r.get("calls") for r in one[1:]] == [None, 10, 50, 500, None]
        assert len(suite_tables([row(pairs=500)], PUBLISHED)["two_moons"]) == 1
        assert len(suite_tables([row("bod")], PUBLISHED)["bod"]) == 1

    def test_moments_at_a_published_observation(self):
        moments = {"found": {"mean": [0.1, 0.9], "var": [0.2, 0.4]}, "exact": {"mean": [0.0, 1.0], "var": [0.2, 0.3]}}
        rows = [exact("bod", moments=moments), row("bod", moments=moments), row("bod", L=2, moments=moments)]
        tables = suite_tables(rows, [])
        assert list(tables) == ["bod", "bod: errors of the moments", "bod: moments at the published observation"]
        table = tables["bod: moments at the published observation"]
        assert [(one["label"], one["L"], one["mean_1"], one["var_2"]) for one in table] == [
            ("exact, by quadrature", None, 0.0, 0.3), ("bridge", 1, 0.1, 0.4), ("bridge", 2, 0.1, 0.4),
        ]  # fmt: skip
        assert tables["bod: errors of the moments"][1] == {
            "method": "bridge",
            "T": 10,
            "L": 1,
            "mean, 10k": 0.15000000000000002,
        }


def test_count_text():
    assert [count_text(n) for n in (500, 1000, 1500, 10_000, 100_000)] == ["500", "1k", "1500", "10k", "100k"]


def test_published_numbers():
    """Of four problems, six each; no two of the same method, pairs and problem; all are accuracies."""
    assert len(PUBLISHED) == 24
    assert len({(one.problem, one.method, one.pairs) for one in PUBLISHED}) == 24
    assert all(0.5 <= one.c2st <= 1 for one in PUBLISHED)
    found = {(one.problem, one.short, one.pairs): one.c2st for one in PUBLISHED}
    assert found["sbi_gaussian_mixture", "NPE", 100_000] == 0.548
    assert found["two_moons", "Euler 10", 100_000] == 0.772


class TestFigure:
    def test_a_panel_a_problem_with_c2st_and_a_line_a_published_number(self, tmp_path):
        rows = [
            exact(),
            *(row(T=T, pairs=n) for T in (1, 10) for n in (10_000, 100_000)),
            row("bod"),
            row("x", c2st=None),
        ]
        figure = curves_figure(suite_panels(rows, PUBLISHED))
        assert figure is not None
        assert len(figure.axes) == 2
        assert figure.axes[1].get_title(loc="left").startswith("bod: C2ST")
        assert len(figure.axes[0].texts) == 6
        assert draw_curves(tmp_path / "suite.png", suite_panels(rows, PUBLISHED))
        assert (tmp_path / "suite.png").read_bytes().startswith(b"\x89PNG")

    def test_every_line_has_its_own_look(self):
        """Of all methods of the suite there are more than colours."""
        labels = [("bridge", L) for L in (1, 2, 3)]
        labels += [(label, None) for label in ("score, DDPM", "score, DPM-Solver++", "flow, Euler", "flow, Heun")]
        rows = [row(label=label, L=L, pairs=n) for label, L in labels for n in (10_000, 100_000)]
        looks = [(one.color, one.marker, one.dash) for one in _looks(rows, []).values()]
        assert len(looks) == 14
        assert len(set(looks)) == 14

    def test_nothing_to_show_leaves_no_file(self, tmp_path):
        (tmp_path / "suite.png").write_bytes(b"old")
        assert not draw_curves(tmp_path / "suite.png", suite_panels([row(c2st=None)], PUBLISHED))
        assert not (tmp_path / "suite.png").exists()

    def test_one_number_below_a_half(self, tmp_path):
        theirs = [Published("two_moons", "a", "a", "b", 10_000, 0.6)]
        assert draw_curves(tmp_path / "suite.png", suite_panels([row(c2st=(0.49,))], theirs))

    def test_labels_stay_apart(self):
        assert apart([0.1, 0.5], 0.1) == [0.1, 0.5]
        assert apart([0.1, 0.12, 0.5], 0.1) == pytest.approx([0.1, 0.2, 0.5])
        assert apart([0.95, 0.97], 0.1) == pytest.approx([0.9, 1.0])
        assert apart([], 0.1) == []
