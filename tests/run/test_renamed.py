"""Groups of settings and scores under older names: on the command line, in stored runs, and in states of trainings."""

import json
import shutil
from pathlib import Path

import pytest

import csb
from csb.cli import sweep
from csb.cli.compose import composed, note_renamed
from csb.evaluation.results import FORMAT, Results
from csb.files import load_state, save_state
from csb.renamed import groups_of_today, key_of_today, scores_of_today
from csb.runs.config import read
from csb.runs.export import export
from csb.runs.inspection import inspect
from csb.runs.load import read_history, read_result
from csb.runs.result import Run
from csb.training.state import load_progress
from tests.conftest import one_line
from tests.run.test_fit import SMALL, assert_same, pairs

GOLDEN = Path(__file__).parents[1] / "golden" / "files" / "run"
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


def test_the_command_line_takes_both(capsys):
    assert composed("train", OLD) == composed("train", NEW)
    note_renamed(["L=2", *OLD[1:3]])
    noted = "note: process.alpha_bar_end is schedule.alpha_bar_end now, ipf.steps is training.steps now\n"
    assert capsys.readouterr().err == noted
    note_renamed(NEW)
    assert capsys.readouterr().err == ""


def older(plain):
    """Settings as they were stored before."""
    found = {{"training": "ipf", "schedule": "process", "conditional": "amortized"}.get(k, k): plain[k] for k in plain}
    found["process"] = {"schedule" if key == "name" else key: value for key, value in found["process"].items()}
    return found


def test_stored_settings_are_read():
    now = composed("train", NEW)
    assert groups_of_today(older(now)) == now
    assert read(groups_of_today(older(now))).plain == read(now).plain


def test_an_older_state_is_resumed(tmp_path):
    """Bit for bit, as if it had been written today."""
    options = {**SMALL, "out": tmp_path / "run"}
    whole = csb.fit(*pairs(), **options)
    state = tmp_path / "run" / "state.safetensors"
    stored = load_state(state)
    names = {"training": "ipf", "schedule": "process", "conditional": "amortized"}
    of = stored["fingerprint"]
    stored["fingerprint"] = {".".join([names.get((p := k.split("."))[0], p[0]), *p[1:]]): of[k] for k in of}
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
