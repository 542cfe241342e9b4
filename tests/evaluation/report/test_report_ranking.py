"""Which value is bold, and how metrics are described."""

import math

import pytest
from report_examples import image_report, point_report

from csb.evaluation.report import METRICS, Row, best, metric
from csb.evaluation.report.catalogue import GROUPS, accuracy_metrics, headline_keys, metrics_of
from csb.evaluation.report.table import amount, columns, findings, groups, markdown


def winners(key: str, *values: float | None, reference: int | None = None) -> set[int]:
    """Which of the methods with these values are best; the one at ``reference`` is the exact posterior."""
    methods = [Row(str(i), "m", metrics={key: v}, reference=i == reference) for i, v in enumerate(values)]
    return {int(name) for name in best(metric(key), methods)}


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("psnr_mean", (18.0, 19.0, 17.0), {1}),
        ("crps", (0.3, 0.1, 0.2), {1}),
        ("spread_skill", (0.8, 1.1, 1.4), {1}),
        ("spread_skill", (0.5, 2.0), {0, 1}),  # half and twice are equally bad
        ("spread_skill", (0.0, 2.5), {1}),  # a collapsed sampler never wins
        ("spread_skill", (0.0, 0.0), set()),
        ("c2st", (0.48, 0.55, 0.6), {0}),
        ("c2st", (0.45, 0.55), {0, 1}),
        ("crps", (0.12341, 0.12344, 0.2), {0, 1}),  # the same as displayed
        ("crps", (0.1, None, math.nan), set()),  # one value competes with none
        ("crps", (None, 0.2, 0.1), {2}),
        ("psnr_mean", (math.inf, 18.0, 17.0), {1}),
        ("psnr_sample", (15.0, 16.0), set()),
        ("ssim_sample", (0.5, 0.6), set()),
        ("digit_accuracy", (0.5, 0.6), {1}),
        ("sliced_w_floor", (0.1, 0.2), set()),
        ("sbc_p", (0.1, 0.2), set()),
        ("never heard of", (1.0, 2.0), set()),
    ],
)
def test_best(key: str, values: tuple, expected: set[int]):
    assert winners(key, *values) == expected


@pytest.mark.parametrize(
    ("key", "values", "errors", "expected"),
    [
        ("crps", (0.10, 0.13), (0.03, 0.04), {0, 1}),
        ("crps", (0.10, 0.16), (0.03, 0.04), {0}),
        ("crps", (0.10, 0.13), (0.03, None), {0}),
        ("psnr_mean", (19.0, 18.8), (0.2, 0.2), {0, 1}),
        ("spread_skill_fair", (1.05, 0.97, 1.2), (0.04, 0.04, 0.04), {0, 1}),
        ("spread_skill_fair", (2.0, 0.5), (0.1, 0.1), {0, 1}),  # as far from 1 on either side
        ("spread_skill_fair", (0.0, 1.1), (1.0, 1.0), {1}),
    ],
)
def test_what_the_standard_errors_cannot_tell_apart_is_a_tie(
    key: str, values: tuple, errors: tuple, expected: set[int]
):
    methods = [
        Row(str(i), str(i), metrics={key: value}, standard_errors={key: error})
        for i, (value, error) in enumerate(zip(values, errors))
    ]
    assert best(METRICS[key], methods) == {str(i) for i in expected}


def test_what_single_samples_show_is_explained():
    for key in ("psnr_sample", "ssim_sample"):
        assert not METRICS[key].ranked
        assert METRICS[key].explanation.endswith("Not ranked: samples that collapse onto one guess score higher.")
    assert METRICS["digit_accuracy"].ranked
    assert "Ranked: samples are to show it." in METRICS["digit_accuracy"].explanation


def test_the_exact_posterior_does_not_compete():
    assert winners("crps", 0.1, 0.2, 0.3, reference=0) == {1}
    assert winners("crps", 0.1, 0.2, reference=0) == set()


def test_every_metric_is_described():
    for key, m in METRICS.items():
        assert m.key == key
        assert m.explanation.endswith(".")
        assert m.group in GROUPS
        assert m.direction in ("higher", "lower", "target", "")
        assert m.direction or not m.ranked
    assert metric("mine").label == "mine"
    assert (METRICS["spread_skill"].arrow, METRICS["c2st"].arrow) == ("→ 1", "→ 0.5")


def test_charts_show_the_metrics_of_the_kind_of_problem():
    assert [m.key for m in accuracy_metrics(image_report())] == ["psnr_mean", "crps"]
    assert [m.key for m in accuracy_metrics(point_report())] == ["sliced_w", "c2st"]
    odd = image_report(methods=(Row("a", "A", metrics={"mine": 1.0}),))
    assert accuracy_metrics(odd) == []
    assert [m.label for m in metrics_of(odd)] == ["mine"]
    assert "spread_skill" in headline_keys(image_report())
    fair = image_report(methods=(Row("a", "A", metrics={"spread_skill": 0.9, "spread_skill_fair": 1.0}),))
    assert "spread_skill_fair" in headline_keys(fair)
    assert "spread_skill" not in headline_keys(fair)


def test_the_table_has_groups_in_order_and_a_dash_for_what_is_missing():
    report = image_report()
    table = columns(report)
    assert [name for name, _ in groups(table)] == [
        "Cost of one sample", "Cost of the call", "Particles", "Accuracy", "Calibration", "Single samples",
    ]  # fmt: skip
    assert sum(length for _, length in groups(table)) == len(table)
    by_key = {c.key: c for c in table}
    assert [c.text for c in by_key["std_error_pearson"].cells][5] == "–"
    assert [c.best for c in by_key["psnr_mean"].cells] == [False, True, *[False] * 5]
    assert not any(c.best for c in by_key["psnr_sample"].cells)
    assert by_key["psnr_mean"].cells[0].error == "± 0.03"
    assert by_key["memory"].cells[0].text == "279"
    assert by_key["crps"].note == "↓"


def test_costs_are_written_without_exponents():
    assert [amount(v) for v in (None, 0, 10, 12800, 3.2, 0.0123, 123456.7, 99.96)] == [
        "–", "0", "10", "12,800", "3.2", "0.0123", "123,457", "100",
    ]  # fmt: skip


def test_findings_name_the_winner():
    found = findings(image_report(), ["psnr_mean", "psnr_sample", "crps"])
    assert [(m.key, [w.name for w in who]) for m, who in found] == [
        ("psnr_mean", ["csb20"]),
        ("crps", ["csb10", "csb20"]),  # .0883 ± .0008 and .0875 ± .0008
    ]


def test_markdown_marks_the_best_and_escapes():
    report = image_report(
        methods=(
            Row("a", "a|b <i>*x*</i>", metrics={"crps": 0.1, "[x](y)": 1.0}),
            Row("b", "b", metrics={"crps": 0.2}),
        )
    )
    text = markdown(report)
    assert "**0.1000**" in text
    assert "**0.2000**" not in text
    assert r"a\|b &lt;i&gt;\*x\*&lt;/i&gt;" in text
    assert "[x](y)" not in text
