"""The comparison of a run with other samplers, through the scripts a user calls."""

import json

import pytest

from csb.problems import PROBLEMS, FilePairs, MnistInpaint
from csb.runs.report import _description

SMALL = (
    "training.first_steps=40",
    "training.steps=20",
    "L=1",
    "T=4",
    "metrics.exact_samples=200",
    "progress=false",
    "logger=none",
)


@pytest.fixture
def call(command):
    """The output of a script that must end well."""

    def run(script, *arguments):
        done = command(*arguments, script=script)
        assert done.code == 0, done.err[-2000:]
        return done.out

    return run


def test_a_gaussian_run_is_compared_with_guided_samplers_and_the_exact_posterior(call, tmp_path):
    call("train.py", "experiment=linear_gaussian", f"out={tmp_path}", "name=run", *SMALL)
    out = call(
        "scripts/evaluate.py", f"run={tmp_path / 'run'}", "tables=false", "metrics.exact_samples=400",
        "metrics.exact_observations=3", "metrics.c2st_samples=0", "metrics.compare_samples=50", "baselines.T=40",
        "baselines.methods=[tds,smc,dps,replacement,pigdm,tmpd,guidance]", "metrics.compare_observations=30",
    )  # fmt: skip
    assert "report" in out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = {m["name"]: m for m in report["methods"]}
    assert list(found) == ["bridge_run", "tds", "smc", "dps", "pigdm", "tmpd", "guidance", "exact"]  # A A* ≠ cI
    assert any("replacement is left out" in warning for warning in report["warnings"])
    assert (found["tds"]["forward_evaluations"], found["tds"]["backward_evaluations"]) == (40, 40)
    assert found["tds"]["metrics"]["mean_error"] < 0.25 < found["dps"]["metrics"]["cov_error"]
    assert found["exact"]["metrics"]["sliced_w"] < 2 * found["exact"]["metrics"]["sliced_w_floor"]
    assert len(found["dps"]["sweeps"][0]["rows"]) == 6
    entries = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert set(entries) == {"bridge", "evaluate"}  # the denoiser is exact
    assert entries["evaluate"]["config"]["baselines"]["T"] == 40


def test_a_training_that_evaluates_ends_with_a_report(call, tmp_path):
    out = call(
        "train.py", "experiment=linear_gaussian", "evaluate=true", f"out={tmp_path}", "name=run", *SMALL,
        "metrics.exact_observations=2", "metrics.compare_observations=4", "metrics.compare_samples=8", "baselines.T=10",
        "baselines.sweeps.dps=[0.3]", "baselines.sweep_observations=3", "metrics.c2st_samples=50",
        "baselines.methods=[tds,smc,dps,replacement,copaint]",
    )  # fmt: skip
    folder = tmp_path / "run"
    assert (folder / "report.html").stat().st_size > 10_000
    assert "report: " in out
    assert json.loads((folder / "result.json").read_text())["sliced_w"] > 0
    report = json.loads((folder / "report.json").read_text())
    found = {m["name"]: m for m in report["methods"]}
    assert list(found) == ["bridge_run", "tds", "smc", "dps", "copaint", "exact"]
    assert found["tds"]["schedule"] == "power, T = 10, ᾱ_T = 0.0001"
    assert all("c2st" in m["metrics"] for m in found.values())
    assert (report["observations"], report["samples"]) == (4, 8)


@pytest.mark.parametrize("problem", ["bod"])
def test_the_denoiser_is_a_stage_of_its_own_and_resumes_nothing_that_is_done(call, command, tmp_path, problem):
    stage = (f"experiment={problem}", "stage=denoiser", f"out={tmp_path}", "name=run", "progress=false")
    call("train.py", *stage, "denoiser.steps=30", "denoiser.batch_size=64")
    assert (tmp_path / "run" / "denoiser.safetensors").exists()
    assert not (tmp_path / "run" / "denoiser_state.safetensors").exists()
    again = command(*stage)
    assert again.code == 2
    assert "denoiser.safetensors is there already" in again.err


@pytest.mark.parametrize("option", ["stage=denoiser", "evaluate=true"])
def test_what_a_sweep_would_leave_out_is_refused(command, tmp_path, option):
    done = command("-m", "experiment=linear_gaussian", "L=1,2", option, f"out={tmp_path}")
    assert done.code == 2
    assert option.split("=")[1].lower() in done.err.lower()
    assert "cannot be swept over" in done.err
    assert not list(tmp_path.iterdir())


def test_the_description_holds_no_markup():
    for make in (make for make in PROBLEMS.values() if not issubclass(make, FilePairs)):
        text = _description(make.__new__(make))
        assert text
        assert ":class:" not in text
        assert "`" not in text
    assert _description(MnistInpaint.__new__(MnistInpaint)).endswith("over the hole (Hole).")
