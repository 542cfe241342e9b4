"""The stages score and flow, through the command line: files, what they hold, resuming, refusals."""

import signal

import pytest
import torch
from conftest import Hook

from csb.bridge.checkpoint import load
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.networks.diffusion import FlowNetwork, ScoreNetwork
from csb.process import Power, seeded
from csb.runs.amortized import load_baseline
from csb.runs.config import read
from csb.runs.lock import FILE
from csb.samplers import flow_sampler, score_sampler
from tests.conftest import checked

OVERRIDES = ["conditional.batch_size=32", "conditional.checkpoint_every=10"]


def weights(path):
    return load(path).state_dict()


@pytest.fixture(scope="module")
def folder(command, tiny, tmp_path_factory):
    """A run's folder with a score and a flow, and no bridge."""
    folder = tmp_path_factory.mktemp("conditional")
    for stage in ("score", "flow"):
        done = command(*tiny, *OVERRIDES, f"stage={stage}", f"out={folder}", "name=run")
        assert done.code == 0, done.err
    return folder / "run"


def test_the_files(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        FILE,
        "flow.safetensors",
        "provenance.json",
        "score.safetensors",
    ]


@pytest.mark.parametrize(("kind", "cls"), [("score", ScoreNetwork), ("flow", FlowNetwork)])
def test_what_is_loaded(folder, kind, cls):
    model, transform, problem, about = load_baseline(folder, kind, "cpu")
    assert type(model) is cls
    assert model.transform is transform
    assert (problem.name, transform.name) == ("two_moons", "reflect")
    torch.testing.assert_close(transform.x_mean, problem.pairs("train").x.mean(0), rtol=1e-3, atol=1e-4)
    assert about["steps"] == 12 + 3 * 10  # of all the bridge's half-steps
    assert about["config"]["stage"] == kind
    assert set(about["versions"]) == {"csb", "python", "torch", "lightning", "numpy", "scipy"}
    assert model.spec.network == {"name": "mlp", "width": 16, "depth": 1}
    if kind == "score":
        assert model.schedule == Power(1e-4, 4.0)


def test_samplers_of_what_is_loaded(folder):
    score, flow = (load_baseline(folder, kind, "cpu").model for kind in ("score", "flow"))
    y = torch.tensor([[0.1, 0.2], [0.0, -0.3]])
    for sampler, calls in ((score_sampler(score, "dpmpp", 4), 4), (flow_sampler(flow, "heun", 2), 4)):
        found = sampler.sample(y, 3, seeded(1))
        assert found.x.shape == (2, 3, 2)
        assert found.info.forward_evaluations == calls


@pytest.mark.parametrize(
    ("kind", "hook"),
    [
        ("score", Hook("csb.training.module.NetworkModule.training_step", 17)),
        ("flow", Hook("csb.training.stage.save_progress", 3)),
        ("score", Hook("csb.training.regression.save", 1)),
    ],
    ids=["in a step", "before a state", "before the file"],
)
def test_a_killed_training_goes_on_bit_for_bit(command, tiny, folder, tmp_path, kind, hook):
    arguments = (*tiny, *OVERRIDES, f"stage={kind}", f"out={tmp_path}", "name=run")
    assert command(*arguments, hooks=[hook]).code == -signal.SIGKILL
    assert f"{kind}.safetensors was begun; continue with resume=true, or choose overwrite=true" in refuse(*arguments)
    if kind == "flow":
        other = command(*arguments, "resume=true", "optimizer.lr=0.5")
        assert other.code == 2
        assert "was trained with conditional.lr=0.002, not 0.5" in other.err
    done = command(*arguments, "resume=true")
    assert done.code == 0, done.err
    whole, again = weights(folder / f"{kind}.safetensors"), weights(tmp_path / "run" / f"{kind}.safetensors")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == sorted(
        [FILE, f"{kind}.safetensors", "provenance.json"]
    )


def refuse(*arguments):
    with pytest.raises(CSBError) as error:
        checked("train", *arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=nope"], "stage='nope' is unknown; choose one of bridge, denoiser, score, flow"),
        (["conditional.steps=0"], "conditional.steps=0 is not possible"),
        (["conditional.lr=-1"], "conditional.lr=-1 is not possible"),
        (["conditional.alpha_bar_end=1"], "conditional.alpha_bar_end=1 is not possible"),
        (["+amortized.foo=1"], "foo"),
        (["~conditional.steps"], "steps"),
        (["experiment=linear_gaussian", "stage=score"], "network=affine has maps for 10 steps and stage=score"),
        (["-m", "T=3,4", "stage=flow"], "stage=flow, evaluate=False cannot be swept over"),
    ],
    ids=" ".join,
)
def test_settings_are_checked_before_any_work(tmp_path, arguments, message):
    assert message in refuse(*arguments, f"out={tmp_path}/new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there(folder):
    arguments = [f"out={folder.parent}", "name=run", "stage=score"]
    assert "score.safetensors is there already; choose overwrite=true" in refuse(*arguments)
    checked("train", *arguments, "overwrite=true")


def test_the_score_follows_the_schedule_of_the_run():
    arguments = ["schedule=linear", "stage=score", "conditional.alpha_bar_end=1e-3", "conditional.steps=5"]
    run = read(composed("train", arguments))
    spec = run.conditional_spec("score", run.problem.new_transform())
    assert spec.schedule == {"name": "linear", "alpha_bar_end": 1e-3, "beta_min": 0.1}
    assert run.conditional_spec("flow", run.problem.new_transform()).schedule is None
    assert (run.conditional.steps, run.conditional.batch_size) == (5, run.training.batch_size)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nope", "baseline 'nope' is unknown; choose one of score, flow"),
        ("flow", "holds no flow.safetensors; train it with"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, kind, message):
    with pytest.raises(CSBError, match=message):
        load_baseline(tmp_path, kind)


def test_a_file_of_another_kind(folder, tmp_path):
    (tmp_path / "flow.safetensors").write_bytes((folder / "score.safetensors").read_bytes())
    with pytest.raises(CSBError, match=r"flow.safetensors holds a ScoreNetwork, not a FlowNetwork; give another file"):
        load_baseline(tmp_path, "flow")
    (tmp_path / "flow.safetensors").write_bytes((folder / "score.safetensors").read_bytes()[:-100])
    with pytest.raises(CSBError, match=r"flow.safetensors is damaged or not a csb file"):
        load_baseline(tmp_path, "flow")
