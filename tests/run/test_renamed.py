"""Groups of settings under older names: on the command line, in stored runs, and in the states of trainings."""

import json

import pytest
import torch

import csb
from csb.cli.compose import composed
from csb.cli.typed import note_renamed
from csb.errors import CSBError
from csb.files import load_state, save_state
from csb.renamed import groups_of_today, key_of_today
from csb.runs.config import read
from tests.runs.test_fit import SMALL, pairs

OLD = ["process=power", "process.alpha_bar_end=0.2", "ipf.steps=7", "amortized.lr=0.01", "ipf=gaussian"]
NEW = ["schedule=power", "schedule.alpha_bar_end=0.2", "training.steps=7", "conditional.lr=0.01", "training=gaussian"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ipf.steps", "training.steps"),
        ("process.schedule", "schedule.name"),
        ("amortized", "conditional"),
        ("ipfs.steps", "ipfs.steps"),
        ("problem.process", "problem.process"),
    ],
)
def test_keys(old, new):
    assert key_of_today(old) == new
    assert key_of_today(new) == new


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
    assert read(older(now)).plain == read(now).plain


def test_an_older_state_is_resumed(tmp_path):
    """Bit for bit, as if it had been written today."""
    options = {**SMALL, "out": tmp_path / "run"}
    whole = csb.fit(*pairs(), **options).bridge.state_dict()
    state, result = tmp_path / "run" / "state.pt", tmp_path / "run" / "result.json"
    stored = load_state(state)
    names = {"training": "ipf", "schedule": "process", "conditional": "amortized"}
    of = stored["fingerprint"]
    stored["fingerprint"] = {".".join([names.get((p := k.split("."))[0], p[0]), *p[1:]]): of[k] for k in of}
    stored["fingerprint"]["process.schedule"] = stored["fingerprint"].pop("process.name")
    save_state(state, stored)
    assert json.loads(result.read_text())
    result.unlink()
    again = csb.fit(*pairs(), **options, resume=True).bridge.state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    with pytest.raises(CSBError, match=r"was trained with training\.steps=8, not 9"):
        csb.fit(*pairs(), **{**options, "training": {**SMALL["training"], "steps": 9}}, resume=True)
