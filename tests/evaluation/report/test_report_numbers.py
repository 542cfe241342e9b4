"""The report's data: what it refuses, who is best, the table, and the way through JSON and back."""

import math

import pytest
from report_examples import image_report, point_report

from csb.evaluation import catalogue
from csb.evaluation.catalogue import METRICS
from csb.evaluation.charts import looks
from csb.evaluation.plots import MARKERS, SERIES
from csb.evaluation.rows import Row


def method(name: str = "a", **changes) -> Row:
    return Row(name, name.upper(), **({"metrics": {"crps": 1.0}} | changes))


def test_numbers_that_are_not_finite_are_missing():
    m = method(metrics={"x": math.nan, "y": 0.5}, standard_errors={"y": math.inf})
    assert (m.value("x"), m.value("y"), m.error("y")) == (None, 0.5, None)


NONE = (None,) * 3


@pytest.mark.parametrize(
    ("key", "values", "errors", "expected"),
    [
        ("psnr_mean", (18.0, 19.0, 17.0), NONE, {1}),
        ("crps", (0.3, 0.1, 0.2), NONE, {1}),
        ("spread_skill", (0.8, 1.1, 1.4), NONE, {1}),
        ("spread_skill", (0.5, 2.0), NONE, {0, 1}),  # half and twice are equally bad
        ("spread_skill", (0.0, 2.5), NONE, {1}),  # a collapsed sampler never wins
        ("spread_skill", (0.0, 0.0), NONE, set()),
        ("c2st", (0.48, 0.55, 0.6), NONE, {0}),
        ("crps", (0.12341, 0.12344, 0.2), NONE, {0, 1}),  # the same as displayed
        ("crps", (0.1, None, math.nan), NONE, set()),  # one value competes with none
        ("psnr_mean", (math.inf, 18.0, 17.0), NONE, {1}),
        ("psnr_sample", (15.0, 16.0), NONE, set()),
        ("digit_accuracy", (0.5, 0.6), NONE, {1}),
        ("sliced_w_floor", (0.1, 0.2), NONE, set()),
        ("never heard of", (1.0, 2.0), NONE, set()),
        # what the standard errors cannot tell apart is a tie
        ("crps", (0.10, 0.13), (0.03, 0.04), {0, 1}),
        ("crps", (0.10, 0.16), (0.03, 0.04), {0}),
        ("crps", (0.10, 0.13), (0.03, None), {0}),
        ("spread_skill_fair", (1.05, 0.97, 1.2), (0.04, 0.04, 0.04), {0, 1}),
        ("spread_skill_fair", (2.0, 0.5), (0.1, 0.1), {0, 1}),  # as far from 1 on either side
    ],
)
def test_best(key, values, errors, expected):
    methods = [
        method(str(i), metrics={key: value}, standard_errors={} if error is None else {key: error})
        for i, (value, error) in enumerate(zip(values, errors))
    ]
    assert catalogue.best(catalogue.metric(key), methods) == {str(i) for i in expected}


def test_the_exact_posterior_does_not_compete():
    methods = [method(str(i), metrics={"crps": v}, reference=i == 0) for i, v in enumerate((0.1, 0.2, 0.3))]
    assert catalogue.best(METRICS["crps"], methods) == {"1"}


def test_charts_show_the_metrics_of_the_kind_of_problem():
    assert [m.key for m in catalogue.accuracy_metrics(image_report())] == ["psnr_mean", "crps"]
    assert [m.key for m in catalogue.accuracy_metrics(point_report())] == ["sliced_w", "c2st"]
    odd = image_report(methods=(method(metrics={"mine": 1.0}),))
    assert catalogue.accuracy_metrics(odd) == []
    assert [m.label for m in catalogue.metrics_of(odd)] == ["mine"]
    fair = image_report(methods=(method(metrics={"spread_skill": 0.9, "spread_skill_fair": 1.0}),))
    assert "spread_skill" in catalogue.headline_keys(image_report())
    assert "spread_skill" not in catalogue.headline_keys(fair)


def test_the_table_has_groups_in_order_and_a_dash_for_what_is_missing():
    table = catalogue.columns(image_report())
    assert [name for name, _ in catalogue.groups(table)] == [
        "Cost of one sample", "Cost of the call", "Particles", "Accuracy", "Calibration", "Single samples",
    ]  # fmt: skip
    by_key = {c.key: c for c in table}
    assert by_key["std_error_pearson"].cells[5].text == "–"
    assert [c.best for c in by_key["psnr_mean"].cells] == [False, True, *[False] * 5]
    assert (by_key["psnr_mean"].cells[0].error, by_key["memory"].cells[0].text) == ("± 0.03", "279")
    assert by_key["crps"].note == "↓"
    shown = {None: "–", 0: "0", 12800: "12,800", 3.2: "3.2", 0.0123: "0.0123", 123456.7: "123,457"}
    assert {value: catalogue.amount(value) for value in shown} == shown
    found = catalogue.findings(
        image_report(), ["psnr_mean", "psnr_sample", "crps"]
    )  # of CRPS .0883 ± .0008 and .0875 ± .0008
    winners = {m.key: [w.name for w in who] for m, who in found}
    assert winners == {"psnr_mean": ["csb20"], "crps": ["csb10", "csb20"]}


def test_markdown_marks_the_best_and_escapes():
    rows = (method("a|b <i>*x*</i>", metrics={"crps": 0.1, "[x](y)": 1.0}), method("b", metrics={"crps": 0.2}))
    text = catalogue.markdown(image_report(methods=rows))
    assert "**0.1000**" in text
    assert "**0.2000**" not in text
    assert r"A\|B &lt;I&gt;\*X\*&lt;/I&gt;" in text
    assert "[x](y)" not in text


def test_families_share_a_colour_and_no_two_methods_a_look():
    found = looks(image_report().methods)
    assert found["csb10"].color == found["csb20"].color
    assert len({one[1:] for one in found.values()}) == len(found)
    assert looks(point_report().methods)["long"].color not in SERIES
    assert len(set(MARKERS)) == len(MARKERS)
