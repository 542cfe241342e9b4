"""The suite of speeds: what is measured and how, never how long it took."""

import gc
import json

import pytest
import suites.timing as timing
import torch
from benchmark_checks import refuse
from suites.speed.figure import speed_panels
from suites.speed.growth import Curve, peak_bytes, power_of
from suites.speed.settings import QUICK
from suites.speed.steps import Alternating
from suites.timing import interleaved

from csb.bridge.objectives import OBJECTIVES
from csb.evaluation.plots import curves_figure

CPU = torch.device("cpu")


class TestInterleaved:
    def test_actions_take_turns_and_the_first_round_is_left_out(self, monkeypatch):
        """A clock that only the actions move: a takes 9, 1, 2, 3 seconds and b 5 each time."""
        clock, order = [0.0], []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
        lengths = {"a": iter([9.0, 1.0, 2.0, 3.0]), "b": iter([5.0] * 4)}

        def action(name):
            order.append(name)
            clock[0] += next(lengths[name])

        found = interleaved({name: lambda name=name: action(name) for name in lengths}, 3, CPU)
        assert order == ["a", "b"] * 4
        assert found == {"a": 2.0, "b": 5.0}

    def test_blocks_of_a_training(self, monkeypatch):
        """Batches take 1 s, the other's steps 3 s; the first block, which warms up, takes longer."""
        clock, order = [0.0], []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

        def other():
            order.append("other")
            clock[0] += 3

        blocks = Alternating(range(7), 2, {"other": other}, CPU)
        for i in blocks:
            order.append(i)
            clock[0] += 100 if i < 2 else 1
        assert order == [0, 1, *["other"] * 2, 2, 3, *["other"] * 2, 4, 5, *["other"] * 2, 6]
        assert blocks.medians() == {"step": 1.0, "other": 3.0}


class TestGrowth:
    def test_the_exponent_of_a_power_law(self):
        assert power_of([(x, 5 * x**1.5) for x in (2, 8, 32)]) == pytest.approx(1.5)
        assert power_of([(1, 2.0), (10, 2.0)]) == pytest.approx(0, abs=1e-12)
        assert power_of([(1, None), (10, 2.0)]) is None
        assert power_of([(1, 0.0), (10, 2.0)]) is None

    def test_a_row(self):
        row = Curve("T", "sampling", "T", "ms", ((2, 1.0), (4, 2.0))).row()
        assert (row["from"], row["to"], row["at_from"], row["at_to"]) == (2, 4, 1.0, 2.0)
        assert row["exponent"] == pytest.approx(1)

    def test_peak_memory_is_what_an_action_holds_at_once(self):
        """64 MiB that are written and then freed; 48 take three quarters. (The C library keeps less for later uses.)"""
        gc.collect()  # so that nothing else is freed meanwhile
        if peak_bytes(lambda: None, CPU) is None:
            pytest.skip("this system does not tell the peak of memory")
        whole, part = (peak_bytes(lambda n=n: torch.ones(n * 2**18), CPU) for n in (64, 48))
        assert whole == pytest.approx(64 * 2**20, rel=0.1)
        assert part == pytest.approx(48 * 2**20, rel=0.2)

    def test_the_figure_has_a_panel_for_what_was_measured(self):
        curves = [
            Curve("T", "sampling", "T", "ms", ((2, 1.0), (4, 2.0))),
            Curve("T", "filling", "T", "ms", ((2, 3.0), (4, 6.0))),
            Curve("memory", "a step", "batch", "MiB", ((2, None), (4, 0.0))),
        ]
        (axes,) = curves_figure(speed_panels(curves), legends=True).axes
        assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 2.0], [3.0, 6.0]]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert curves_figure(speed_panels(curves[2:])) is None


def test_the_quick_suite(command, tmp_path):
    arguments = ("suite=speed", "suite.quick=true", "suite.repeats=1", f"suite.out={tmp_path}")
    done = command(*arguments, script="scripts/benchmark.py")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "speed.json").read_text())
    steps, samples, halves, caches, growth = found["tables"].values()
    assert [(row["recipe"], row["half_step"]) for row in steps] == [
        (name, kind) for name in ("two_moons", "mnist_inpaint") for kind in ("first", "later, from the cache")
    ]
    for row in steps:
        assert row["over_network"] == pytest.approx(row["step_ms"] / row["network_ms"])
        assert row["over_objective"] == pytest.approx(row["step_ms"] / row["objective_ms"])
        assert row["steps_per_s"] == pytest.approx(1e3 / row["step_ms"])
        assert (row["target"], row["met"]) == (1.15, row["over_network"] <= 1.15)
    assert [(row["states"], row["T"]) for row in samples] == [(QUICK.states[0], 10), (QUICK.states[1], 10)]
    assert all(row["ratio"] == pytest.approx(row["sample_ms"] / row["calls_ms"]) for row in samples)
    assert [row["half_step"] for row in halves if row["recipe"] == "two_moons"] == [
        "01_backward", "02_forward", "03_backward", "04_forward",
    ]  # fmt: skip
    assert all(0 < row["fill_share"] < 1 for row in halves if row["half_step"] != "01_backward")
    assert [row["objective"] for row in caches] == [*OBJECTIVES, *OBJECTIVES]
    assert all(row["bytes_counted"] == row["bytes_budgeted"] > 0 for row in caches)
    assert {row["over"] for row in growth} == {"T", "trajectories", "pixels a side", "L", "batch", "coordinates"}
    for curve in found["curves"]:
        assert all(y is None or y >= 0 for _, y in curve["points"])
    assert found["machine"]["torch"] == str(torch.__version__)
    text = (tmp_path / "speed.md").read_text()
    assert all(f"## {title}\n" in text for title in found["tables"])
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert all(title.partition(",")[0] in done.out for title in found["tables"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("suite.repeats=0", "suite.repeats=0 is not possible"),
        ("suite.quick=3", "suite.quick=3 is not possible; give true or false"),
        ("suite.out=null", "suite.out=None is not possible; give a path"),
        ("+suite.foo=1", "foo"),
        ("suite.out=/proc/x", "cannot write to /proc/x"),
    ],
)
def test_bad_config(argument, message):
    assert message in refuse("suite=speed", argument)
