"""What a training logs, and where: CSV files, TensorBoard, wandb, pictures; by the command line in this process."""

import csv
import json
import os

import pytest

from csb.cli.main import main
from csb.training.half_step import HalfStepModule

OFFLINE = {"WANDB_MODE": None, "WANDB_API_KEY": None, "WANDB_DIR": None, "NETRC": os.devnull}


def changed(tiny, **values):
    """The overrides of a tiny training with other values."""
    kept = [one for one in tiny if one.partition("=")[0] not in values]
    return ["train", *kept, *(f"{key}={value}" for key, value in values.items()), "training.select=last"]


def rows(folder):
    """The rows of all CSV logs of a run, oldest log first."""
    files = sorted((folder / "logs").glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    return [list(csv.DictReader(file.open())) for file in files]


def test_losses_on_the_axis_of_all_steps_and_a_log_of_its_own_after_a_fault(tiny, tmp_path, monkeypatch):
    """Of an objective that is one word."""
    steps = {"training.first_steps": 40, "training.steps": 20}
    line = changed(tiny, logger="csv", objective="mean_matching", L=1, **steps, out=tmp_path, name="run")
    monkeypatch.setattr("csb.runs.train.RunObserver._picture", lambda *_: None)
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


@pytest.mark.nightly
def test_tensorboard_and_pictures_after_each_half_step_and_within(tiny, tmp_path):
    pytest.importorskip("tensorboard")
    main(changed(tiny, logger="tensorboard", **{"training.observe_every": 5}, out=tmp_path, name="run"))
    files = (tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*")
    content = b"".join(file.read_bytes() for file in files)
    for name in (b"backward/x0_distance", b"final/sliced_w", b"samples"):
        assert name in content
    pictures = {
        "01_backward": ("000001", "000002", "000005", "000010", "000012", "loss"), "02_forward": ("000010", "loss"),
        "03_backward": ("000005", "000010", "loss"), "04_forward": ("000010", "loss"),
    }  # fmt: skip
    names = sorted(f"{half_step}_{end}.png" for half_step, ends in pictures.items() for end in ends)
    assert sorted(p.name for p in (tmp_path / "run" / "pictures").iterdir()) == names
    for path in (tmp_path / "run" / "pictures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


@pytest.mark.nightly
def test_wandb_offline_without_a_key(command, tiny, tmp_path):
    line = changed(tiny, logger="wandb", L=1, out=tmp_path, name="run")
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
        "bod", "counts", "gaussian_mixture", "linear_gaps", "linear_gaussian", "logistic", "modes", "normal_set",
        "normal_wishart", "oscillator", "pushed",
        "sbi_gaussian_linear", "sbi_gaussian_linear_uniform", "sbi_gaussian_mixture", "sir",
    ],
)  # fmt: skip
def test_each_simulated_problem_trains(tiny, tmp_path, problem):
    main(changed(tiny, problem=problem, L=1, objective="likelihood", out=tmp_path, name="run"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["sliced_w"] > 0
