"""Trainings on pairs that are read by rows: the same, bit for bit, wherever the pairs and the trajectories lie."""

import dataclasses

import h5py
import numpy as np
import pytest
import torch

import csb
from csb.bridge.checkpoint import load
from csb.cli.compose import composed
from csb.files import load_state, save_state
from csb.problems.rows import Source
from csb.runs.config import read
from csb.runs.load import load_run
from csb.runs.stages import load_stage, stage_job
from csb.runs.stages import train_stage as denoiser
from csb.runs.train import train
from csb.samplers import flow_sampler
from tests.conftest import default_dtype, one_line

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")
N = 600
SMALL = [
    "L=1", "T=3", "progress=false", "logger=none", "trainer=default", "network.options={width: 16, depth: 1}",
    "training.first_steps=8", "training.steps=6", "training.refresh=4", "training.batch_size=256",
    "training.trajectories=64",
    "training.last_forward=true", "training.checkpoint_every=3", "training.observe_every=1000",
    "training.validate_every=4", "metrics.samples=8", "metrics.observations=20", "metrics.picture_rows=2",
]  # fmt: skip
FIT = {  # the same, from Python
    "L": 1, "T": 3, "progress": False, "precision": "32-true", "network": {"name": "mlp", "width": 16, "depth": 1},
    "training": {
        "first_steps": 8, "steps": 6, "refresh": 4, "batch_size": 256, "trajectories": 64, "last_forward": True,
        "checkpoint_every": 3, "observe_every": 1000, "validate_every": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Without pictures, and with fewer validation states: both take longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("csb.runs.train.draw_bridge", lambda *_: False)
        patch.setattr("csb.runs.train.write_png", lambda *_: None)
        patch.setattr("csb.training.half_step._STATES", 512)
        yield


def arrays(n=N):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)).astype("f4")
    return x, (x[:, :1] ** 2 + 0.1 * rng.normal(size=(n, 1))).astype("f4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs as .npz, .npy and HDF5."""
    folder = tmp_path_factory.mktemp("pairs")
    save(folder, *arrays())
    return folder


def save(folder, x, y):
    np.savez(folder / "p.npz", x=x, y=y)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    with h5py.File(folder / "p.h5", "w") as file:
        file["x"], file["y"] = x, y


def data(folder, kind):
    if kind == "npy":
        return [f"data.x={folder}/x.npy", f"data.y={folder}/y.npy"]
    return [f"data.path={folder}/p.{kind}"]


def run_config(folder, kind, out, *more, name=None):
    own = [f"out={out}", f"name={name or kind}"]
    return read(composed("train", ["experiment=pairs", *data(folder, kind), *own, *SMALL, *more]))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The run on the .npz file, with its cache in memory."""
    run = run_config(folder, "npz", tmp_path_factory.mktemp("whole"))
    train(run)
    return run.folder


def weights(path):
    return load(path / "bridge.safetensors").state_dict()


def assert_same(one, two):
    assert all(torch.equal(one[key], two[key]) for key in one)


def rows_of(folder):
    """What the run's diagnostics say, but for seconds and where the cache lies."""
    left_out = ("fill_share", "seconds", "cache_mib")
    return [{k: v for k, v in row.items() if k not in left_out} for row in load_run(folder).history]


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        ("npy", torch.no_grad), ("h5", lambda: default_dtype(torch.float64)), ("npz", torch.inference_mode),
        ("npz", lambda: default_dtype(torch.bfloat16)),
    ],
    ids=["npy", "h5 in float64", "npz in inference mode", "npz in bfloat16"],
)  # fmt: skip
def test_the_same_training(whole, folder, tmp_path, kind, inside):
    """Wherever the pairs lie, in weights, scores and diagnostics; torch's default dtype and mode play no part."""
    with inside():
        run = run_config(folder, kind, tmp_path)
        train(run)
    assert_same(weights(whole), weights(run.folder))
    assert rows_of(whole) == rows_of(run.folder)
    assert load_run(run.folder).history[-1]["cache_mib"] * 2**20 == 64 * 24
    assert not list(run.folder.rglob("*.tmp"))


@pytest.mark.nightly
def test_pairs_that_are_left_out(folder, tmp_path):
    """A training goes on, and is evaluated, on the pairs that are kept; a state of before the option is resumed."""
    x, y = arrays()
    x[[5, 300]] = np.nan
    save(tmp_path, x, y)
    run = run_config(tmp_path, "npy", tmp_path, "data.drop_nan=true")
    train(run)
    problem = load_run(run.folder).problem
    assert problem.sizes == {"train": N - 2 - 2 * 60, "val": 60, "test": 60}
    assert torch.equal(problem.pairs("test").x, run.problem.pairs("test").x)
    assert train(run_config(tmp_path, "npy", tmp_path, "data.drop_nan=true", "resume=true"))
    older = run_config(folder, "npy", tmp_path, "resume=true")
    assert "drop_nan" in one_line(lambda: train(older))
    assert "problem.drop_nan" not in older.fingerprint()
    assert_same(weights(run.folder), csb.fit(x, y, **FIT, drop_nan=True).bridge.state_dict())


def test_half_precision_is_near_and_half(whole, folder, tmp_path):
    run = run_config(folder, "npz", tmp_path, "training.cache_dtype=float16")
    train(run)
    one, two = weights(whole), weights(run.folder)
    assert any(not torch.equal(one[key], two[key]) for key in one)
    assert all(torch.allclose(one[key], two[key], atol=5e-3) for key in one)  # rates of 1e-3 over 20 steps
    assert load_run(run.folder).history[-1]["cache_mib"] * 2**20 == 64 * (8 + 8)


@pytest.mark.nightly
def test_stages_train_on_rows(whole, folder, tmp_path):
    """The score's twin, the flow, a denoiser and a student of a bridge: .npz, .npy in inference mode, another dtype."""
    few = ["conditional.steps=4", "denoiser.steps=4", "distil.steps=2", "distil.batch_size=8", "distil.trajectories=8",
           "distil.calls=[1]"]  # fmt: skip
    found = []
    for kind, dtype in (("npz", torch.float32), ("npy", torch.float32), ("npz", torch.float64)):
        out = tmp_path / f"{kind} {dtype}"

        def stage(*more, kind=kind, out=out):
            return read(
                composed("train", [*SMALL, *few, *data(folder, kind), "experiment=pairs", f"out='{out}'", *more])
            )

        with default_dtype(dtype), torch.inference_mode(kind == "npy"):
            stage_job(stage("stage=flow"))
            flow = load_stage(out / "pairs", "flow")
            run = stage("stage=denoiser")
            prior = denoiser(run.problem, run.plain, run.folder, 0, False, False)
            stage_job(stage("stage=distil", f"run='{whole}'", f"distil.out='{out / 'student'}'"))
            student = load_stage(out / "student", "distil")
        found.append([module.state_dict() for module in (flow, prior, student)])
        assert flow_sampler(flow, "euler", N=2).sample(torch.zeros(1, 1), 3).x.shape == (1, 3, 2)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert_same(one, two)


def test_other_pairs_than_a_run_was_trained_on(tmp_path):
    """Fewer, or as many with another y for the same x: one digest, whoever reads them."""
    x, y = arrays()
    save(tmp_path, x, y)
    run = run_config(tmp_path, "npy", tmp_path, "training.last_forward=false")
    train(run)
    resume = ["training.last_forward=false", "resume=true"]
    held = load_run(run.folder).problem
    assert held.x == str((tmp_path / "x.npy").absolute())
    expected = held.pairs("test", 3)
    save(tmp_path, x[:500], y[:500])
    message = one_line(lambda: load_run(run.folder).problem.pairs("test", 1))
    assert "holds 500 pairs and held 600 when the run was trained" in message
    message = one_line(lambda: train(run_config(tmp_path, "npy", tmp_path, *resume)))
    assert "was trained with problem.length=600, not 500" in message
    save(tmp_path, x, -y)
    other = load_run(run.folder).problem
    for action in (lambda: other.pairs("test", 1), other.prepare, lambda: other.rows("train")):
        assert "holds other pairs than when the run was trained" in one_line(action)
    message = one_line(lambda: train(run_config(tmp_path, "npy", tmp_path, *resume)))
    assert "was trained on other pairs" in message
    score = dataclasses.replace(run_config(tmp_path, "npy", tmp_path), stage="score")
    assert "holds a bridge of other pairs" in one_line(lambda: stage_job(score))
    assert not (run.folder / "score.safetensors").exists()
    save(tmp_path, x, y)
    assert torch.equal(load_run(run.folder).problem.pairs("test", 3).y, expected.y)


def test_a_state_without_a_digest_goes_on(folder, tmp_path, monkeypatch):
    """As older versions wrote it, with a path relative to the working directory."""
    save(tmp_path, *arrays())
    run = run_config(tmp_path, "npy", tmp_path, "training.last_forward=false")
    result = train(run)
    path = run.folder / "state.safetensors"
    state = load_state(path)
    del state["fingerprint"]["problem.digest"]
    state["fingerprint"] |= {f"problem.{name}": f"{name}.npy" for name in "xy"}
    save_state(path, state)
    monkeypatch.chdir(tmp_path)
    again = run_config(tmp_path, "npy", tmp_path, "training.last_forward=false", "resume=true")
    assert train(again) == result
    monkeypatch.chdir(tmp_path.parent)
    assert "was trained with problem.x=" in one_line(lambda: train(again))


def test_rows_are_never_all_in_memory(tmp_path, monkeypatch):
    """20,000 pairs: what is read at once, and how often."""
    x, y = arrays(20_000)
    save(tmp_path, x, y)
    taken, take = [], Source.take

    def counted(self, rows, names=("x", "y")):
        found = take(self, rows, names)
        if not self.in_memory:
            taken.append((isinstance(rows, slice), len(found[0])))
        return found

    monkeypatch.setattr(Source, "take", counted)
    monkeypatch.setattr("csb.problems.rows._POOL", 1000)  # in place of 100,000
    train(run_config(tmp_path, "npy", tmp_path, "training.patience=0"))
    passes, picked = ([n for block, n in taken if block is kind] for kind in (True, False))
    assert sum(passes) == 2 * 20_000  # the check, and mean and standard deviation
    assert max(passes) == 8192
    assert max(picked) == 2000  # validation pairs for diagnostics
    needed = 2000 + 3 * 1000 + (8 + 6) * 256 + 2 * 64 + 2 * 1000  # the last of observations to be checked against
    assert sum(picked) < needed + 100


@pytest.mark.slow
def test_a_million_pairs_take_bounded_memory(command):
    """The benchmark: a gibibyte in .npy files, read by rows, and the same in an .npz file, in memory."""
    done = command("suite=memory", "steps=5", script="scripts/benchmark.py", timeout=1800)
    assert done.code == 0, done.err
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if "│" in line]
    (_, npy, npz) = [{"files": float(row[2]), "above": float(row[4])} for row in cells]
    assert npy["files"] == pytest.approx(1e6 * 128 * 8 / 2**20, rel=1e-3)
    assert npy["above"] < 0.5 * npy["files"]
    assert npz["above"] > 1.2 * npz["files"]
