"""The report's data: what it refuses, what becomes of NaN, and the way through JSON and back."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from report_examples import image_grid, image_report, point_grid, point_report

from csb.errors import CSBError
from csb.evaluation.report import (
    Curves,
    ImageGrid,
    LevelCurve,
    PointGrid,
    RankHistogram,
    Report,
    Row,
    StdError,
    Sweep,
    write_report,
)


@pytest.mark.parametrize("report", [image_report(), point_report()], ids=["images", "points"])
def test_a_report_comes_back_from_json(report: Report):
    text = json.dumps(report.to_plain(), allow_nan=False)
    assert Report.from_plain(json.loads(text)) == report


def test_numbers_that_are_not_finite_become_none():
    m = Row(
        "a", "A", "", np.int64(3), 0, math.inf, metrics={"x": math.nan, "y": np.float32(0.5), "z": torch.tensor(2.0)}
    )
    assert m.metrics == {"x": None, "y": 0.5, "z": 2.0}
    assert m.seconds is None
    assert type(m.forward_evaluations) is int
    assert type(m.metrics["y"]) is float
    assert m.evaluations == 3
    assert Sweep("t", ({"a": math.nan, "b": "text"},)).rows == ({"a": None, "b": "text"},)


def method(name: str = "a", **changes) -> Row:
    return Row(name, name.upper(), **({"metrics": {"crps": 1.0}} | changes))


BAD = {
    "no methods": (lambda: image_report(methods=()), "at least one method"),
    "a name twice": (lambda: image_report(methods=(method(), method())), "every name once"),
    "no metric": (lambda: image_report(methods=(method(metrics={"crps": math.nan}),)), "nothing to compare"),
    "kind": (lambda: image_report(kind="sounds"), "choose from images, points"),
    "observations": (lambda: image_report(observations=0), "observations=0"),
    "empty title": (lambda: image_report(title=" "), "title"),
    "empty name": (lambda: method(" "), "name"),
    "evaluations": (lambda: method(forward_evaluations=math.nan), "network evaluations"),
    "seconds": (lambda: method(seconds=-1.0), "negative"),
    "ess": (lambda: method(ess=(1.0,)), "smallest"),
    "text for a metric": (lambda: method(metrics={"crps": "good"}), "'good' is no number"),
    "vector for a metric": (lambda: method(metrics={"crps": np.ones(3)}), "one number"),
    "metrics as a list": (lambda: method(metrics=[1.0]), "mapping"),
    "no levels": (lambda: LevelCurve((), ()), "empty"),
    "levels": (lambda: LevelCurve((0.5,), (1.5,)), "shares in 0..1"),
    "two lengths": (lambda: LevelCurve((0.5, 0.6), (0.5,)), "one length"),
    "NaN coverage": (lambda: LevelCurve((0.5,), (math.nan,)), "not finite"),
    "trials": (lambda: LevelCurve((0.5,), (0.5,), 0), "trials=0"),
    "counts": (lambda: RankHistogram((0, 0)), "no histogram"),
    "std": (lambda: StdError((-0.1,), (0.1,)), "negative"),
    "no rows": (lambda: Sweep("t", ()), "no rows"),
    "chosen": (lambda: Sweep("t", ({"a": 1},), 1), "chosen=1"),
    "settings": (lambda: image_report(settings={"a": [1]}), "no number"),
    "versions": (lambda: image_report(versions={"a": object()}).to_plain(), "JSON cannot"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_in_one_line(case: str):
    make, match = BAD[case]
    with pytest.raises(CSBError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_foreign_object_is_no_report():
    plain = image_report().to_plain()
    for broken, match in (
        ([], "format 1"),
        (plain | {"format": 2}, "format 1"),
        (plain | {"colour": 1}, "'colour' unknown"),
        ({k: v for k, v in plain.items() if k != "seed"}, "'seed' unknown or missing"),
        (plain | {"methods": [1]}, "not from a int"),
    ):
        with pytest.raises(CSBError, match=match):
            Report.from_plain(broken)


def test_grids_take_channels_tensors_and_refuse_what_does_not_fit(tmp_path):
    report = image_report()
    grid = image_grid(report, B=2, n=3)
    with_channel = {k: torch.tensor(v)[:, :, None] for k, v in grid.samples.items()}
    same = ImageGrid(grid.truth[:, None], grid.observation[:, None], with_channel)
    assert all(np.array_equal(same.samples[k], grid.samples[k]) for k in grid.samples)
    points = point_grid(point_report(), B=2, n=5)
    nan = grid.truth * np.nan
    for make, match in (
        (lambda: ImageGrid(nan, grid.observation, grid.samples), "truth of shape .* NaN"),
        (lambda: ImageGrid(grid.truth[:1], grid.observation[:1], grid.samples), "same ones to every method"),
        (lambda: ImageGrid(grid.truth, grid.observation, {"tds": grid.samples["tds"][:, :1]}), "n ≥ 2"),
        (lambda: ImageGrid(grid.truth, grid.observation, grid.samples, (1.0, 1.0)), "black < white"),
        (lambda: ImageGrid(np.ones((2, 3, 4, 4)), grid.observation, grid.samples), "one channel"),
        (lambda: ImageGrid(grid.truth[:0], grid.observation[:0], {}), "truth has shape"),
        (lambda: PointGrid(points.truth[:, :1], points.observation, points.samples), "d ≥ 2"),
        (lambda: PointGrid(points.truth, points.observation[:1], points.samples), "same ones"),
        (lambda: write_report(report, points, tmp_path), "report on images got PointGrid"),
        (lambda: write_report(report, ImageGrid(grid.truth, grid.observation, {}), tmp_path), "shows the method None"),
        (lambda: write_report(replace(report, methods=report.methods[:1]), grid, tmp_path), "shows the method 'csb20'"),
    ):
        with pytest.raises(CSBError, match=match) as caught:
            make()
        assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_curves_of_a_method_survive_as_tuples():
    curves = Curves(LevelCurve([0.5], [0.4]), None, RankHistogram(np.array([1, 2])), StdError([0.1], [0.2]))  # pyright: ignore
    report = image_report(methods=(method(curves=curves),))
    back = Report.from_plain(report.to_plain())
    assert back.methods[0].curves == curves
    assert curves.sbc is not None
    assert curves.sbc.counts == (1, 2)
