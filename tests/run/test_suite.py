"""The scores of a sweep's runs against exact posteriors, scripts/benchmark.py suite=sbi."""

import json
import shutil

import pytest
from suites.sbi import opened

from csb import load
from csb.files import write_json
from csb.problems import TwoMoons
from tests.conftest import refused

SCRIPT = "scripts/benchmark.py"
TRAIN = [
    "experiment=two_moons", "name=moons", "L=2", "T=2,3", "problem.n_train=500", "+problem.n_val=50",
    "training.last_forward=false", "training.first_steps=20", "training.steps=20", "training.batch_size=32",
    "training.trajectories=64", "network.options={width: 16, depth: 1}", "logger=none", "metrics.exact_samples=100",
    "metrics.exact_observations=1", "metrics.picture_rows=1", "progress=false",
]  # fmt: skip
SCORE = ["observations=3", "samples=200", "c2st_observations=2", "c2st_samples=200"]


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory):
    """The folder of a sweep of two runs."""
    out = tmp_path_factory.mktemp("suite")
    done = command("-m", *TRAIN, f"out={out}", script="train.py", timeout=900)
    assert done.code == 0, done.err
    return out / "sweeps" / "moons"


def line(sweep, out, *more):
    return ["suite=sbi", f"suite.runs=[{sweep}]", f"suite.out={out}", "suite.T=[2,3]",
            *(f"suite.score.{one}" for one in SCORE), *more]  # fmt: skip


@pytest.fixture(scope="module")
def scored(command, sweep, tmp_path_factory):
    """Its scores; and those by the same command again, with the output."""
    out = tmp_path_factory.mktemp("scores")
    found = []
    for _ in range(2):
        done = command(*line(sweep, out), script=SCRIPT, timeout=900)
        assert done.code == 0, done.err
        found.append(json.loads((out / "suite.json").read_text()))
    return out, *found


def test_a_row_for_each_sampler_and_number_of_calls(sweep, scored):
    out, suite, again = scored
    baselines = [
        ("score, DDPM", 2, None, 2), ("score, DPM-Solver++", 2, None, 2), ("score, DDPM", 3, None, 3),
        ("score, DPM-Solver++", 3, None, 3), ("flow, Euler", 2, None, 2), ("flow, Heun", 2, None, 2),
        ("flow, Euler", 3, None, 3),
    ]  # fmt: skip
    rows = suite["rows"]
    assert [(row["label"], row["T"], row["L"], row["calls"]) for row in rows] == [
        ("exact", None, None, 0), ("bridge", 2, 1, 2), ("bridge", 2, 2, 2), *baselines,
        ("bridge", 3, 1, 3), ("bridge", 3, 2, 3),
    ]  # fmt: skip
    assert all(0.3 < row["c2st"] <= 1 and len(row["c2st_each"]) == 2 for row in rows)
    assert [row["pairs"] for row in rows] == [None, *11 * [500]]
    assert 0 < rows[1]["train_seconds"] < rows[2]["train_seconds"]
    assert rows == again["rows"]  # with the seconds of sampling, so nothing is drawn twice
    text = (out / "suite.md").read_text()
    assert "| bridge" in text
    assert "C2ST, 500" in text
    assert (out / "suite.png").read_bytes().startswith(b"\x89PNG")
    steps = [load(path).about["steps"] for name in ("score", "flow") for path in sweep.glob(f"*/{name}.safetensors")]
    assert steps == [60, 60]  # of a bridge's three half-steps of 20, beside one of the two runs


def test_other_settings_are_not_mixed_in(command, sweep, scored):
    """Nothing is trained again."""
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/*.safetensors")}
    more = ("suite.score.seed=1", "suite.iterations=[2]", "suite.methods=[bridge]")
    done = command(*line(sweep, scored[0], *more), script=SCRIPT, timeout=900)
    assert done.code == 0, done.err
    rows = json.loads((scored[0] / "suite.json").read_text())["rows"]
    assert [(row["T"], row["L"]) for row in rows] == [(2, 2), (3, 2)]
    known = {row["T"]: row["sliced_w"] for row in scored[1]["rows"] if row["L"] == 2}
    assert all(row["sliced_w"] != known[row["T"]] for row in rows)
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("*/*.safetensors")} == before


def test_a_job_that_failed_is_named_and_left_out(command, sweep, scored, tmp_path):
    (tmp_path / "failed").mkdir()
    write_json(tmp_path / "failed" / "result.json", {"L": 1, "T": 2, "error": "killed"})
    assert "where no run is finished" in refused("benchmark", "suite=sbi", f"suite.runs=[{tmp_path}]")
    shutil.copytree(next(sweep.glob("*T=2*")), tmp_path / "whole")
    done = command(*line(tmp_path, tmp_path / "out", "suite.methods=[exact]"), script=SCRIPT, timeout=900)
    assert done.code == 0, done.err
    assert f"{tmp_path / 'failed'} is not finished, and left out" in done.out + done.err


def test_what_cannot_be_scored_is_refused(sweep, tmp_path, monkeypatch):
    assert "cannot write to /proc/x" in refused("benchmark", *line(sweep, "/proc/x"))
    message = "iteration 4 of suite.iterations is not among 1..2 of the runs"
    assert message in refused("benchmark", *line(sweep, tmp_path / "new", "suite.iterations=[4]"))
    monkeypatch.setattr(TwoMoons, "has_exact_posterior", False)
    opened.cache_clear()
    assert "two_moons, which has no exact posterior" in refused("benchmark", *line(sweep, tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_overheads_of_a_job_as_of_any_run(sweep, command):
    done = command(f"run='{next(sweep.glob('*T=2*'))}'", "samples=4", "repeats=1", script=SCRIPT)
    assert done.code == 0, done.err
    assert "Bridge.sample against" in done.out
    assert "01_backward" in done.out
