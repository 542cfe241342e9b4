"""What results were made with is stored beside them, and a training can be done again from it."""

import json
import subprocess

import numpy as np
import pytest
import torch

import csb
from csb.cli.compose import composed
from csb.problems import build_problem
from csb.runs.config import read
from csb.runs.folder import PROVENANCE, data_of, git, read_provenance, versions, write_provenance
from csb.runs.reproduce import agrees, figure_rows, weight_row
from csb.runs.train import train
from tests.conftest import ROOT, STAGES, checked, refused


def change(folder, **values):
    """Changes the bridge's entry of a folder's provenance."""
    path = folder / PROVENANCE
    entries = json.loads(path.read_text())
    for key, value in values.items():
        part, _, name = key.rpartition("__")
        (entries["bridge"][part] if part else entries["bridge"])[name] = value
    path.write_text(json.dumps(entries))


def again(folder, *overrides, out):
    checked("reproduce", f"run={folder}", f"out={out}", "progress=false", *overrides)()
    return json.loads((out / "reproduced.json").read_text())


class TestProvenance:
    def test_every_stage_tells_what_it_was_made_with(self, run_with_stages):
        entries = read_provenance(run_with_stages)
        assert set(entries) == {"bridge", "denoiser", "score", "flow", "meanflow", "consistency", "distil"}
        for stage, entry in entries.items():
            assert {"csb", "python", "torch", "lightning", "numpy"} <= set(entry["versions"])
            assert entry["device"]["threads"] == 1
            assert entry["device"]["precision"] == entry["config"]["trainer"]["precision"]
            assert (entry["seed"], entry["data"]) == (0, entries["bridge"]["data"])
            assert entry["config"]["stage"] == stage
        assert entries["bridge"]["config"] == json.loads((run_with_stages / "config.json").read_text())

    def test_the_commit_is_that_of_the_checkout(self, tmp_path, monkeypatch):
        ask = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        done = subprocess.run(ask, capture_output=True, text=True)
        if done.returncode or not (ROOT / ".git").exists():
            assert git() is None
        else:
            assert git()["commit"] == done.stdout.strip()
            assert isinstance(git()["dirty"], bool)
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)  # of something else, with an installed copy
        (tmp_path / "csb").mkdir()
        monkeypatch.setattr(csb, "__file__", str(tmp_path / "csb" / "__init__.py"))
        assert git.__wrapped__() is None

    def test_checksums_tell_data_apart(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(300, 2))
        np.savez(tmp_path / "a.npz", x=x, y=x[:, :1])
        np.savez(tmp_path / "b.npz", x=x, y=x[:, 1:])
        one, two = (data_of(build_problem({"name": "pairs", "path": f"{tmp_path}/{n}.npz"})) for n in "ab")
        assert set(one["files"]) == {"a.npz"}
        assert one["files"]["a.npz"] != two["files"]["b.npz"]
        assert one["sha256"] != two["sha256"]
        made = [data_of(build_problem({"name": "two_moons", "seed": s}))["sha256"] for s in (0, 0, 1)]
        assert made[0] == made[1] != made[2]

    def test_a_resumed_job_keeps_where_it_began(self, tmp_path):
        given = (build_problem({"name": "bod"}), torch.device("cpu"), "32-true")
        for resumed in (False, True, True):
            write_provenance(tmp_path, "bridge", *given, 3, {"L": 1}, resumed=resumed)
        write_provenance(tmp_path, "evaluate", *given, 4, {})
        found = read_provenance(tmp_path)
        assert [one["versions"] for one in found["bridge"]["resumed"]] == [versions()] * 2
        assert (found["bridge"]["config"], found["evaluate"]["seed"]) == ({"L": 1}, 4)


class TestReproduce:
    def test_bit_for_bit(self, run_with_stages, tmp_path, capsys):
        reported = again(run_with_stages, out=tmp_path / "again")
        assert reported["agrees"] is True
        assert reported["environment"] == []
        assert all(row["identical"] for row in reported["weights"])
        names = {row["file"] for row in reported["weights"]}
        assert names >= {"bridge.safetensors", "half_steps/01_backward.safetensors"}
        assert {row["figure"] for row in reported["figures"]} >= {"L", "T", "sliced_w"}
        assert "it agrees: bit for bit" in capsys.readouterr().out
        message = refused("reproduce", f"run={run_with_stages}", f"out={tmp_path}/again")
        assert "already holds a run" in message

    @pytest.mark.parametrize("stage", ["denoiser", "score", "distil"])
    def test_other_stages(self, run_with_stages, tmp_path, stage):
        reported = again(run_with_stages, f"stage={stage}", out=tmp_path / "again")
        assert reported["agrees"] is True
        assert [row["identical"] for row in reported["weights"]] == [True]
        assert reported["figures"] == []

    def test_another_training_does_not_agree(self, run_copy, tmp_path, capsys):
        change(run_copy, seed=1, versions__torch="1.0")
        with pytest.raises(SystemExit) as end:
            again(run_copy, out=tmp_path / "again")
        assert end.value.code == 1
        reported = json.loads((tmp_path / "again" / "reproduced.json").read_text())
        assert reported["agrees"] is False
        assert {"of": "versions.torch", "then": "1.0", "now": str(torch.__version__)} in reported["environment"]
        assert reported["weights"][0]["difference"] > 0
        out, err = capsys.readouterr()
        assert "what is not as it was" in out
        assert err.count("\n") == 1
        assert "does not agree with" in err
        loose = again(run_copy, "resume=true", "tolerance=2", out=tmp_path / "again")  # nothing is trained
        assert loose["agrees"] is True

    def test_what_cannot_be_done_again(self, run_copy):
        run = f"run={run_copy}"
        assert "is the folder of the first training" in refused("reproduce", run, f"out={run_copy}")
        assert "data=x has no meaning for two_moons" in refused("reproduce", run, "data=x")
        change(run_copy, data__sha256="0" * 64)
        assert "differ in rounding" in refused("reproduce", run)
        checked("reproduce", run, "tolerance=0.1")
        change(run_copy, data__first=[9.0, 9.0, 9.0, 9.0])
        message = refused("reproduce", run, "tolerance=0.1")
        assert "training pairs differ from those of the first training" in message
        change(run_copy, data__files={"pairs.npz": "1"})
        assert "pairs.npz 1" in refused("reproduce", run, "tolerance=0.1")
        half_step = run_copy / "half_steps" / "01_backward.safetensors"
        (run_copy / "bridge.safetensors").write_bytes(half_step.read_bytes())
        assert "is another bridge than that of the first training" in refused("reproduce", run, "stage=distil")
        (run_copy / "flow.safetensors").unlink()
        assert "holds no flow.safetensors" in refused("reproduce", run, "stage=flow")
        (run_copy / PROVENANCE).unlink()
        assert "provenance.json does not say how bridge.safetensors was made" in refused("reproduce", run)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_pairs_that_were_moved(tmp_path, kind):
    """The files are elsewhere; others in the same place are refused."""
    there, here, rng = tmp_path / "there", tmp_path / "here", np.random.default_rng(0)
    there.mkdir()
    x, y = rng.normal(size=(200, 2)), rng.normal(size=(200, 1))

    def save(folder, x):
        np.savez(folder / "pairs.npz", x=x, y=y)
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)

    save(there, x)
    given = [f"data.path={there}/pairs.npz"] if kind == "npz" else [f"data.{name}={there}/{name}.npy" for name in "xy"]
    options = [one for one in STAGES if not one.startswith(("problem", "+problem"))]
    arguments = ["experiment=pairs", *options, "L=1", *given, f"out={tmp_path}", "name=run", "metrics.samples=4"]
    train(read(composed("train", arguments)))
    there.rename(here)
    run, data = f"run={tmp_path}/run", here / "pairs.npz" if kind == "npz" else here
    assert f"{there}/" in refused("reproduce", run)
    assert again(tmp_path / "run", f"data={data}", out=tmp_path / "again")["agrees"] is True
    save(here, x + 1)
    assert "data differ" in refused("reproduce", run, f"data={data}", f"out={tmp_path}/other")


ONE = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor(3)}


def test_rows_of_weights():
    same = {"file": "f", "identical": True, "difference": 0.0, "relative": 0.0}
    assert weight_row("f", ONE, ONE) == same
    row = weight_row("f", ONE, {"a": torch.tensor([1.0, -2.3]), "b": torch.tensor(3)})
    assert row == same | {"identical": False, "difference": pytest.approx(0.3), "relative": pytest.approx(0.1)}
    assert weight_row("f", ONE, {"a": torch.zeros(3), "b": torch.tensor(3)})["difference"] is None


@pytest.mark.parametrize(
    ("figures", "weights", "tolerance", "agree"),
    [
        ({"w": 2.0, "note": None}, -2.0, 0.0, True),
        ({"w": 2.2, "note": None}, -2.0, 0.0, False),
        ({"w": 2.2, "note": None}, -2.0, 0.1, True),
        ({"w": 2.2, "note": None}, -2.0, 0.09, False),
        ({"note": None}, -2.0, 0.5, False),
        ({"w": None, "note": None}, -2.0, 0.5, False),
        ({"w": 2.0, "note": None}, -9.0, 0.0, False),
        ({"w": 2.0, "note": None}, -9.0, 0.1, True),
        (None, -9.0, 0.1, False),
    ],
)
def test_agreement(figures, weights, tolerance, agree):
    """By the figures, bit for bit also by the weights; where there are no figures, by the weights alone."""
    rows = [] if figures is None else figure_rows({"w": 2.0, "note": None}, figures)
    found = [weight_row("f", ONE, {"a": torch.tensor([1.0, weights]), "b": torch.tensor(3)})]
    assert agrees({"weights": found, "figures": rows}, tolerance) is agree
