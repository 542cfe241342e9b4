"""The report's data: what it refuses, who is best, the table, and the way through JSON and back."""

import json
import math
from dataclasses import replace

import pytest
from report_examples import image_grid, image_report, point_grid, point_report

from csb.errors import CSBError
from csb.evaluation.catalogue import (
    GROUPS,
    METRICS,
    accuracy_metrics,
    amount,
    best,
    columns,
    findings,
    groups,
    headline_keys,
    markdown,
    metric,
    metrics_of,
)
from csb.evaluation.charts import looks
from csb.evaluation.plots import MARKERS, SERIES
from csb.evaluation.report import write_report
from csb.evaluation.rows import Curves, LevelCurve, RankHistogram, Report, Row, StdError, Sweep


def method(name: str = "a", **changes) -> Row:
    return Row(name, name.upper(), **({"metrics": {"crps": 1.0}} | changes))


@pytest.mark.parametrize("report", [image_report(), point_report()], ids=["images", "points"])
def test_a_report_comes_back_from_json(report: Report):
    plain = report.to_plain()
    back = Report.from_plain(json.loads(json.dumps(plain, allow_nan=False)))
    assert back.to_plain() == plain
    assert [m.metrics.keys() for m in back.methods] == [m.metrics.keys() for m in report.methods]
    assert back.methods[0].curves.sbc == RankHistogram(tuple(report.methods[0].curves.sbc.counts), 200)  # pyright: ignore


def test_numbers_that_are_not_finite_are_missing():
    m = method(metrics={"x": math.nan, "y": 0.5}, standard_errors={"y": math.inf})
    assert (m.value("x"), m.value("y"), m.error("y")) == (None, 0.5, None)
    assert image_report(methods=(m,)).to_plain()["methods"][0]["metrics"] == {"x": None, "y": 0.5}


BAD = {
    "no methods": ({"methods": ()}, "methods"),
    "a name twice": ({"methods": (method(), method())}, "every name once"),
    "no metric": ({"methods": (method(metrics={"crps": math.nan}),)}, "nothing to compare"),
    "kind": ({"kind": "sounds"}, "images"),
    "observations": ({"observations": 0}, "observations=0"),
    "seconds": ({"methods": (method(seconds=-1.0),)}, "seconds=-1.0"),
    "ess": ({"methods": (method(ess=(1.0,)),)}, "ess"),
    "text for a metric": ({"methods": (method(metrics={"crps": "good"}),)}, "'good'"),
    "levels": ({"methods": (method(curves=Curves(LevelCurve((0.5,), (1.5,)))),)}, "coverage"),
    "counts": ({"methods": (method(curves=Curves(sbc=RankHistogram((1,)))),)}, "counts"),
    "std": ({"methods": (method(curves=Curves(std_error=StdError((-0.1,), (0.1,)))),)}, "std"),
    "no rows": ({"methods": (method(sweeps=(Sweep("t", ()),)),)}, "rows"),
    "versions": ({"versions": {"a": object()}}, "JSON cannot"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_in_one_line_and_nothing_is_written(case: str, tmp_path):
    changes, match = BAD[case]
    with pytest.raises(CSBError, match=match) as caught:
        write_report(image_report(**changes), None, tmp_path)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_foreign_objects_and_samples_are_refused(tmp_path):
    plain = image_report().to_plain()
    for broken, match in (
        ([], "format 1"),
        (plain | {"format": 2}, "format 1"),
        (plain | {"colour": 1}, "colour"),
        ({k: v for k, v in plain.items() if k != "seed"}, "seed"),
        (plain | {"methods": [1]}, "methods"),
    ):
        with pytest.raises(CSBError, match=match):
            Report.from_plain(broken)
    points, images = point_report(), image_report()
    for report, grid in (
        (images, point_grid(points)),
        (replace(images, methods=images.methods[:1]), image_grid(images)),
    ):
        with pytest.raises(CSBError, match="give samples of its kind and methods"):
            write_report(report, grid, tmp_path)


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
        ("crps", (0.12341, 0.12344, 0.2), {0, 1}),  # the same as displayed
        ("crps", (0.1, None, math.nan), set()),  # one value competes with none
        ("psnr_mean", (math.inf, 18.0, 17.0), {1}),
        ("psnr_sample", (15.0, 16.0), set()),
        ("digit_accuracy", (0.5, 0.6), {1}),
        ("sliced_w_floor", (0.1, 0.2), set()),
        ("never heard of", (1.0, 2.0), set()),
    ],
)
def test_best(key: str, values: tuple, expected: set[int]):
    methods = [method(str(i), metrics={key: v}) for i, v in enumerate(values)]
    assert best(metric(key), methods) == {str(i) for i in expected}


def test_the_exact_posterior_does_not_compete():
    methods = [method(str(i), metrics={"crps": v}, reference=i == 0) for i, v in enumerate((0.1, 0.2, 0.3))]
    assert best(METRICS["crps"], methods) == {"1"}
    assert best(METRICS["crps"], methods[:2]) == set()


@pytest.mark.parametrize(
    ("key", "values", "errors", "expected"),
    [
        ("crps", (0.10, 0.13), (0.03, 0.04), {0, 1}),
        ("crps", (0.10, 0.16), (0.03, 0.04), {0}),
        ("crps", (0.10, 0.13), (0.03, None), {0}),
        ("spread_skill_fair", (1.05, 0.97, 1.2), (0.04, 0.04, 0.04), {0, 1}),
        ("spread_skill_fair", (2.0, 0.5), (0.1, 0.1), {0, 1}),  # as far from 1 on either side
    ],
)
def test_what_the_standard_errors_cannot_tell_apart_is_a_tie(key, values, errors, expected):
    methods = [
        method(str(i), metrics={key: value}, standard_errors={key: error})
        for i, (value, error) in enumerate(zip(values, errors))
    ]
    assert best(METRICS[key], methods) == {str(i) for i in expected}


def test_every_metric_is_described():
    for key, m in METRICS.items():
        assert m.key == key
        assert m.explanation.endswith(".")
        assert m.group in GROUPS
        assert m.direction in ("higher", "lower", "target", "")
        assert m.direction or not m.ranked
    assert METRICS["psnr_sample"].explanation.endswith("samples that collapse onto one guess score higher.")
    assert (METRICS["spread_skill"].arrow, METRICS["c2st"].arrow) == ("→ 1", "→ 0.5")


def test_charts_show_the_metrics_of_the_kind_of_problem():
    assert [m.key for m in accuracy_metrics(image_report())] == ["psnr_mean", "crps"]
    assert [m.key for m in accuracy_metrics(point_report())] == ["sliced_w", "c2st"]
    odd = image_report(methods=(method(metrics={"mine": 1.0}),))
    assert accuracy_metrics(odd) == []
    assert [m.label for m in metrics_of(odd)] == ["mine"]
    fair = image_report(methods=(method(metrics={"spread_skill": 0.9, "spread_skill_fair": 1.0}),))
    assert "spread_skill" in headline_keys(image_report())
    assert "spread_skill" not in headline_keys(fair)


def test_the_table_has_groups_in_order_and_a_dash_for_what_is_missing():
    table = columns(image_report())
    assert [name for name, _ in groups(table)] == [
        "Cost of one sample", "Cost of the call", "Particles", "Accuracy", "Calibration", "Single samples",
    ]  # fmt: skip
    by_key = {c.key: c for c in table}
    assert [c.text for c in by_key["std_error_pearson"].cells][5] == "–"
    assert [c.best for c in by_key["psnr_mean"].cells] == [False, True, *[False] * 5]
    assert by_key["psnr_mean"].cells[0].error == "± 0.03"
    assert by_key["memory"].cells[0].text == "279"
    assert by_key["crps"].note == "↓"
    assert [amount(v) for v in (None, 0, 12800, 3.2, 0.0123, 123456.7)] == [
        "–",
        "0",
        "12,800",
        "3.2",
        "0.0123",
        "123,457",
    ]
    found = findings(image_report(), ["psnr_mean", "psnr_sample", "crps"])  # of CRPS .0883 ± .0008 and .0875 ± .0008
    assert [(m.key, [w.name for w in who]) for m, who in found] == [
        ("psnr_mean", ["csb20"]),
        ("crps", ["csb10", "csb20"]),
    ]


def test_markdown_marks_the_best_and_escapes():
    rows = (
        Row("a", "a|b <i>*x*</i>", metrics={"crps": 0.1, "[x](y)": 1.0}),
        Row("b", "b", metrics={"crps": 0.2}),
    )
    text = markdown(image_report(methods=rows))
    assert "**0.1000**" in text
    assert "**0.2000**" not in text
    assert r"a\|b &lt;i&gt;\*x\*&lt;/i&gt;" in text
    assert "[x](y)" not in text


def test_families_share_a_colour_and_no_two_methods_a_look():
    found = looks(image_report().methods)
    assert found["csb10"].color == found["csb20"].color
    assert len({one[1:] for one in found.values()}) == len(found)
    assert looks(point_report().methods)["exact"].color not in SERIES
    assert len(set(MARKERS)) == len(MARKERS)
