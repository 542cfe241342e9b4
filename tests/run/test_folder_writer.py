"""One writer a folder, and a folder that is made again as a whole."""

import subprocess
import sys

import pytest

from csb.errors import CSBError
from csb.runs.folder import writing
from csb.runs.train import _clean

HOLD = """
import sys
from pathlib import Path
from csb.runs.folder import writing
with writing(Path(sys.argv[1])), writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=-1, stdout=-1, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(CSBError, match=r"another process writes into .*run") as error, writing(folder):
            pass
        assert "\n" not in str(error.value)
        first.kill()
        first.wait()
    with writing(folder), writing(folder):
        pass


def test_training_evaluation_and_stages_take_it(command, tmp_path):
    tiny = [
        "experiment=two_moons", "L=1", "T=2", "training.first_steps=20", "training.steps=5", "training.batch_size=32",
        "training.trajectories=64", "network.options={width: 8, depth: 1}", "problem.n_train=1000", "logger=none",
        "metrics.exact_observations=2", "metrics.picture_rows=2", "metrics.exact_samples=100", "progress=false",
        f"out={tmp_path}", "name=run",
    ]  # fmt: skip
    assert command(*tiny).code == 0
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdin=-1, stdout=-1, text=True) as first:
        first.stdout.readline()
        for done in (
            command(*tiny, "overwrite=true"),
            command(*tiny, "stage=score", "conditional.steps=5"),
            command(f"run={tmp_path}/run", "baselines=none", script="scripts/evaluate.py"),
            command(
                f"run={tmp_path}/run",
                f"out={tmp_path}/run",
                "methods=[bridge]",
                "problem=two_moons",
                script="scripts/compare.py",
            ),
        ):
            assert done.code == 2
            assert "another process writes into" in done.err
        first.kill()
    assert not (tmp_path / "run" / "score.safetensors").exists()
    assert (tmp_path / "run" / "bridge.safetensors").exists()


def test_what_tells_of_the_old_bridge_goes_and_nothing_else(tmp_path):
    old = (
        "result.json", "state.pt", "config.json", "history.json", "provenance.json", "reproduced.json",
        "evaluation.json", "evaluation.md", "evaluation.png", "report.html", "report.json", "report.md", "report.png",
        *(f"{name}{end}" for name in ("bridge", "score", "flow", "denoiser", "consistency", "half_steps/01_backward")
          for end in (".safetensors", ".pt")), "pictures/1.png",
    )  # fmt: skip
    for name in (*old, "notes.txt", "mine/report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    _clean(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "mine", "mine/report.html", "notes.txt"
    ]  # fmt: skip
