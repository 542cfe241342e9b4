"""The benchmarks of scripts/benchmark.py but for the suite of trainings: tables, files, what is timed, refusals."""

import gc
import json

import pytest
import torch
from suites import timing
from suites.memory import WRITERS
from suites.mixture import MORE
from suites.speed.growth import Curve, peak_bytes, power_of
from suites.speed.settings import QUICK
from suites.speed.steps import Alternating
from suites.target import TARGETS, Reached, Watch

from csb.bridge.objectives import OBJECTIVES
from csb.cli.compose import composed
from csb.problems import build_problem
from csb.runs.config import read
from csb.training.settings import HalfStep
from tests.conftest import checked, refused

SCRIPT, CPU = "scripts/benchmark.py", torch.device("cpu")
SBI = "suite=sbi suite.runs=[nowhere]"
REFUSED = [  # what schemas and the groups of conf/ check, once each; tests/run/test_bad_input.py tries every key
    ("", "run is missing; give run="),
    ("run=nowhere", "nowhere is not a folder"),
    ("suite=nope", "nope"),
    (
        f"{SBI} suite.out=new suite.name=nope",
        "suite='nope' is unknown; choose one of overheads, mixture, filtering, memory, sbi, speed",
    ),
    ("suite=mixture schedule.name=auto", "give {name: linear|cosine|power, …}"),
    ("suite=mixture dy=9", "dy=9 is outside 1..dx=8"),
    ("suite=filtering lorenz63.methods=[{filter:enkf,width:3}]", "lorenz63.methods has no setting 'width'"),
    ("suite=filtering +lorenz63.model.speed=3", "lorenz63.model has no setting 'speed'"),
    ("suite=filtering lorenz63.members=[] lorenz96.members=[]", "no system has members"),
    ("suite=speed suite.out=/proc/x", "cannot write to /proc/x"),
    ("suite=target observations=1000000", "observations=1000000 are more than the"),
    ("suite=target train=['training.steps=0']", "training.steps=0 is not possible"),
    ("suite=target target=mnist_inpaint threshold=[]", "threshold="),  # without the data
    (f"{SBI} suite.runs=[]", "suite.runs=[]"),
    (f"{SBI} suite.methods=[npe]", "npe"),
    (f"{SBI} suite.out=new", "suite.runs holds nowhere, where no run is finished"),
    (f"{SBI} suite.out=new -m", "cannot be swept over"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refused_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("benchmark", *arguments.split())
    assert list(tmp_path.iterdir()) == []


def test_the_mixture_suite(command):
    small = ("problems=2", "samples=60", "steps=8", "particles=[8,60]", "step_sizes=[0.1]")
    done = command("suite=mixture", *small, script=SCRIPT)
    assert done.code == 0, done.err
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if "│" in line]
    values = {label: [float(cell) for cell in others] for label, *others in cells}
    assert list(values) == [
        "TDS, K = 8", "TDS, K = 60", "bootstrap SMC, K = 60", "DPS, ζ = 0.1", *(label for label, _, _ in MORE)
    ]  # fmt: skip
    assert [of[0] for of in values.values()] == [8, *[60] * (3 + len(MORE))]
    assert all(0 < floor < distance for _, distance, _, floor in values.values())


def test_both_files_of_the_memory_suite_hold_the_same_pairs(tmp_path):
    given = (["experiment=pairs", *write(tmp_path, 12_000, 3)] for write in WRITERS.values())
    one, two = (read(composed("train", arguments)).problem for arguments in given)
    a, b = one.pairs("train"), two.pairs("train")
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert float((a.y - a.x).std()) == pytest.approx(0.5, rel=0.02)


def test_the_filtering_suite(tmp_path, capsys):
    """A filter that diverges is a row of dashes."""
    methods = (
        "lorenz63.methods=[{filter: bridge, T: 2, features: 4, locality: 1.0}, {filter: bootstrap}]",
        "lorenz96.methods=[{filter: enkf, inflation: 1e200}, {filter: enkf, localisation: 2.0}]",
    )
    systems = ("lorenz63.members=[40]", "lorenz96.members=[20]", "lorenz96.model.dx=6")
    checked("benchmark", "suite=filtering", "cycles=20", "spin_up=2", *systems, *methods, f"out={tmp_path}")()
    rows = json.loads((tmp_path / "filtering.json").read_text())["rows"]
    assert [(one["system"], one["members"], one["filter"]) for one in rows] == [
        ("lorenz63", 40, "bridge, T = 2, features = 4, locality = 1.0"),
        ("lorenz63", 40, "bootstrap"),
        ("lorenz96", 20, "enkf, inflation = 1e+200"),
        ("lorenz96", 20, "enkf, localisation = 2.0"),
    ]
    diverged = rows.pop(2)
    assert diverged["rmse"] is None
    assert "cycle" in diverged["note"]
    assert all(one[key] > 0 for one in rows for key in ("rmse", "spread", "crps", "seconds"))
    assert len((tmp_path / "filtering.md").read_text().splitlines()) == 2 + 4
    assert "20 assimilations after 2 of spin-up, 1 seed(s)" in capsys.readouterr().out


@pytest.fixture
def clock(monkeypatch):
    """A clock that only a test moves."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


class TestSpeed:
    def test_actions_take_turns_and_the_first_round_is_left_out(self, clock):
        order, lengths = [], {"a": iter([9.0, 1.0, 2.0, 3.0]), "b": iter([5.0] * 4)}

        def action(name):
            order.append(name)
            clock[0] += next(lengths[name])

        found = timing.interleaved({name: lambda name=name: action(name) for name in lengths}, 3, CPU)
        assert order == ["a", "b"] * 4
        assert found == {"a": 2.0, "b": 5.0}

    def test_blocks_of_a_training(self, clock):
        """Batches take 1 s, the other's steps 3 s; the first block, which warms up, takes longer."""
        order = []

        def other():
            order.append("other")
            clock[0] += 3

        blocks = Alternating(range(7), 2, {"other": other}, CPU)
        for i in blocks:
            order.append(i)
            clock[0] += 100 if i < 2 else 1
        assert order == [0, 1, *["other"] * 2, 2, 3, *["other"] * 2, 4, 5, *["other"] * 2, 6]
        assert blocks.medians() == {"step": 1.0, "other": 3.0}

    def test_the_exponent_of_a_power_law(self):
        assert power_of([(x, 5 * x**1.5) for x in (2, 8, 32)]) == pytest.approx(1.5)
        assert power_of([(1, 2.0), (10, 2.0)]) == pytest.approx(0, abs=1e-12)
        assert power_of([(1, None), (10, 2.0)]) is power_of([(1, 0.0), (10, 2.0)]) is None
        row = Curve("T", "sampling", "T", "ms", ((2, 1.0), (4, 2.0))).row()
        assert (row["from"], row["to"], row["at_from"], row["at_to"]) == (2, 4, 1.0, 2.0)
        assert row["exponent"] == pytest.approx(1)

    def test_peak_memory_is_what_an_action_holds_at_once(self):
        gc.collect()  # so that nothing else is freed meanwhile
        if peak_bytes(lambda: None, CPU) is None:
            pytest.skip("this system does not tell the peak of memory")
        assert peak_bytes(lambda: torch.ones(2**24), CPU) == pytest.approx(2**26, rel=0.1)

    def test_the_quick_suite(self, command, tmp_path):
        arguments = ("suite=speed", "suite.quick=true", "suite.repeats=1", f"suite.out={tmp_path}")
        done = command(*arguments, script=SCRIPT)
        assert done.code == 0, done.err
        found = json.loads((tmp_path / "speed.json").read_text())
        steps, samples, halves, caches, growth = found["tables"].values()
        assert [row["recipe"] for row in steps] == ["two_moons"] * 2 + ["mnist_inpaint"] * 2
        for row in steps:
            assert row["over_network"] == pytest.approx(row["step_ms"] / row["network_ms"])
            assert row["steps_per_s"] == pytest.approx(1e3 / row["step_ms"])
            assert (row["target"], row["met"]) == (1.15, row["over_network"] <= 1.15)
        assert [(row["states"], row["T"]) for row in samples] == [(QUICK.states[0], 10), (QUICK.states[1], 10)]
        assert all(row["ratio"] == pytest.approx(row["sample_ms"] / row["calls_ms"]) for row in samples)
        assert all(0 < row["fill_share"] < 1 for row in halves if row["half_step"] != "01_backward")
        assert [row["objective"] for row in caches] == [*OBJECTIVES, *OBJECTIVES]
        assert all(row["bytes_counted"] == row["bytes_budgeted"] > 0 for row in caches)
        assert {row["over"] for row in growth} == {"T", "trajectories", "pixels a side", "L", "batch", "coordinates"}
        text = (tmp_path / "speed.md").read_text()
        assert all(f"## {title}\n" in text for title in found["tables"])
        assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


class TestTarget:
    @pytest.mark.parametrize("threshold", [1, 0])
    def test_the_training_ends_at_the_target_or_tells_its_best(self, command, tmp_path, threshold):
        train = [
            "training.first_steps=9", "training.batch_size=32", "network.options={width: 16, depth: 1}",
            "problem.n_train=500", "+problem.n_val=100", "logger=none", "progress=false", "metrics.exact_samples=100",
            "metrics.exact_observations=1", "training.validate_every=100",
        ]  # fmt: skip
        texts = ",".join(f"'{one}'" for one in train)
        line = ["suite=target", "every=4", "observations=1", "samples=30", f"train=[{texts}]", f"out={tmp_path}"]
        done = command(*line, f"threshold={threshold}", script=SCRIPT)
        found = json.loads((tmp_path / "two_moons.json").read_text())
        assert (done.code, found["reached"]) == ((0, True) if threshold else (1, False)), done.err
        assert [row["steps"] for row in found["checks"]] == ([4] if threshold else [4, 8, 9])  # and at the end
        assert found["value"] == min(row["value"] for row in found["checks"])
        assert min(found["seconds"], found["check_seconds"]) > 0
        assert ("≤ 1 after 4 steps, " if threshold else "two_moons: 0 was not reached; best C2ST") in done.out
        assert not (threshold and (tmp_path / "two_moons" / "bridge.safetensors").exists())  # it ended there

    def watch(self, clock, values):
        """Checks take 100 s each and find the values in turn."""
        found = iter(values)

        def score(bridge, problem, observations, samples, seed):
            clock[0] += 100
            return next(found)

        class Run:
            problem, seed = build_problem({"name": "two_moons"}), 0

        return Watch(TARGETS["mnist_inpaint"]._replace(score=score, every=1), Run())

    def test_checks_are_not_counted(self, clock):
        """PSNR is to be high: 20 ends it."""
        watch, half_step = self.watch(clock, [18.0, 20.0]), HalfStep(0, 1, "backward", 10)
        clock[0] += 7
        watch.within(None, half_step, 2)
        clock[0] += 5
        with pytest.raises(Reached):
            watch.within(None, half_step, 4)
        assert [(row["steps"], row["seconds"], row["value"]) for row in watch.checks] == [(2, 7, 18.0), (4, 12, 20.0)]
        assert watch.checking == 200

    def test_steps_of_earlier_half_steps_count(self, clock):
        watch = self.watch(clock, [1.0, 2.0, 3.0])
        watch.after(None, HalfStep(0, 1, "backward", 10), [0.0] * 6)  # stopped early
        watch.within(None, HalfStep(1, 1, "forward", 10), 2)
        watch.after(None, HalfStep(1, 1, "forward", 10), [0.0] * 10)
        watch.within(None, HalfStep(2, 2, "backward", 10), 3)
        watch.within(None, HalfStep(2, 2, "backward", 10), 10)
        watch.after(None, HalfStep(2, 2, "backward", 10), [0.0] * 10)
        assert [row["steps"] for row in watch.checks] == [6, 19, 26]
