"""A run's folder: one writer; from elsewhere, damaged, hostile or older: one line, nothing resolved, nothing made."""

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
from csb.cli import sweep
from csb.cli.compose import composed, note_renamed
from csb.evaluation.results import FORMAT, Results
from csb.files import load_state, read_tensors, save_state, write_tensors
from csb.renamed import groups_of_today, key_of_today, scores_of_today
from csb.runs.config import read
from csb.runs.export import export
from csb.runs.folder import PROVENANCE, clean, writing
from csb.runs.inspection import inspect
from csb.runs.load import finished, load_run, read_history, read_result
from csb.runs.reproduce import reproduction
from csb.runs.result import Run
from csb.runs.stages import stage_job, students_of
from csb.runs.train import train
from csb.training.state import load_progress
from tests.bad_input import answer
from tests.conftest import STAGES, checked, one_line
from tests.run.test_fit import SMALL, assert_same, pairs

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


@pytest.mark.nightly
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
        *(f"{name}{end}" for name in ("bridge", "score", "flow", "denoiser", "consistency", "meanflow",
                                      "consistency_training", "half_steps/01_backward")
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
        assert (finished(run) is None) == (name == "result.json")
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

    @pytest.mark.nightly
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


# Groups of settings and scores under older names: on the command line, in stored runs, and in states of trainings
OLD = ["process=power", "process.alpha_bar_end=0.2", "ipf.steps=7", "amortized.lr=0.01", "ipf=gaussian"]
NEW = ["schedule=power", "schedule.alpha_bar_end=0.2", "training.steps=7", "conditional.lr=0.01", "training=gaussian"]


def test_keys():
    for old, new in (
        ("ipf.steps", "training.steps"),
        ("process.schedule", "schedule.name"),
        ("amortized", "conditional"),
        ("ipfs.steps", "ipfs.steps"),
        ("problem.process", "problem.process"),
    ):
        assert key_of_today(old) == key_of_today(new) == new


def test_the_command_line_and_stored_settings_take_both(capsys):
    now = composed("train", NEW)
    assert composed("train", OLD) == now
    assert read(groups_of_today(older(now))).plain == read(now).plain
    note_renamed(["L=2", *OLD[1:3]])
    noted = "note: process.alpha_bar_end is schedule.alpha_bar_end now, ipf.steps is training.steps now\n"
    assert capsys.readouterr().err == noted
    note_renamed(NEW)
    assert capsys.readouterr().err == ""


NAMES = {"training": "ipf", "schedule": "process", "conditional": "amortized"}


def older(plain):
    """Settings as they were stored before."""
    found = {NAMES.get(key, key): value for key, value in plain.items()}
    found["process"] = {"schedule" if key == "name" else key: value for key, value in found["process"].items()}
    return found


def test_an_older_state_is_resumed(tmp_path):
    """Bit for bit, as if it had been written today."""
    options = {**SMALL, "out": tmp_path / "run"}
    whole = csb.fit(*pairs(), **options)
    state = tmp_path / "run" / "state.safetensors"
    stored = load_state(state)
    of = stored["fingerprint"]
    stored["fingerprint"] = {".".join([NAMES.get((p := k.split("."))[0], p[0]), *p[1:]]): of[k] for k in of}
    stored["fingerprint"]["process.schedule"] = stored["fingerprint"].pop("process.name")
    save_state(state, stored)
    (tmp_path / "run" / "result.json").unlink()
    assert_same(csb.fit(*pairs(), **options, resume=True), whole)
    options["training"] = {**SMALL["training"], "steps": 9}
    message = one_line(lambda: csb.fit(*pairs(), **options, resume=True))
    assert "was trained with training.steps=8, not 9" in message


OLD_SCORES = {"crps": 0.4, "spread": 0.09, "skill": 0.16, "ratio": 0.5625, "ratio_fair": 0.64}
NEW_SCORES = {"crps": 0.4, "spread": 0.3, "skill": 0.4, "spread_skill": 0.75, "spread_skill_fair": 0.8}


def test_ratios_of_variances_are_read_as_ratios_of_standard_deviations():
    assert scores_of_today(OLD_SCORES) == pytest.approx(NEW_SCORES)
    assert scores_of_today(NEW_SCORES) == NEW_SCORES
    assert scores_of_today([{"ratio_fair": None}, {"spread": 4.0}]) == [{"spread_skill_fair": None}, {"spread": 4.0}]
    assert scores_of_today({"ratio_before": 0.81, "val_ratio": "?"}) == {
        "spread_skill_before": 0.9, "val_spread_skill": "?",
    }  # fmt: skip


def test_an_older_history_is_read():
    older = json.loads((GOLDEN / "history.json").read_text())[0]
    row = read_history(GOLDEN)[0]
    assert row["val_spread_skill"] ** 2 == pytest.approx(older["val_ratio"], rel=1e-12)
    assert row.keys() - older.keys() == {"val_spread_skill"}
    assert all(row[key] == older[key] for key in row.keys() & older.keys())
    stored = load_state(GOLDEN / "state.pt")
    assert load_progress(GOLDEN / "state.pt", stored["fingerprint"]).history[0].keys() == row.keys()
    assert "history.json lacks 'x'" in one_line(lambda: row["x"])


def test_an_older_result_is_read(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    result = tmp_path / "run" / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | OLD_SCORES))
    (job,) = sweep.collect(tmp_path)
    scores = Run.open(tmp_path / "run", "cpu").scores
    for found in (read_result(tmp_path / "run"), inspect(tmp_path / "run")["scores"], job.figures, scores):
        assert {key: found[key] for key in NEW_SCORES} == pytest.approx(NEW_SCORES)
        assert "ratio" not in found
    card = (export(tmp_path / "run", tmp_path / "shared") / "README.md").read_text()
    assert "spread_skill_fair" in card


def test_an_older_comparison_is_read(tmp_path):
    row = {"metrics": {"crps": 0.1, "ratio_fair": 0.64}, "standard_errors": {"crps": 0.01, "ratio_fair": 0.032}}
    sweeps = {"options": {}, "sweep": {"rows": [{"ζ": 0.1, "spread/skill": 0.25}]}}
    entries = [{"key": {"kind": "row"}, "found": row}, {"key": {"kind": "sweep"}, "found": sweeps}]
    (tmp_path / "compare.json").write_text(json.dumps({"format": FORMAT, "entries": entries}))
    store = Results(tmp_path / "compare.json")
    assert store.load({"kind": "sweep"}) == {"options": {}, "sweep": {"rows": [{"ζ": 0.1, "spread_skill": 0.5}]}}
    assert store.load({"kind": "row"}) == {
        "metrics": {"crps": 0.1, "spread_skill_fair": pytest.approx(0.8)},
        "standard_errors": {"crps": 0.01, "spread_skill_fair": pytest.approx(0.02)},
    }
