"""Sweeps with their table, loggers, pictures and objectives, by the command line in this process."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
from sweep_checks import assert_reported

from csb.cli.main import main
from csb.errors import CSBError
from csb.runs import train
from csb.training.half_step import HalfStepModule

OFFLINE = {"WANDB_MODE": None, "WANDB_API_KEY": None, "WANDB_DIR": None, "NETRC": os.devnull}


def changed(tiny, **values):
    """The overrides of a tiny training with other values."""
    kept = [one for one in tiny if one.partition("=")[0] not in values]
    return ["train", *kept, *(f"{key}={value}" for key, value in values.items())]


def without_pictures(patch):
    """Leave out what takes most of a tiny training's time."""
    patch.setattr("csb.runs.train.RunObserver._picture", lambda *_: None)


def rows(folder):
    """The rows of all CSV logs of a run, oldest log first."""
    files = sorted((folder / "logs").glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    return [list(csv.DictReader(file.open())) for file in files]


@pytest.fixture(scope="module")
def line(tiny, tmp_path_factory):
    """A sweep's command, all but what is swept."""
    kept = [one for one in tiny if not one.startswith(("L=", "T="))]
    return ["train", "-m", *kept, "training.select=last", f"out={tmp_path_factory.mktemp('sweep')}"]


@pytest.fixture(scope="module")
def swept(line):
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        main([*line, "L=1,2", "T=2"])
    (sweep,) = Path(line[-1].removeprefix("out="), "sweeps").iterdir()
    return sweep


class TestSweep:
    def test_every_job_has_its_result_and_a_row(self, swept):
        found = []
        for path in swept.glob("*/result.json"):
            result, config = json.loads(path.read_text()), json.loads((path.parent / "config.json").read_text())
            found.append((result["L"], result["T"]))
            assert (config["L"], config["T"]) == found[-1]
            assert len(list((path.parent / "half_steps").iterdir())) == 2 * result["L"]
            assert (path.parent / "bridge.safetensors").exists()
            assert f"T = {result['T']} steps" in (path.parent / "train.log").read_text()
        assert sorted(found) == [(1, 2), (2, 2)]
        assert_reported(swept)
        grid, _, per_job = (swept / "table.md").read_text().partition("\n## Jobs\n\n")
        title = "## L × T: sliced_w, sliced Wasserstein distance to the exact posterior (lower is better)"
        assert grid.startswith(title)
        assert len(grid.strip().splitlines()) == 6
        head, *jobs = per_job.strip().splitlines()
        assert re.findall(r"\w+", head)[:3] == ["job", "L", "T"]
        assert len(jobs) == 1 + 2

    def test_a_sweep_resumes(self, swept, line, capsys):
        before = {p: p.read_bytes() for p in swept.glob("*/*.json")}
        main([*line, "L=1,2", "T=2", "resume=true"])
        assert {p: p.read_bytes() for p in before} == before
        assert capsys.readouterr().out.count("2 jobs in") == 1

    def test_a_job_that_fails_leaves_the_others_and_is_told_in_its_row(self, swept, line, capsys, monkeypatch):
        """One is there already and refused, which its result does not notice; a new one fails before its first step."""

        def planned(*_):
            raise CSBError("planned failure; try again")

        before = {p: p.read_bytes() for p in swept.glob("*/result.json")}
        monkeypatch.setattr(train, "build_bridge", planned)
        main([*line, "L=1", "T=2,4"])
        out, err = capsys.readouterr()
        after = {p: p.read_bytes() for p in swept.glob("*/result.json")}
        assert len(after) == 3
        assert all(after[p] == content for p, content in before.items())
        assert "already holds a run" in out + err
        assert "1 of them failed" in " ".join(out.split())
        assert "planned failure" in (swept / "table.md").read_text()
        assert "Traceback" not in out + err
        assert_reported(swept)


def test_losses_on_the_axis_of_all_steps_and_a_log_of_its_own_after_a_fault(tiny, tmp_path, monkeypatch):
    """Of an objective that is one word."""
    own = {
        "logger": "csv",
        "objective": "mean_matching",
        "L": 1,
        "training.first_steps": 40,
        "training.steps": 20,
        "training.select": "last",
    }
    line = changed(tiny, **own, out=tmp_path, name="run")
    without_pictures(monkeypatch)
    calls, original = [], HalfStepModule.training_step

    def fails_once(self, batch):
        calls.append(batch)
        if len(calls) == 45:
            raise RuntimeError("planned")
        return original(self, batch)

    monkeypatch.setattr(HalfStepModule, "training_step", fails_once)
    with pytest.raises(RuntimeError, match="planned"):
        main(line)
    (first,) = rows(tmp_path / "run")
    assert {int(row["step"]) for row in first} == {20, 40}
    main([*line, "resume=true"])
    before, log = rows(tmp_path / "run")
    assert before == first
    losses = {int(r["step"]): (r.get("loss/backward"), r.get("loss/forward")) for r in [*first, *log] if r["lr"]}
    assert [bool(losses[s][0]) for s in sorted(losses)] == [True, True, False]
    assert losses[60][1]
    ends = {int(r["step"]) for r in [*first, *log] if r.get("backward/x0_distance") or r.get("forward/x0_distance")}
    assert ends == {40, 60}
    assert any(r.get("final/sliced_w") for r in log)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["objective"]["name"], config["objective"]["covariance"]) == ("mean_matching", "fixed")


def test_tensorboard_and_pictures_after_each_half_step_and_within(tiny, tmp_path):
    pytest.importorskip("tensorboard")
    own = {"logger": "tensorboard", "training.observe_every": 5, "training.select": "last"}
    main(changed(tiny, **own, out=tmp_path, name="run"))
    files = (tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*")
    content = b"".join(file.read_bytes() for file in files)
    for name in (b"backward/x0_distance", b"final/sliced_w", b"samples"):
        assert name in content
    assert sorted(p.name for p in (tmp_path / "run" / "pictures").iterdir()) == [
            "01_backward_000001.png", "01_backward_000002.png", "01_backward_000005.png", "01_backward_000010.png",
            "01_backward_000012.png", "01_backward_loss.png",
            "02_forward_000010.png", "02_forward_loss.png", "03_backward_000005.png", "03_backward_000010.png",
            "03_backward_loss.png", "04_forward_000010.png", "04_forward_loss.png",
        ]  # fmt: skip
    for path in (tmp_path / "run" / "pictures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


def test_wandb_offline_without_a_key(command, tiny, tmp_path):
    line = changed(tiny, logger="wandb", L=1, **{"training.select": "last"}, out=tmp_path, name="run")
    done = command(*line[1:], env={**OFFLINE, "HOME": str(tmp_path)}, cwd=tmp_path)
    assert done.code == 0, done.err
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb"))
    assert list((run / "files").rglob("*.png"))
    assert not (tmp_path / "wandb").exists()


def test_two_runs_of_wandb_in_one_process_are_separate_and_finished(command, tiny, tmp_path):
    line = changed(tiny, logger="wandb", L=1, T="2,3", out=tmp_path)
    done = command("-m", *line[1:], env={**OFFLINE, "HOME": str(tmp_path)}, cwd=tmp_path, timeout=180)
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


@pytest.mark.parametrize(
    "problem",
    [
        "bod", "gaussian_mixture", "linear_gaussian", "sbi_gaussian_linear", "sbi_gaussian_linear_uniform",
        "sbi_gaussian_mixture",
    ],
)  # fmt: skip
def test_each_simulated_problem_trains(tiny, tmp_path, problem):
    main(changed(tiny, problem=problem, L=1, objective="likelihood", out=tmp_path, name="run"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["sliced_w"] > 0
