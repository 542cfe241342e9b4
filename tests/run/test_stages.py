"""The stages of baselines and distil: files, what they hold, resuming after a kill, the comparison, refusals."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch

from csb.bridge.checkpoint import load
from csb.bridge.student import TransitionStudent
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.networks.diffusion import ConsistencyNetwork, FlowNetwork, MeanFlowNetwork, ScoreNetwork
from csb.process import Power, seeded
from csb.runs.config import read
from csb.runs.folder import stage_files
from csb.runs.load import load_run, problem_of
from csb.runs.stages import load_stage, stage_job, students_of
from csb.samplers import ConsistencySampler, MeanFlowSampler, MultistepConsistency, flow_sampler, score_sampler
from tests.commands import Hook
from tests.conftest import STAGES, checked, one_line, refused

Y = torch.tensor([[0.1, 0.2], [0.0, -0.3]])


@pytest.mark.parametrize(
    ("stage", "kind", "steps", "sampler", "calls"),
    [
        ("score", ScoreNetwork, 42, lambda score: score_sampler(score, "dpmpp", 4), 4),
        ("flow", FlowNetwork, 42, lambda flow: flow_sampler(flow, "heun", 2), 4),
        ("meanflow", MeanFlowNetwork, 42, lambda model: MeanFlowSampler(model, 2), 2),
        ("consistency", ConsistencyNetwork, 42, lambda model: MultistepConsistency(model, 2), 2),
        ("distil", TransitionStudent, 22, lambda student: ConsistencySampler(student, 2), 2),
    ],
)
def test_what_is_loaded(run_with_stages, stage, kind, steps, sampler, calls):
    """As many steps as all the bridge's half-steps have, 12 + 3 · 10, but for the student."""
    model, bridge = load_stage(run_with_stages, stage, "cpu"), load_run(run_with_stages, "cpu").bridge
    assert type(model) is kind
    assert (model.about["steps"], model.about["config"]["stage"]) == (steps, stage)
    assert model.about["seconds"] > 0
    assert problem_of(model, run_with_stages).name == "two_moons"
    assert model.spec.network == bridge.spec.backward.network
    for name, value in bridge.transform.state_dict().items():
        assert torch.equal(model.transform.state_dict()[name], value)
    found = sampler(model).sample(Y, 3, seeded(1))
    assert found.x.shape == (2, 3, 2)
    assert found.info.forward_evaluations == calls


def test_the_score_follows_the_schedule_of_the_run(run_with_stages):
    assert load_stage(run_with_stages, "score", "cpu").schedule == Power(1e-4, 4.0)
    arguments = ["schedule=linear", "stage=score", "conditional.alpha_bar_end=1e-3", "conditional.steps=5"]
    run = read(composed("train", arguments))
    spec = run.conditional_spec("score", run.problem.new_transform())
    assert spec.schedule == {"name": "linear", "alpha_bar_end": 1e-3, "beta_min": 0.1}
    assert run.conditional_spec("flow", run.problem.new_transform()).schedule is None
    assert (run.conditional.steps, run.conditional.batch_size) == (5, run.training.batch_size)


def test_samples_of_the_student_to_a_file(run_with_stages, tmp_path):
    np.save(tmp_path / "y.npy", Y.numpy())
    given = (f"run={run_with_stages}", f"y={tmp_path}/y.npy", "n=3", f"out={tmp_path}/s.npz")
    checked("sample", *given, "calls=2")()
    expected = ConsistencySampler(load_stage(run_with_stages, "distil", "cpu"), 2).sample(Y, 3, seeded(0))
    assert np.array_equal(np.load(tmp_path / "s.npz")["x"], expected.x.numpy())
    assert "among those that the sampler is fitted for; choose one of 1, 2" in refused("sample", *given, "calls=4")
    message = refused("sample", *given, "sampler.sample_steps=2", "calls=2")
    assert "sampler.sample_steps=2 is for the bridge, and calls=2 for its" in message


def test_it_is_compared_beside_its_bridge_unless_it_is_of_another(run_copy):
    given = (
        f"run={run_copy}", "tables=false", "baselines=none", "metrics.exact_samples=100",
        "metrics.exact_observations=2", "metrics.c2st_samples=0", "metrics.compare_observations=4",
        "metrics.compare_samples=4",
    )  # fmt: skip

    def report():
        checked("evaluate", *given)()
        return json.loads((run_copy / "report.json").read_text())

    first = report()
    found = {m["name"]: m["forward_evaluations"] for m in first["methods"]}
    assert found == {"bridge_run": 3, "consistency_run_1": 1, "consistency_run_2": 2, "exact": 0}
    assert first["warnings"] == []
    shutil.copy(run_copy / "half_steps" / "01_backward.safetensors", run_copy / "bridge.safetensors")
    message = one_line(lambda: students_of(load_run(run_copy, "cpu")))
    assert "is a student of another bridge than that beside it; distil again" in message
    second = report()
    assert [m["name"] for m in second["methods"]] == ["bridge_run", "exact"]
    assert "The distilled sampler is left out: " in second["warnings"][0]


@pytest.mark.parametrize(
    ("stage", "hook", "message"),
    [
        ("score", Hook("csb.training.fit.NetworkModule.training_step", 17), "conditional.lr=0.002"),
        ("flow", Hook("csb.training.stage.save_progress", 3), "conditional.lr=0.002"),
        ("distil", Hook("csb.training.regression.save", 1), "distil.lr=0.001"),
        ("meanflow", Hook("csb.training.fit.NetworkModule.training_step", 25), "conditional.lr=0.002"),
        ("consistency", Hook("csb.training.fit.NetworkModule.training_step", 25), "conditional.lr=0.002"),
    ],
    ids=["in a step", "before a state", "before the file", "of a mean flow", "of consistency training"],
)
def test_a_killed_training_goes_on_bit_for_bit(command, run_with_stages, run_copy, stage, hook, message):
    path, state = stage_files(run_copy, stage)
    path.unlink()
    own = [f"run={run_copy}"] if stage == "distil" else [f"out={run_copy.parent}", "name=run"]
    arguments = (*STAGES, f"stage={stage}", *own)
    assert command(*arguments, hooks=[hook]).code == -signal.SIGKILL
    assert "or begun; continue it with resume=true, or choose overwrite=true" in refused("train", *arguments)
    settings = read(composed("train", [*arguments, "resume=true", f"{message.partition('.')[0]}.lr=0.5"]))
    assert f"was trained with {message}, not 0.5" in one_line(lambda: stage_job(settings))
    done = command(*arguments, "resume=true")
    assert done.code == 0, done.err
    whole, again = load(run_with_stages / path.name).state_dict(), load(path).state_dict()
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    assert not state.exists()
    assert not list(run_copy.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=nope"], "stage='nope' is unknown; choose one of bridge, denoiser, score, flow"),
        (["experiment=linear_gaussian", "stage=score"], "network=affine has maps for 10 steps and stage=score"),
        (["experiment=linear_gaussian", "stage=meanflow"], "network=affine does not embed its time, and 2 times are"),
        (["stage=score", "RUN"], "score.safetensors is there already, or begun; continue it with resume=true, or"),
        (["stage=denoiser", "RUN"], "denoiser.safetensors is there already"),
        (["stage=score", "RUN", "resume=true"], "is there, and no score_state.safetensors to resume from; "),
        (["stage=distil"], "stage=distil lacks run=; give the folder of a finished run"),
        (["stage=distil", "run=nowhere"], "run=nowhere is not a folder; give that of a finished run"),
        (["stage=bridge", "run=RUN"], " is of stage=distil alone; leave it out"),
        (["stage=distil", "run=RUN", "problem.transform=probit"], "not of {'name': 'two_moons', 'n_train': 500"),
        (["stage=distil", "run=RUN", "distil.calls=[1,4]"], "calls=[1, 4] is not possible for a bridge of T=3 steps"),
        (["stage=distil", "run=RUN", "distil.law=generator", "distil.patches=[3]"], "distil.patches has 3, and states"),
        (["stage=distil", "run=RUN", "distil.cache_bytes=3"], "distil.cache_bytes=3 cannot hold one trajectory"),
    ],
    ids=" ".join,
)
def test_settings_are_checked_before_any_work(run_with_stages, tmp_path, arguments, message):
    before = sorted(p.name for p in run_with_stages.iterdir())
    place = [f"out={run_with_stages.parent}", "name=run"] if "RUN" in arguments else [f"out={tmp_path}/new"]
    given = [text.replace("RUN", str(run_with_stages)) for text in arguments if text != "RUN"]
    base = [] if any(text.startswith("experiment") for text in given) else STAGES
    assert message in refused("train", *base, *place, *given)
    assert list(tmp_path.iterdir()) == []
    assert sorted(p.name for p in run_with_stages.iterdir()) == before


def test_what_cannot_be_loaded(run_copy):
    for stage, name, of in (("flow", "flow", "not a FlowNetwork"), ("distil", "consistency", "not a Student")):
        path = run_copy / f"{name}.safetensors"
        shutil.copy(run_copy / "score.safetensors", path)
        for says, change in (
            (f"holds a ScoreNetwork, {of}; give another file", lambda path: path.write_bytes(path.read_bytes()[:-100])),
            ("is damaged or not a csb file", lambda path: path.unlink()),
            (f"holds no {name}.safetensors; make it with csb train … stage={stage}", lambda path: None),
        ):
            with pytest.raises(CSBError, match=re.escape(says)):
                load_stage(run_copy, stage)
            change(path)
    (run_copy / "bridge.safetensors").unlink()
    message = refused("train", *STAGES, "stage=distil", f"run={run_copy}")
    assert "holds no bridge.safetensors (it was interrupted: train again with resume=true)" in message
