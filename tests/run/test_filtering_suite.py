"""benchmark.py suite=filtering: the table, its file, and its errors."""

import json

import pytest
from benchmark_checks import refuse

from tests.conftest import checked

SMALL = (
    "suite=filtering", "cycles=20", "spin_up=2", "lorenz63.members=[40]", "lorenz96.members=[20]",
    "lorenz96.model.dx=6",
    "lorenz63.methods=[{filter: bridge, T: 2, features: 4, locality: 1.0}, {filter: enkf}, {filter: bootstrap}]",
    "lorenz96.methods=[{filter: ensf, steps: 20}, {filter: enkf, localisation: 2.0}]",
)  # fmt: skip


def test_table_and_files(tmp_path, capsys):
    checked("benchmark", *SMALL, "seeds=[0,1]", f"out={tmp_path}")()
    rows = json.loads((tmp_path / "filtering.json").read_text())["rows"]
    assert [(one["system"], one["members"], one["filter"]) for one in rows] == [
        ("lorenz63", 40, "bridge, T = 2, features = 4, locality = 1.0"),
        ("lorenz63", 40, "enkf"),
        ("lorenz63", 40, "bootstrap"),
        ("lorenz96", 20, "ensf, steps = 20"),
        ("lorenz96", 20, "enkf, localisation = 2.0"),
    ]
    keys = ("rmse", "rmse_error", "spread", "crps", "seconds")
    assert all(one[key] > 0 for one in rows for key in keys)
    text = (tmp_path / "filtering.md").read_text()
    assert len(text.splitlines()) == 2 + len(rows)
    assert "20 assimilations after 2 of spin-up, 2 seed(s)" in capsys.readouterr().out


def test_a_filter_that_diverges_is_a_row_of_dashes(tmp_path):
    wild = "lorenz63.methods=[{filter: enkf, inflation: 1e200}, {filter: enkf}]"
    checked("benchmark", *SMALL[:3], "lorenz63.members=[40]", "lorenz96.members=[]", wild, f"out={tmp_path}")()
    one, two = json.loads((tmp_path / "filtering.json").read_text())["rows"]
    assert one["rmse"] is None
    assert "cycle" in one["note"]
    assert two["rmse"] > 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("cycles=19", "cycles=19 is not possible"),
        ("lorenz63=null", "lorenz63=None is not possible"),
        ("lorenz63.members=[1]", "lorenz63.members[0]=1 is not possible"),
        ("lorenz63.methods=[{filter: ekf}]", "give {filter: bridge|enkf|bootstrap|ensf"),
        ("lorenz63.methods=[{filter: enkf, width: 3}]", "lorenz63.methods has no setting 'width'"),
        ("lorenz63.methods=[{filter: bridge, T: 0}]", "lorenz63.methods.T=0"),
        ("+lorenz63.model.speed=3", "lorenz63.model has no setting 'speed'"),
    ],
)
def test_bad_config(argument, message):
    assert message in refuse(*SMALL, argument)


def test_nothing_to_run():
    assert "no system has members" in refuse(*SMALL, "lorenz63.members=[]", "lorenz96.members=[]")
