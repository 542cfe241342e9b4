"""The amortized baselines that go with a run: a conditional score and a flow, trained and kept beside the bridge.

``python train.py experiment=… stage=score`` (or ``flow``) writes ``score.safetensors`` into the run's folder, which may
hold a bridge or not. They are made of the bridge's network and pairs and take as many optimiser steps. To use one:

    score = csb.load("outputs/mnist_inpaint/score.safetensors")
    samples = csb.samplers.score_sampler(score, "dpmpp", T=10).sample(y, 64)

and likewise with "flow" and :func:`csb.samplers.flow_sampler`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from csb.bridge.checkpoint import load
from csb.dtypes import default_device
from csb.errors import CSBError, is_one_of
from csb.files import model_file, remove_leftovers
from csb.networks.diffusion import CONDITIONAL, ConditionalSpec, FlowNetwork, ScoreNetwork, build_conditional
from csb.problems import Problem, Transform, build_problem
from csb.runs.config import RunConfig, flatten
from csb.runs.load import stored_spec
from csb.runs.logs import Logs
from csb.runs.train import record, setup_of
from csb.training.fit import with_gradients
from csb.training.pairs import encoded
from csb.training.regression import state_file, train_conditional


def _fingerprint(run: RunConfig, spec: ConditionalSpec) -> dict[str, Any]:
    """What a resumed training must have in common with the one it continues, as dotted names."""
    own = {k: v for k, v in vars(run.conditional).items() if k not in ("checkpoint_every", "alpha_bar_end")}
    shared = {"problem": run.problem.record(), "seed": run.seed, "optimizer": vars(run.optimizer), "conditional": own}
    return flatten({**spec.plain(), **shared})


@with_gradients()
def train_stage(run: RunConfig) -> None:
    """stage=score or stage=flow: trains the model into the run's folder, or continues.

    CSBError for a state of other settings, missing data, a full disk, a diverging loss.
    """
    remove_leftovers(run.folder, run.stage)
    run.problem.prepare()
    rows = run.problem.rows("train")
    transform = run.problem.make_transform(rows)
    spec = run.conditional_spec(run.stage, transform)
    model = build_conditional(spec, run.seed)
    model.transform.load_state_dict(transform.state_dict())
    record(run, resumed=run.resume and state_file(run.folder, run.stage).exists())
    logs, status = Logs(run.logger, run.folder, run.plain), "failed"
    try:
        setup = setup_of(run, _fingerprint(run, spec), logs)
        train_conditional(model, encoded(transform, rows), run.conditional, setup, run.resume)
        status = "success"
    finally:
        logs.close(status)


class Baseline(NamedTuple):
    """A trained score or flow.

    Attributes:
        model: for :func:`csb.samplers.score_sampler` or :func:`csb.samplers.flow_sampler`.
        transform: the model's, between (x, y) and (z, c).
        problem: on which it was trained.
        about: plain data: "problem", "config", "versions", the training's "seconds" and optimiser "steps".
    """

    model: ScoreNetwork | FlowNetwork
    transform: Transform
    problem: Problem
    about: dict[str, Any]


def load_baseline(folder: str | Path, kind: str, device: str | torch.device | None = None) -> Baseline:
    """The score or flow in a run's folder, on a device: by default a GPU where there is one, else the CPU.

    Args:
        folder: that ``stage=score`` or ``stage=flow`` wrote into.
        kind: "score" or "flow".

    Raises:
        CSBError: an unknown kind, no such file, a damaged file or one of another kind.
    """
    if not is_one_of(kind, CONDITIONAL):
        raise CSBError(f"baseline {kind!r} is unknown; choose one of {', '.join(CONDITIONAL)}")
    path = model_file(folder, kind)
    if not path.is_file():
        raise CSBError(f"{folder} holds no {path.name}; train it with csb train … stage={kind}")
    model = load(path, device or default_device(), CONDITIONAL[kind])
    return Baseline(model, model.transform, build_problem(stored_spec(model.about["problem"], path)), model.about)
