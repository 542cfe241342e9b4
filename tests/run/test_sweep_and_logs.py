"""Sweeps with their table, loggers, pictures and objectives, through train.py."""

import csv
import json
import os
import re

import pytest
from conftest import Hook
from sweep_checks import assert_reported

from csb.cli.folders import job_folder

OFFLINE = {"WANDB_MODE": None, "WANDB_API_KEY": None, "WANDB_DIR": None, "NETRC": os.devnull}


def rows(folder):
    """The rows of all CSV logs of a run, oldest log first."""
    files = sorted((folder / "logs").glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    return [list(csv.DictReader(file.open())) for file in files]


@pytest.fixture(scope="module")
def swept(command, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    arguments = [a for a in tiny if not a.startswith(("L=", "T="))]
    done = command("-m", *arguments, "L=1,2", "T=2,3", f"out={folder}", timeout=200)
    assert done.code == 0, done.err
    (sweep,) = (folder / "sweeps").iterdir()
    return sweep, done, folder, arguments


class TestSweep:
    def test_every_job_has_its_result(self, swept):
        sweep, _, _, _ = swept
        results = [json.loads(path.read_text()) for path in sweep.glob("*/result.json")]
        assert sorted((r["L"], r["T"]) for r in results) == [(1, 2), (1, 3), (2, 2), (2, 3)]
        for path in sweep.glob("*/result.json"):
            result, config = json.loads(path.read_text()), json.loads((path.parent / "config.json").read_text())
            assert (config["L"], config["T"]) == (result["L"], result["T"])
            assert len(list((path.parent / "half_steps").iterdir())) == 2 * result["L"]
            assert (path.parent / "bridge.safetensors").exists()

    def test_tables(self, swept):
        sweep, done, _, _ = swept
        assert done.out.count("4 jobs in") == 1
        assert len(re.findall(r"^(?:┏|\|-)", done.out, re.M)) == 2  # drawn, or Markdown where it is too wide
        grid, _, per_job = (sweep / "table.md").read_text().partition("\n## Jobs\n\n")
        assert grid.startswith(
            "## L × T: sliced_w, sliced Wasserstein distance to the exact posterior (lower is better)"
        )
        assert len(grid.strip().splitlines()) == 8
        lines = per_job.strip().splitlines()
        assert len(lines) == 6
        head = [cell.strip() for cell in lines[0].strip("|").split("|")]
        assert head[:3] == ["job", "L", "T"]
        assert "sliced_w" in head
        assert "Traceback" not in done.err

    def test_heat_map_and_table_hold_the_results(self, swept):
        sweep, _, _, _ = swept
        assert_reported(sweep)

    def test_one_failing_job_leaves_the_others(self, swept, command):
        """Jobs that are there already are refused; a new one beside them is trained; the table tells all."""
        sweep, _, folder, arguments = swept
        before = {p: p.read_bytes() for p in sweep.glob("*/result.json")}
        done = command("-m", *arguments, "L=1", "T=2,4", f"out={folder}", timeout=200)
        assert done.code == 0, done.err
        after = {p: p.read_bytes() for p in sweep.glob("*/result.json")}
        assert len(after) == 5
        assert all(after[p] == content for p, content in before.items())
        assert "already holds a run" in done.out + done.err
        assert "Traceback" not in done.out + done.err

    def test_a_sweep_resumes(self, swept, command):
        sweep, _, folder, arguments = swept
        before = {p: p.read_bytes() for p in sweep.glob("*/*.json")}
        done = command("-m", *arguments, "L=1,2", "T=2,3", f"out={folder}", "resume=true", timeout=200)
        assert done.code == 0, done.err
        assert {p: p.read_bytes() for p in before} == before


def test_a_job_that_fails_is_told_in_its_row(command, tiny, tmp_path):
    line = ["-m", *[a for a in tiny if not a.startswith("T=")], "T=2,3", "L=1", f"out={tmp_path}"]
    done = command(*line, hooks=[Hook("csb.runs.train.clean", raises="CSBError")])
    assert done.code == 0, done.err
    (sweep,) = (tmp_path / "sweeps").iterdir()
    results = sorted((json.loads(p.read_text()) for p in sweep.glob("*/result.json")), key=lambda r: r["T"])
    assert "planned failure" in results[0]["error"]
    assert "sliced_w" in results[1]
    assert "2 jobs in" in done.out
    assert "1 of them failed" in done.out
    assert_reported(sweep)
    table = (sweep / "table.md").read_text()
    assert "planned failure" in table
    assert "planned failure" in done.out


class TestCSV:
    @pytest.fixture
    def line(self, tiny, tmp_path):
        changed = [
            *tiny,
            "logger=csv",
            "training.first_steps=40",
            "training.steps=20",
            "L=1",
            f"out={tmp_path}",
            "name=run",
        ]
        return [a for a in changed if a not in ("logger=none", "L=2", "training.first_steps=12", "training.steps=10")]

    def test_losses_on_the_axis_of_all_steps(self, command, line, tmp_path):
        assert command(*line).code == 0
        (log,) = rows(tmp_path / "run")
        losses = {int(r["step"]): (r["loss/backward"], r["loss/forward"]) for r in log if r["lr"]}
        assert sorted(losses) == [20, 40, 60]
        assert [bool(losses[s][0]) for s in (20, 40, 60)] == [True, True, False]
        assert losses[60][1]
        ends = {int(r["step"]): r for r in log if r.get("backward/x0_distance") or r.get("forward/x0_distance")}
        assert sorted(ends) == [40, 60]
        assert any(r.get("final/sliced_w") for r in log)

    def test_resuming_writes_a_log_of_its_own(self, command, line, tmp_path):
        kill = Hook("csb.training.module.HalfStepModule.training_step", 45)
        assert command(*line, hooks=[kill]).code == -9
        first = rows(tmp_path / "run")
        assert len(first) == 1
        assert {int(r["step"]) for r in first[0]} == {20, 40}
        assert command(*line, "resume=true").code == 0
        both = rows(tmp_path / "run")
        assert both[0] == first[0]
        assert {int(r["step"]) for r in both[1]} == {60}


def test_tensorboard(command, tiny, tmp_path):
    pytest.importorskip("tensorboard")
    done = command(
        *[a for a in tiny if not a.startswith("logger")], "logger=tensorboard", f"out={tmp_path}", "name=run"
    )
    assert done.code == 0, done.err
    files = list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*"))
    assert files
    content = b"".join(file.read_bytes() for file in files)
    for name in (b"backward/x0_distance", b"final/sliced_w", b"samples"):
        assert name in content


class TestWandb:
    def line(self, tiny, tmp_path, *more):
        return [*[a for a in tiny if not a.startswith("logger")], "logger=wandb", f"out={tmp_path}", "L=1", *more]

    def test_offline_without_a_key(self, command, tiny, tmp_path):
        done = command(*self.line(tiny, tmp_path, "name=run"), env={**OFFLINE, "HOME": str(tmp_path)}, cwd=tmp_path)
        assert done.code == 0, done.err
        (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
        assert list(run.glob("run-*.wandb"))
        assert list((run / "files").rglob("*.png"))
        assert not (tmp_path / "wandb").exists()

    def test_two_runs_in_one_process_are_separate_and_finished(self, command, tiny, tmp_path):
        line = ["-m", *[a for a in self.line(tiny, tmp_path) if not a.startswith("T=")], "T=2,3"]
        done = command(*line, env={**OFFLINE, "HOME": str(tmp_path)}, cwd=tmp_path, timeout=180)
        assert done.code == 0, done.err
        (sweep,) = (tmp_path / "sweeps").iterdir()
        runs = [list(job.glob("wandb/offline-run-*")) for job in sorted(sweep.iterdir()) if job.is_dir()]
        assert [len(found) for found in runs] == [1, 1]
        assert runs[0][0].name.split("-")[-1] != runs[1][0].name.split("-")[-1]
        for (run,) in runs:
            (file,) = run.glob("run-*.wandb")
            assert b"sliced_w" in file.read_bytes()
            log = (run / "logs" / "debug.log").read_text()
            assert "finishing run" in log
            assert "exitcode: 0" in log


def test_pictures_after_each_half_step_and_within(command, tiny, tmp_path):
    changed = [a for a in tiny if not a.startswith("training.observe_every")]
    done = command(*changed, "training.observe_every=5", f"out={tmp_path}", "name=run")
    assert done.code == 0, done.err
    assert sorted(p.name for p in (tmp_path / "run" / "pictures").iterdir()) == [
            "01_backward_000001.png", "01_backward_000002.png", "01_backward_000005.png", "01_backward_000010.png",
            "01_backward_000012.png", "01_backward_loss.png",
            "02_forward_000010.png", "02_forward_loss.png", "03_backward_000005.png", "03_backward_000010.png",
            "03_backward_loss.png", "04_forward_000010.png", "04_forward_loss.png",
        ]  # fmt: skip
    for path in (tmp_path / "run" / "pictures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("objective", "covariance"),
    [("likelihood", "diagonal"), ("mean_matching", "fixed")],
)
def test_an_objective_is_one_word(command, tiny, tmp_path, objective, covariance):
    done = command(*tiny, f"objective={objective}", f"out={tmp_path}", "name=run")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["objective"]["name"], config["objective"]["covariance"]) == (objective, covariance)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["sliced_w"] > 0


@pytest.mark.parametrize(
    "problem",
    [
        "bod", "gaussian_mixture", "linear_gaussian", "sbi_gaussian_linear", "sbi_gaussian_linear_uniform",
        "sbi_gaussian_mixture",
    ],
)  # fmt: skip
def test_each_simulated_problem_trains(command, tiny, tmp_path, problem):
    line = [a for a in tiny if not a.startswith(("problem=", "L="))]
    done = command(f"problem={problem}", *line, "L=1", f"out={tmp_path}", "name=run")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["sliced_w"] > 0


class TestJobFolder:
    def test_short_names_stay(self):
        assert job_folder("L=1,T=2") == "L=1,T=2"

    def test_one_folder_deep(self):
        assert job_folder("problem.root=/data/x,T=2") == "problem.root=_data_x,T=2"

    def test_long_names_are_cut_and_stay_different(self):
        long = [",".join(f"key{i}=ä{i}" for i in range(60)) + f",T={t}" for t in (2, 3)]
        names = [job_folder(name) for name in long]
        assert names[0] != names[1]
        assert all(len(name.encode()) < 200 for name in names)
        assert names == [job_folder(name) for name in long]
