"""What results were made with is stored beside them, and a training can be done again from it."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import csb
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.problems import build_problem
from csb.runs import provenance
from csb.runs.config import read
from csb.runs.reproduce import agrees, figure_rows, weight_row
from csb.runs.stages import stage_job
from csb.runs.train import train
from tests.conftest import checked

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "L=1", "metrics.samples=4", "conditional.steps=4", "denoiser.steps=4", "denoiser.batch_size=32", "distil.steps=4",
    "distil.batch_size=8", "distil.refresh=2", "distil.trajectories=16", "distil.calls=[1,2]",
]  # fmt: skip


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    """The folder of a tiny training of every stage."""
    folder = tmp_path_factory.mktemp("first") / "run"
    given = [*tiny, *SHORT, f"out={folder.parent}", "name=run"]
    train(read(composed("train", given)))
    for stage in ("denoiser", "score"):
        stage_job(read(composed("train", [*given, f"stage={stage}"])))
    stage_job(read(composed("train", [*given, "stage=distil", f"run={folder}"])))
    return folder


@pytest.fixture
def copy(first, tmp_path):
    """The same in a folder of the test's own, with a function that changes its provenance."""
    folder = tmp_path / "run"
    shutil.copytree(first, folder)

    def change(**values):
        path = folder / provenance.FILE
        entries = json.loads(path.read_text())
        for key, value in values.items():
            part, _, name = key.rpartition("__")
            (entries["bridge"][part] if part else entries["bridge"])[name] = value
        path.write_text(json.dumps(entries))

    return folder, change


def again(folder, *overrides):
    """csb reproduce, in this process."""
    checked("reproduce", f"run={folder}", "progress=false", *overrides)()
    return json.loads((Path(overrides_out(overrides, folder)) / "reproduced.json").read_text())


def overrides_out(overrides, folder):
    given = dict(one.partition("=")[::2] for one in overrides)
    return given.get("out", f"{folder}_reproduced")


def refused(folder, *overrides):
    with pytest.raises(CSBError) as error:
        checked("reproduce", f"run={folder}", *overrides)
    assert "\n" not in str(error.value)
    assert not Path(overrides_out(overrides, folder), "bridge.safetensors").exists() or "out=" in "".join(overrides)
    return str(error.value)


class TestProvenance:
    def test_every_stage_tells_what_it_was_made_with(self, first):
        entries = provenance.read(first)
        assert set(entries) == {"bridge", "denoiser", "score", "distil"}
        for stage, entry in entries.items():
            assert entry["versions"]["torch"] == str(torch.__version__)
            assert {"csb", "python", "torch", "lightning", "numpy"} <= set(entry["versions"])
            assert entry["device"]["threads"] == torch.get_num_threads()
            assert entry["device"]["precision"] == entry["config"]["trainer"]["precision"]
            assert entry["seed"] == 0
            assert entry["data"] == entries["bridge"]["data"]
            assert stage == "bridge" or entry["config"]["stage"] == stage
        config = json.loads((first / "config.json").read_text())
        assert entries["bridge"]["config"] == config

    def test_entries_of_results_that_are_gone(self, tmp_path):
        entries = {"bridge": {"seed": 0}, "evaluate": {"seed": 1}}
        (tmp_path / provenance.FILE).write_text(json.dumps(entries))
        for _ in range(2):
            provenance.forget(tmp_path, "evaluate")
            assert provenance.read(tmp_path) == {"bridge": {"seed": 0}}
        provenance.forget(tmp_path / "none", "evaluate")

    def test_the_commit_is_that_of_the_checkout(self):
        ask = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        done = subprocess.run(ask, capture_output=True, text=True)
        if done.returncode or not (ROOT / ".git").exists():
            assert provenance.git() is None
        else:
            assert provenance.git()["commit"] == done.stdout.strip()
            assert isinstance(provenance.git()["dirty"], bool)

    def test_an_installed_copy_in_a_checkout_of_something_else(self, tmp_path, monkeypatch):
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        (tmp_path / "csb").mkdir()
        monkeypatch.setattr(csb, "__file__", str(tmp_path / "csb" / "__init__.py"))
        assert provenance.git.__wrapped__() is None

    def test_checksums_tell_data_apart(self, tmp_path):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(300, 2))
        np.savez(tmp_path / "a.npz", x=x, y=x[:, :1])
        np.savez(tmp_path / "b.npz", x=x, y=x[:, 1:])
        one, two = (provenance.data_of(build_problem({"name": "pairs", "path": f"{tmp_path}/{n}.npz"})) for n in "ab")
        assert set(one["files"]) == {"a.npz"}
        assert one["files"]["a.npz"] != two["files"]["b.npz"]
        assert one["sha256"] != two["sha256"]
        made = [provenance.data_of(build_problem({"name": "two_moons", "seed": s}))["sha256"] for s in (0, 0, 1)]
        assert made[0] == made[1] != made[2]

    def test_a_resumed_job_keeps_where_it_began(self, tmp_path):
        problem, cpu = build_problem({"name": "bod"}), torch.device("cpu")
        provenance.record(tmp_path, "bridge", problem, cpu, "32-true", 3, {"L": 1})
        for _ in range(2):
            provenance.record(tmp_path, "bridge", problem, cpu, "32-true", 3, {"L": 1}, resumed=True)
        provenance.record(tmp_path, "evaluate", problem, cpu, "32-true", 4, {})
        found = provenance.read(tmp_path)
        assert [one["versions"] for one in found["bridge"]["resumed"]] == [provenance.versions()] * 2
        assert found["bridge"]["config"] == {"L": 1}
        assert found["evaluate"]["seed"] == 4
        (tmp_path / provenance.FILE).write_text("[")
        with pytest.raises(CSBError, match=r"cannot read .*provenance\.json"):
            provenance.read(tmp_path)


class TestReproduce:
    def test_bit_for_bit(self, first, tmp_path, capsys):
        reported = again(first, f"out={tmp_path}/again")
        assert reported["agrees"] is True
        assert reported["environment"] == []
        assert all(row["identical"] for row in reported["weights"])
        assert {row["file"] for row in reported["weights"]} >= {
            "bridge.safetensors",
            "half_steps/01_backward.safetensors",
        }
        assert {row["figure"] for row in reported["figures"]} >= {"L", "T", "sliced_w"}
        out = capsys.readouterr().out
        assert "versions, commit and device are as they were" in out
        assert "it agrees: bit for bit" in out
        assert "already holds a run" in refused(first, f"out={tmp_path}/again")

    @pytest.mark.parametrize("stage", ["denoiser", "score", "distil"])
    def test_other_stages(self, first, tmp_path, stage):
        reported = again(first, f"out={tmp_path}/again", f"stage={stage}")
        assert reported["agrees"] is True
        assert [row["identical"] for row in reported["weights"]] == [True]
        assert reported["figures"] == []

    def test_another_training_does_not_agree(self, copy, capsys):
        folder, change = copy
        change(seed=1, versions__torch="1.0")
        with pytest.raises(SystemExit) as end:
            again(folder)
        assert end.value.code == 1
        reported = json.loads((folder.with_name("run_reproduced") / "reproduced.json").read_text())
        assert reported["agrees"] is False
        assert reported["environment"] == [{"of": "versions.torch", "then": "1.0", "now": str(torch.__version__)}]
        assert reported["weights"][0]["difference"] > 0
        out, err = capsys.readouterr()
        assert "what is not as it was" in out
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert "does not agree with" in err
        loose = again(folder, "resume=true", "tolerance=2")  # any two figures are this near; nothing is trained
        assert loose["agrees"] is True

    def test_other_data_are_refused(self, copy):
        folder, change = copy
        change(data__sha256="0" * 64)
        assert "differ in rounding" in refused(folder)
        checked("reproduce", f"run={folder}", "tolerance=0.1")
        change(data__first=[9.0, 9.0, 9.0, 9.0])
        assert "training pairs differ from those of the first training" in refused(folder, "tolerance=0.1")
        change(data__files={"pairs.npz": "1"})
        assert "pairs.npz 1" in refused(folder, "tolerance=0.1")

    def test_what_cannot_be_done_again(self, copy, tmp_path):
        folder, change = copy
        assert "is the folder of the first training" in refused(folder, f"out={folder}")
        assert "tolerance=-1 is not possible" in refused(folder, "tolerance=-1")
        assert "holds no flow.safetensors" in refused(folder, "stage=flow")
        assert "stage='all' is unknown" in refused(folder, "stage=all")
        assert "data=x has no meaning for two_moons" in refused(folder, "data=x")
        with torch.no_grad():
            (folder / "bridge.safetensors").write_bytes(
                (folder / "half_steps" / "01_backward.safetensors").read_bytes() + b" "
            )
        assert "another bridge" in refused(folder, "stage=distil") or "damaged" in refused(folder, "stage=distil")
        change(config=3)
        assert "provenance.json: bridge.config.trainer is None, not a dict; restore it" in refused(folder)
        (folder / provenance.FILE).unlink()
        assert "provenance.json does not say how bridge.safetensors was made" in refused(folder)


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_pairs_that_were_moved(tiny, tmp_path, kind):
    """The files are elsewhere; others in the same place are refused."""
    there, here, rng = tmp_path / "there", tmp_path / "here", np.random.default_rng(0)
    there.mkdir()
    pairs = {"x": rng.normal(size=(200, 2)), "y": rng.normal(size=(200, 1))}
    if kind == "npz":
        np.savez(there / "pairs.npz", **pairs)
        given, data = [f"data.path={there}/pairs.npz"], here / "pairs.npz"
    else:
        for name, array in pairs.items():
            np.save(there / f"{name}.npy", array)
        given, data = [f"data.{name}={there}/{name}.npy" for name in pairs], here
    options = [one for one in tiny if not one.startswith(("experiment=", "problem", "+problem"))]
    arguments = ["experiment=pairs", *options, *SHORT, *given, f"out={tmp_path}", "name=run"]
    train(read(composed("train", arguments)))
    there.rename(here)
    assert f"{there}/" in refused(tmp_path / "run")
    assert again(tmp_path / "run", f"data={data}")["agrees"] is True
    changed = np.load(here / "x.npy") if kind == "npy" else pairs["x"].copy()
    changed[0] += 1
    if kind == "npz":
        np.savez(data, x=changed, y=pairs["y"])
    else:
        np.save(here / "x.npy", changed)
    assert "data differ" in refused(tmp_path / "run", f"data={data}", f"out={tmp_path}/other")


class TestAgreement:
    ONE = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor(3)}

    def test_weights(self):
        assert weight_row("f", self.ONE, self.ONE) == {
            "file": "f", "identical": True, "difference": 0.0, "relative": 0.0
        }  # fmt: skip
        row = weight_row("f", self.ONE, {"a": torch.tensor([1.0, -2.3]), "b": torch.tensor(3)})
        assert row["identical"] is False
        assert row["difference"] == pytest.approx(0.3)
        assert row["relative"] == pytest.approx(0.1)
        assert weight_row("f", self.ONE, {"a": torch.zeros(3), "b": torch.tensor(3)})["difference"] is None

    @pytest.mark.parametrize(
        ("two", "tolerance", "agree"),
        [
            ({"w": 2.0, "note": None}, 0.0, True),
            ({"w": 2.2, "note": None}, 0.0, False),
            ({"w": 2.2, "note": None}, 0.1, True),
            ({"w": 2.2, "note": None}, 0.09, False),
            ({"note": None}, 0.5, False),
            ({"w": None, "note": None}, 0.5, False),
        ],
    )
    def test_figures(self, two, tolerance, agree):
        weights = [weight_row("f", self.ONE, self.ONE)]
        assert agrees({"weights": weights, "figures": figure_rows({"w": 2.0, "note": None}, two)}, tolerance) is agree

    def test_other_weights_agree_by_the_figures_alone(self):
        weights = [weight_row("f", self.ONE, {"a": torch.tensor([1.0, -9.0]), "b": torch.tensor(3)})]
        figures = figure_rows({"w": 2.0}, {"w": 2.0})
        assert not agrees({"weights": weights, "figures": figures}, 0.0)
        assert agrees({"weights": weights, "figures": figures}, 0.1)
        assert not agrees({"weights": weights, "figures": []}, 0.1)
