"""stage=distil through the command line: the file, what it holds, resuming, the comparison, refusals."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import ROOT, Hook

from csb.bridge.checkpoint import load
from csb.bridge.student import TransitionStudent
from csb.errors import CSBError
from csb.process import seeded
from csb.runs.distil import load_consistency, students_of
from csb.runs.load import load_run
from csb.samplers import ConsistencySampler
from tests.conftest import checked

OVERRIDES = [
    "distil.calls=[1,2]", "distil.components=3", "distil.steps=22", "distil.refresh=8", "distil.batch_size=32",
    "distil.trajectories=64", "distil.checkpoint_every=5",
]  # fmt: skip


def weights(path):
    return load(path).state_dict()


@pytest.fixture(scope="module")
def folder(command, tiny, tmp_path_factory):
    """A run's folder with a bridge and its student."""
    folder = tmp_path_factory.mktemp("distil")
    for stage in ((), (*OVERRIDES, "stage=distil", f"run={folder}/run")):
        done = command(*tiny, *stage, f"out={folder}", "name=run")
        assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def bridge(folder, tmp_path):
    """A copy of the run without the student."""
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "consistency.safetensors").unlink()
    return tmp_path / "run"


def test_what_is_loaded(folder):
    student, transform, problem, about = load_consistency(folder, "cpu")
    assert isinstance(student, TransitionStudent)
    assert (student.spec.law, student.spec.calls, student.spec.components) == ("mixture", [1, 2], 3)
    bridge = load_run(folder, "cpu").bridge
    assert student.spec.alpha_bar == bridge.spec.alpha_bar
    assert student.spec.network == bridge.spec.backward.network
    assert student.transform is transform
    for own, of in zip(transform.state_dict().values(), bridge.transform.state_dict().values()):
        assert torch.equal(own, of)
    assert (problem.name, about["steps"], about["config"]["stage"]) == ("two_moons", 22, "distil")
    assert about["seconds"] > 0
    assert set(about["versions"]) == {"csb", "python", "torch", "lightning", "numpy", "scipy"}
    x = ConsistencySampler(student, 2).sample(torch.tensor([[0.1, 0.2], [0.0, -0.3]]), 3, seeded(1))
    assert x.x.shape == (2, 3, 2)
    assert x.info.forward_evaluations == 2


def test_samples_to_a_file(folder, bridge, tmp_path):
    y = np.array([[0.1, 0.2], [0.0, -0.3]], dtype=np.float32)
    np.save(tmp_path / "y.npy", y)
    given = (f"y={tmp_path}/y.npy", "n=3", f"out={tmp_path}/s.npz", "calls=2")
    checked("sample", f"run={folder}", *given)()
    expected = ConsistencySampler(load_consistency(folder, "cpu").student, 2).sample(torch.from_numpy(y), 3, seeded(0))
    assert np.array_equal(np.load(tmp_path / "s.npz")["x"], expected.x.numpy())
    for run, more, message in (
        (folder, ("calls=4",), "calls=4 is not among those that the sampler is fitted for; choose one of 1, 2"),
        (folder, ("sampler.sample_steps=2",), "sampler.sample_steps=2 is for the bridge, and calls=2 for its student"),
        (bridge, (), "holds no consistency.safetensors for calls=2; make it with csb train … stage=distil"),
    ):
        with pytest.raises(CSBError, match=re.escape(message)):
            checked("sample", f"run={run}", *given, *more)


def test_it_is_compared_beside_its_bridge(command, folder):
    done = command(
        f"run={folder}", "tables=false", "baselines=none", "metrics.exact_samples=100", "metrics.exact_observations=2",
        "metrics.c2st_samples=50", "metrics.c2st_observations=2", "metrics.compare_observations=4",
        "metrics.compare_samples=4", script="scripts/evaluate.py",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads((folder / "report.json").read_text())
    found = {m["name"]: m for m in report["methods"]}
    assert list(found) == ["bridge_run", "consistency_run_1", "consistency_run_2", "exact"]
    assert [m["forward_evaluations"] for m in found.values()] == [3, 1, 2, 0]
    assert found["consistency_run_1"]["label"] == "distilled, T = 3, 1 call"
    assert all("c2st" in m["metrics"] for m in found.values())
    assert report["warnings"] == []


def test_a_student_of_another_bridge_is_left_out(folder, command, bridge):
    shutil.copy(folder / "consistency.safetensors", bridge)
    assert list(students_of(load_run(bridge, "cpu"))) == [1, 2]
    shutil.copy(bridge / "half_steps" / "01_backward.safetensors", bridge / "bridge.safetensors")
    with pytest.raises(CSBError, match=r"is a student of another bridge than that beside it; distil again"):
        students_of(load_run(bridge, "cpu"))
    done = command(
        f"run={bridge}", "tables=false", "baselines=none", "metrics.exact_samples=100", "metrics.exact_observations=1",
        "metrics.c2st_samples=0", "metrics.compare_observations=4", "metrics.compare_samples=4",
        script="scripts/evaluate.py",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads((bridge / "report.json").read_text())
    assert [m["name"] for m in report["methods"]] == ["bridge_run", "exact"]
    assert "The distilled sampler is left out: " in report["warnings"][0]


@pytest.mark.parametrize(
    "hook",
    [
        Hook("csb.training.module.NetworkModule.training_step", 14),
        Hook("csb.training.stage.save_progress", 4),
        Hook("csb.training.regression.save", 1),
    ],
    ids=["in a step", "before a state", "before the file"],
)
def test_a_killed_training_goes_on_bit_for_bit(command, tiny, folder, bridge, hook):
    arguments = (*tiny, *OVERRIDES, "stage=distil", f"run={bridge}")
    assert command(*arguments, hooks=[hook]).code == -signal.SIGKILL
    assert "consistency.safetensors was begun; continue with resume=true, or choose overwrite=true" in refuse(
        *arguments
    )
    if hook.name.endswith("save_progress"):
        other = command(*arguments, "resume=true", "distil.lr=0.5")
        assert other.code == 2
        assert "was trained with distil.lr=0.001, not 0.5" in other.err
    done = command(*arguments, "resume=true")
    assert done.code == 0, done.err
    whole, again = weights(folder / "consistency.safetensors"), weights(bridge / "consistency.safetensors")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    assert not (bridge / "consistency_state.pt").exists()


def test_a_student_may_go_elsewhere(command, tiny, folder, tmp_path):
    done = command(*tiny, *OVERRIDES, "stage=distil", f"run={folder}", f"distil.out={tmp_path}/there", "distil.steps=2")
    assert done.code == 0, done.err
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert load_consistency(tmp_path / "there", "cpu").about["steps"] == 2
    assert not (ROOT / "outputs").exists() or "there" not in [p.name for p in (ROOT / "outputs").iterdir()]


def refuse(*arguments):
    with pytest.raises(CSBError) as error:
        checked("train", *arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "stage=distil lacks run=; give the folder of a finished run"),
            (["run=nowhere"], "run=nowhere is not a folder; give that of a finished run"),
            (["run=RUN", "stage=bridge"], " is of stage=distil alone; leave it out"),
            (["run=RUN", "problem.transform=probit"], "not of {'name': 'two_moons', 'n_train': 500"),
            (["run=RUN", "distil.calls=[1,4]"], "calls=[1, 4] is not possible for a bridge of T=3 steps"),
            (["run=RUN", "distil.calls=2"], "distil.calls=2 is not possible; give a list"),
            (["run=RUN", "distil.law=nope"], "distil.law='nope' is unknown; choose one of auto, diagonal"),
            (["run=RUN", "distil.components=100000"], "components=100000 is not possible; give an integer in 1..4096"),
            (["run=RUN", "distil.law=generator", "distil.patches=[3]"], "distil.patches has 3, and states have"),
            (["run=RUN", "distil.patches=3"], "distil.patches=3 is not possible; give a list"),
            (["run=RUN", "distil.draws=1"], "distil.draws=1 is not possible"),
            (["run=RUN", "distil.lr=0"], "distil.lr=0 is not possible"),
            (["run=RUN", "distil.cache_bytes=3"], "distil.cache_bytes=3 cannot hold one trajectory"),
            (["run=RUN", "+distil.foo=1"], "foo"),
            (["run=RUN"], "consistency.safetensors is there already; choose overwrite=true"),
            (["-m", "run=RUN", "distil.lr=0.1,0.2"], "stage=distil, evaluate=False cannot be swept over"),
        ],
    )
    def test_before_any_work(self, folder, tiny, tmp_path, arguments, message):
        given = [text.replace("RUN", str(folder)) for text in arguments]
        before = sorted(p.name for p in folder.iterdir())
        assert message in refuse(*tiny, "distil.calls=[1,2]", "stage=distil", f"out={tmp_path}/new", *given)
        assert list(tmp_path.iterdir()) == []
        assert sorted(p.name for p in folder.iterdir()) == before

    def test_a_run_of_another_problem(self, folder):
        message = refuse("experiment=bod", "stage=distil", f"run={folder}")
        assert "is a bridge of {'name': 'two_moons'" in message
        assert "not of {'name': 'bod'" in message

    def test_an_unfinished_run(self, bridge, tiny):
        (bridge / "bridge.safetensors").unlink()
        message = refuse(*tiny, "distil.calls=[1,2]", "stage=distil", f"run={bridge}")
        assert "holds no bridge.safetensors (it was interrupted: train again with resume=true)" in message

    def test_what_cannot_be_loaded(self, folder, bridge):
        with pytest.raises(
            CSBError, match=r"holds no consistency.safetensors; make it with csb train … stage=distil run="
        ):
            load_consistency(bridge)
        (bridge / "consistency.safetensors").write_bytes((folder / "consistency.safetensors").read_bytes()[:-100])
        with pytest.raises(CSBError, match=r"consistency.safetensors is damaged or not a csb file"):
            load_consistency(bridge)
        shutil.copy(folder / "bridge.safetensors", bridge / "consistency.safetensors")
        with pytest.raises(CSBError, match=r"consistency.safetensors holds a Bridge, not a Student"):
            load_consistency(bridge)
