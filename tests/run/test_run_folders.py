"""A run's folder: one writer; from elsewhere, damaged or hostile: one line, nothing resolved, nothing made."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import csb
from csb.bridge.checkpoint import save
from csb.cli.compose import composed
from csb.files import read_tensors, write_tensors
from csb.runs.config import read
from csb.runs.folder import PROVENANCE, clean, writing
from csb.runs.inspection import inspect
from csb.runs.load import finished, load_run
from csb.runs.reproduce import reproduction
from csb.runs.stages import stage_job, students_of
from csb.runs.train import train
from tests.bad_input import answer
from tests.conftest import STAGES, checked, one_line

GOLDEN = Path(__file__).parents[1] / "golden" / "files" / "run"
FLAGS = {"resume": False, "overwrite": True, "progress": False}
HOLD = """
import sys
from pathlib import Path
from csb.runs.folder import writing
with writing(Path(sys.argv[1])), writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(GOLDEN, tmp_path / "run"))


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
            assert "another process writes into" in one_line(action)
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
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["mine", "mine/report.html", "notes.txt"]


def again(run):
    """All that csb reproduce looks at before it trains."""
    made = reproduction(run, "bridge", run.with_name("again"), 0.0, None, FLAGS)
    made.check()
    made.differences()
    return made


class TestFiles:
    @pytest.mark.parametrize("name", ["history.json", "result.json", PROVENANCE])
    @pytest.mark.timeout(30)
    def test_damaged_or_no_file(self, run, name):
        """What else may be in them, tests/test_reading_files.py asks."""
        path, reading = run / name, again if name == PROVENANCE else inspect
        path.write_bytes(b"[1]")
        assert name in one_line(lambda: reading(run))
        if name == "result.json":
            assert finished(run) is None
        path.unlink()
        os.mkfifo(path)
        assert "is not a file" in one_line(lambda: reading(run))

    def test_odd_names_of_half_steps_are_none(self, run):
        for name in ("²_backward.pt", "x_backward.safetensors", "_.pt", "03_backward.tmp"):
            (run / "half_steps" / name).write_text("")
        assert [name for name, _ in load_run(run).half_steps] == ["01_backward", "02_forward"]

    def test_new_files_beside_older_ones(self, run):
        """As a resumed run leaves them: the new ones count."""
        bridge = csb.load(run / "half_steps" / "02_forward.pt", "cpu")
        for name in ("bridge", "half_steps/02_forward"):
            save(bridge, run / f"{name}.safetensors", {"problem": {"name": "bod"}})
            (run / f"{name}.pt").write_bytes(b"damaged")
        found = load_run(run)
        assert found.about == {"problem": {"name": "bod"}}
        assert [name for name, _ in found.half_steps] == ["01_backward", "02_forward"]
        assert students_of(found) == {}

    @pytest.mark.parametrize("key", ["config", "versions", "problem"])
    def test_what_the_bridge_does_not_say(self, run, key):
        found = load_run(run)
        del found.about[key]
        message = one_line(lambda: (found.about["versions"], found.config["schedule"], found.problem))
        assert f"bridge.pt lacks '{key}'" in message

    def test_no_folder_is_made_or_filled(self, run, tmp_path):
        """Nor is MNIST fetched to where a file says that it lies."""
        bridge = csb.load(run, "cpu")
        for root in ("elsewhere", "\0", 7, None):
            save(bridge, run / "bridge.safetensors", {"problem": {"name": "mnist_inpaint", "root": root}})
            assert load_run(run).problem.root == "data"
        (tmp_path / "elsewhere" / "MNIST" / "raw").mkdir(parents=True)
        assert load_run(run).problem.root == "data"
        header, tensors = read_tensors(run / "bridge.safetensors")
        write_tensors(run / "bridge.safetensors", tensors, {**header, "about": {"problem": {"name": ["bod"]}}})
        assert "does not say which problem it is for" in one_line(lambda: load_run(run).problem)
        assert [path.name for path in (tmp_path / "elsewhere").rglob("*")] == ["MNIST", "raw"]


class TestProvenance:
    @pytest.fixture
    def whole(self, run):
        return json.loads((run / PROVENANCE).read_text())["bridge"]

    def changed(self, run, entry):
        (run / PROVENANCE).write_text(json.dumps({"bridge": entry}))

    def test_every_key_that_is_missing_or_of_another_type(self, run, whole):
        """One line, or a part that nothing needs."""
        self.changed(run, whole)
        again(run)

        def places(data, at=()):
            for key, value in data.items():
                yield (*at, key)
                yield from places(value, (*at, key)) if isinstance(value, dict) else ()

        refused, cases = 0, [(place, value) for place in places(whole) for value in ("renamed", None, [], "x")]
        for place, value in cases:
            entry = copy.deepcopy(whole)
            part = entry
            for key in place[:-1]:
                part = part[key]
            old = part.pop(place[-1])
            part[place[-1] + "_" * (value == "renamed")] = old if value == "renamed" else value
            self.changed(run, entry)
            refused += answer(lambda: again(run)) is not None
        assert refused > 0.5 * len(cases)

    @pytest.mark.parametrize(
        ("group", "key", "value", "reported"),
        [
            ("config", "trainer", None, "bridge.config.trainer=None is not possible; give a table"),
            ("data", "first", ["a"], "bridge.data.first[0]='a' is not possible; give a finite number"),
            ("device", "threads", 10**6, "bridge.device.threads=1000000 is not possible; give an integer in 1..4096"),
        ],
    )
    def test_the_line_names_the_place(self, run, whole, group, key, value, reported):
        whole[group][key] = value
        self.changed(run, whole)
        assert reported in one_line(lambda: again(run))

    def test_nothing_is_resolved(self, run, whole, monkeypatch):
        monkeypatch.setenv("CASE_TOKEN", "s3cret-t0ken")
        whole["config"]["note"] = "${oc.env:CASE_TOKEN}"
        self.changed(run, whole)
        assert again(run).run.plain["note"] == "${oc.env:CASE_TOKEN}"
