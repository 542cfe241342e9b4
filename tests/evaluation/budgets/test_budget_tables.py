"""Tables and picture of a comparison at equal cost."""

import dataclasses

import pytest

from csb.evaluation.budgets import KEYS, Budget, Row, budget_table, draw_budgets, ranked
from csb.evaluation.budgets.figure import budgets_figure


def row(name, crps, error=None, T=5, reference=False, **metrics):
    errors = {} if error is None else {"crps": error}
    found = {"crps": crps, "energy_score": 2.0, **metrics}
    return Row(name, name, T, 10, 0.0123, found, errors, reference)


class TestTable:
    def test_the_best_is_first_and_references_are_last(self):
        rows = [row("b", 0.3), row("exact", 0.01, reference=True), row("none", None), row("a", 0.1), row("c", 0.2)]
        assert [one.method for one in ranked(rows, "crps")] == ["a", "c", "b", "none", "exact"]
        assert [line["method"] for line in budget_table(rows, "images")] == ["a", "c", "b", "none", "exact"]

    def test_where_more_is_better(self):
        rows = [row("a", 0.1, psnr_mean_per_image=10.0), row("b", 0.2, psnr_mean_per_image=20.0)]
        assert [one.method for one in ranked(rows, "psnr_mean_per_image")] == ["b", "a"]
        assert budget_table(rows, "images")[1]["PSNR per image ↑"] == "**20.00**"

    def test_marks_within_a_standard_error_of_the_difference(self):
        rows = [row("a", 0.10, 0.03), row("b", 0.14, 0.03), row("c", 0.15, 0.03), row("e", 0.01, 0.1, reference=True)]
        cells = {line["method"]: line["CRPS ↓"] for line in budget_table(rows, "images", ("<", ">"))}
        assert cells == {"a": "<0.1000 ± 0.03>", "b": "<0.1400 ± 0.03>", "c": "0.1500 ± 0.03", "e": "0.01000 ± 0.1"}

    def test_what_no_row_has_is_no_column_and_what_one_lacks_is_a_dash(self):
        (line,) = budget_table([row("a", 0.1)], "images")
        assert list(line) == ["method", "T", "passes", "seconds", "CRPS ↓", "Energy score ↓"]
        assert (line["passes"], line["seconds"]) == ("10", "0.012")
        table = budget_table([row("a", 0.1), row("b", 0.2, energy_score=None)], "images")
        assert table[1]["Energy score ↓"] == "–"

    @pytest.mark.parametrize("kind", KEYS)
    def test_kinds(self, kind):
        first = KEYS[kind][0]
        rows = [Row(str(v), str(v), 1, 1, 1.0, {key: float(v) for key in KEYS[kind]}) for v in (3, 1, 2)]
        assert [one.method for one in ranked(rows, first)] == ["1", "2", "3"]
        assert len(budget_table(rows, kind)[0]) == 4 + len(KEYS[kind])

    def test_a_choice_is_part_of_the_name_that_is_shown(self):
        (line,) = budget_table([dataclasses.replace(row("a", 0.1), choice="ζ = 0.3")], "images")
        assert line["method"] == "a, ζ = 0.3"

    def test_budgets_in_words(self):
        assert [Budget("passes", 10).text, Budget("seconds", 0.1).text] == ["10 passes", "0.1 seconds"]
        assert [Budget("passes", 1).text, Budget("seconds", 1.0).text] == ["1 pass", "1 second"]


class TestFigure:
    ROWS = [
        dataclasses.replace(row("a", 0.2, 0.01, T=5), passes=10, seconds=0.01, label="A", choice="ζ = 1"),
        dataclasses.replace(row("a", 0.1, 0.01, T=50), passes=100, seconds=0.1, label="A", choice="ζ = 0.3"),
        dataclasses.replace(row("b", 0.3, T=10), passes=10, seconds=0.02, label="B, K = 4"),
        row("exact", 0.05, reference=True),
    ]

    def test_a_line_a_method_in_both_panels(self):
        figure = budgets_figure(self.ROWS, "images", "a title")
        for axes, cost in zip(figure.axes, ("passes", "seconds")):
            lines = [container[0] for container in axes.containers]
            found = [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]
            a, b = ([r for r in self.ROWS if r.method == name] for name in "ab")
            assert found == [([getattr(r, cost) for r in of], [r.metrics["crps"] for r in of]) for of in (a, b)]
            assert axes.get_xscale() == axes.get_yscale() == "log"
        assert [text.get_text() for text in figure.texts] == ["A", "B, K = 4", "exact"]

    def test_scores_that_are_not_positive_have_a_linear_axis(self):
        figure = budgets_figure([*self.ROWS, row("c", -0.1)], "images", "a title")
        assert [axes.get_yscale() for axes in figure.axes] == ["linear"] * 2

    def test_one_cost_alone(self):
        figure = budgets_figure([row("a", 0.1), row("b", 0.2)], "images", "a title")
        assert figure.axes[0].get_xlim() == pytest.approx((10 / 1.3, 13))

    def test_the_file(self, tmp_path):
        assert draw_budgets(tmp_path / "a.png", self.ROWS, "images", "a title")
        assert (tmp_path / "a.png").stat().st_size > 10_000
        assert not draw_budgets(tmp_path / "a.png", self.ROWS[-1:], "images", "a title")
        assert not (tmp_path / "a.png").exists()
