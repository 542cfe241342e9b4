"""One writer a folder, and a folder that is made again as a whole."""

import subprocess
import sys

import pytest

from csb.cli.compose import composed
from csb.errors import CSBError
from csb.runs.config import read
from csb.runs.folder import clean, writing
from csb.runs.stages import stage_job
from csb.runs.train import train
from tests.conftest import STAGES, checked

HOLD = """
import sys
from pathlib import Path
from csb.runs.folder import writing
with writing(Path(sys.argv[1])), writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(run_copy):
    """Whatever writes into a folder: training, stages, evaluation and comparison."""
    own = [*STAGES, f"out={run_copy.parent}", "name=run", "overwrite=true"]
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file() and path.name != ".writing"}
    with subprocess.Popen([sys.executable, "-c", HOLD, run_copy], stdin=-1, stdout=-1, text=True) as first:
        assert first.stdout.readline() == "held\n"
        given = (f"run={run_copy}", f"out={run_copy}", "methods=[bridge]", "problem=two_moons")
        for action in (
            lambda: train(read(composed("train", own))),
            lambda: stage_job(read(composed("train", [*own, "stage=score"]))),
            checked("evaluate", f"run={run_copy}", "baselines=none"),
            lambda: checked("compare", *given)(),
        ):
            with pytest.raises(CSBError, match=r"another process writes into .*run") as error:
                action()
            assert "\n" not in str(error.value)
        first.kill()
        first.wait()
    assert {path: path.read_bytes() for path in before} == before
    with writing(run_copy), writing(run_copy):
        pass


def test_what_tells_of_the_old_bridge_goes_and_nothing_else(tmp_path):
    old = (
        "result.json", "state.safetensors", "config.json", "history.json", "provenance.json", "reproduced.json",
        "evaluation.json", "evaluation.md", "evaluation.png", "report.html", "report.json", "report.md", "report.png",
        *(f"{name}{end}" for name in ("bridge", "score", "flow", "denoiser", "consistency", "half_steps/01_backward")
          for end in (".safetensors", ".pt")), "score_state.pt",
        "score_state.safetensors", "pictures/1.png",
    )  # fmt: skip
    for name in (*old, "notes.txt", "mine/report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    clean(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "mine", "mine/report.html", "notes.txt"
    ]  # fmt: skip
