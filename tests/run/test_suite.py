"""The suite of trainings of scripts/benchmark.py: jobs in own processes, stopped, resumed, skipped and collected."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from suites.sbi import processes
from suites.sbi.command import collect
from suites.sbi.plan import plan
from suites.sbi.settings import read
from suites.sbi.work import work

from csb.bridge.checkpoint import load
from csb.cli import compose as cli
from csb.cli.compose import quoted
from csb.errors import CSBError
from csb.files import load_state, write_json
from csb.runs.folder import writing
from tests.conftest import ROOT

TRAIN = [
    "+problem.n_val=50", "training.last_forward=false", "training.first_steps=20", "training.steps=20",
    "training.batch_size=32",
    "training.trajectories=64", "training.checkpoint_every=2", "network.options={width: 16, depth: 1}", "logger=none",
    "metrics.exact_samples=100", "metrics.exact_observations=1", "metrics.picture_rows=1",
]  # fmt: skip
SCRIPT = "scripts/benchmark.py"
SCORE = ["observations=3", "samples=200", "c2st_observations=2", "c2st_samples=200"]


def line(folder, *more, train=TRAIN):
    """A command line of a suite of two jobs and the floor."""
    texts = ",".join(f"'{one}'" for one in train)
    return [
        "suite=sbi", f"suite.out={folder}", "suite.problems=[two_moons]", "suite.pairs=[500]", "suite.T=[2,3]",
        "suite.methods=[exact,bridge]", "suite.L=2", "suite.threads=1", f"suite.train=[{texts}]",
        *(f"suite.score.{one}" for one in SCORE), *more,
    ]  # fmt: skip


def settings_of(arguments):
    """The settings of a command line."""
    return read(cli.composed("benchmark", arguments))


def half_steps_done(folder):
    """How many half-steps of a training are behind its last checkpoint."""
    with contextlib.suppress(CSBError):  # no checkpoint yet
        return load_state(folder / "state.safetensors")["half_step"]
    return 0


def kill_after_the_first_half_step(arguments, folder):
    """Starts a suite and kills it, with its training, once the training's first half-step is done."""
    command = [sys.executable, str(ROOT / "scripts/benchmark.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        end = time.monotonic() + 900
        while half_steps_done(folder) < 1 and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    """A suite whose second training cannot start at first, is then killed half-way, and at last finished."""
    out = tmp_path_factory.mktemp("suite")
    arguments = line(out)
    jobs = exact, two, three = plan(settings_of(arguments))
    three.folder.mkdir(parents=True)
    with writing(three.folder):  # as if another process trained there
        failed = command(*arguments, script=SCRIPT, timeout=900)
    assert failed.code == 1
    for text in ("error: 1 of 3 jobs failed", "T = 3, seed = 0: ", "another process writes into"):
        assert text in failed.err
    assert "Traceback" not in failed.err + failed.out
    found = json.loads((out / "suite.json").read_text())
    assert {(row["label"], row["T"]) for row in found["rows"]} == {("exact", None), ("bridge", 2)}
    assert list(found["failures"]) == found["missing"] == [three.name]
    kill_after_the_first_half_step(arguments, three.folder)
    assert not three.is_trained
    kept = [exact.folder / "job.json", two.folder / "job.json", three.folder / "half_steps" / "01_backward.safetensors"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    done = command(*arguments, script=SCRIPT, timeout=900)
    assert done.code == 0, done.err
    assert three.is_trained
    assert "2 of them finished" in done.out
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    return out, jobs, arguments


class TestStory:
    def test_what_is_collected(self, finished):
        out, jobs, _ = finished
        suite = json.loads((out / "suite.json").read_text())
        assert (suite["missing"], suite["failures"]) == ([], {})
        rows = suite["rows"]
        assert [(row["label"], row["T"], row["L"], row["calls"]) for row in rows] == [
            ("exact", None, None, 0),
            ("bridge", 2, 1, 2), ("bridge", 2, 2, 2), ("bridge", 3, 1, 3), ("bridge", 3, 2, 3),
        ]  # fmt: skip
        assert all(0.3 < row["c2st"] <= 1 and len(row["c2st_each"]) == 2 for row in rows)
        assert 0 < rows[1]["train_seconds"] < rows[2]["train_seconds"]
        text = (out / "suite.md").read_text()
        assert "| bridge |   3 |   2 |     3 |" in text
        assert "C2ST, 500" in text
        assert (out / "suite.png").read_bytes().startswith(b"\x89PNG")
        for job in jobs[1:]:
            assert "sliced_w" in (job.folder / "train.log").read_text()
            assert "bridge, T = " in (job.folder / "score.log").read_text()

    def test_other_settings_are_not_mixed_in(self, finished, tmp_path):
        """Other scores train nothing; other trainings have other folders."""
        out, first, arguments = finished
        jobs = plan(settings_of([*arguments, "suite.score.seed=1"]))
        assert [job.folder for job in jobs] == [job.folder for job in first]
        assert all(job.is_trained and job.rows() is None for job in jobs)
        jobs = plan(settings_of(line(out, train=[*TRAIN, "optimizer.lr=0.1"])))
        assert jobs[0].folder == first[0].folder
        assert not any(job.folder.exists() for job in jobs[1:])
        settings = settings_of(line(tmp_path, "suite.methods=[bridge]"))
        assert collect(plan(settings), settings, {}) == {}
        missing = "Not finished: bridge, two_moons, pairs = 500, T = 2, seed = 0; bridge"
        assert missing in (tmp_path / "suite.md").read_text()

    def test_chosen_iterations_only(self, finished):
        exact, two, _ = plan(settings_of([*finished[2], "suite.iterations=[2]"]))
        assert exact.rows() is not None
        assert two.rows() is None
        before = (two.folder / "job.json").read_bytes()
        write_json(two.folder / "task.json", two.task)
        work(two.folder, 1)
        rows = two.rows()
        (two.folder / "job.json").write_bytes(before)
        assert rows is not None
        assert [row["L"] for row in rows] == [2]

    def test_overheads_of_a_job_as_of_any_run(self, finished, command):
        done = command(f"run={finished[1][1].folder}", "samples=4", "repeats=1", script=SCRIPT)
        assert done.code == 0, done.err
        assert "Bridge.sample against" in done.out
        assert "01_backward" in done.out


@pytest.fixture
def forked(command, monkeypatch):
    """Jobs in forks that have imported everything: those of the story are interpreters of their own."""
    scripts = {"csb": "csb/__main__.py", "suites.sbi.work": "scripts/suites/sbi/work.py"}

    def process(arguments, log, threads):
        _, module, *rest = arguments
        done = command(*rest, script=scripts[module])
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.out + done.err)
        assert done.code == 0, done.err

    monkeypatch.setattr(processes, "process", process)


def test_amortized_baselines_are_trained_once_and_sampled_at_as_many_calls(forked, tmp_path):
    arguments = line(tmp_path, "suite.methods=[score,flow]", "suite.score.c2st_observations=0")
    cli.run("benchmark", arguments)
    rows = json.loads((tmp_path / "suite.json").read_text())["rows"]
    assert [(row["method"], row["label"], row["T"], row["calls"]) for row in rows] == [
        ("score", "score, DDPM", 2, 2), ("score", "score, DPM-Solver++", 2, 2),
        ("score", "score, DDPM", 3, 3), ("score", "score, DPM-Solver++", 3, 3),
        ("flow", "flow, Euler", 2, 2), ("flow", "flow, Heun", 2, 2), ("flow", "flow, Euler", 3, 3),
    ]  # fmt: skip
    assert all(row["L"] is None and row["train_seconds"] > 0 and row["sliced_w"] > 0 for row in rows)
    steps = [load(job.folder / f"{job.method}.safetensors").about["steps"] for job in plan(settings_of(arguments))]
    assert steps == [60, 60]  # of a bridge's three half-steps of 20


class TestProcesses:
    def test_a_process_that_fails_is_told_by_its_last_line(self, tmp_path):
        processes._stopped.clear()  # after another suite's end
        log = tmp_path / "log"
        log.write_text("of an earlier try\n")
        program = "import os; print(os.environ['OMP_NUM_THREADS']); raise SystemExit('error: no good')"
        with pytest.raises(CSBError, match=r"^error: no good \(exit code 1; see .*log\)$"):
            processes.process(("-c", program), log, 2)
        with pytest.raises(CSBError, match=r"no output \(ended by signal 9; see"):
            processes.process(("-c", "import os; os.kill(os.getpid(), 9)"), log, None)
        assert log.read_text().splitlines()[:2] == ["of an earlier try", "2"]

    def test_a_suite_that_is_stopped_ends_its_processes_and_starts_no_more(self, tmp_path, monkeypatch):
        started = []

        def outcome(job, threads, c2st_processes):
            started.append(job)
            with contextlib.suppress(CSBError):
                processes.process(("-c", f"import time; time.sleep({60 * bool(job)})"), tmp_path / str(job), None)
            return processes.Outcome(job)

        monkeypatch.setattr(processes, "_outcome", outcome)
        settings = settings_of(line(tmp_path, "suite.jobs=2"))
        outcomes = processes.run(list(range(5)), settings)
        assert next(outcomes).job == 0
        begun = time.monotonic()
        with pytest.warns(UserWarning, match="cancelled"):
            outcomes.close()
        while processes._running and time.monotonic() - begun < 30:
            time.sleep(0.05)
        assert time.monotonic() - begun < 30
        assert len(started) < 5

    def test_any_folder_reaches_the_training(self):
        for text in ("a b", "it's", "a,b=c", "back\\slash", "\\'", "end\\", "{x}", ""):
            (override,) = cli.OverridesParser.create().parse_overrides([f"out={quoted(text)}"])
            assert override.value() == text
