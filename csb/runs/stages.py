"""The stages of a training that are not the bridge, kept beside it: denoiser, score, flow and the distilled sampler.

``csb train experiment=… stage=score`` (or ``flow``) trains an amortized baseline of the bridge's network and pairs, in
as many optimiser steps, into ``score.safetensors`` of the run's folder, which may hold a bridge or not. ``csb train
experiment=… stage=distil run=…`` fits a sampler of few network calls to a finished bridge, into
``consistency.safetensors``. To use them:

    score = csb.load("outputs/mnist_inpaint/score.safetensors")
    samples = csb.samplers.score_sampler(score, "dpmpp", T=10).sample(y, 64)
    student = csb.load("outputs/two_moons/consistency.safetensors")
    samples = csb.samplers.ConsistencySampler(student, calls=1).sample(y, 1000)

and likewise with "flow" and :func:`csb.samplers.flow_sampler`. ``csb evaluate run=…`` compares the distilled sampler
with its bridge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from csb.bridge import Bridge, load
from csb.bridge.student import GENERATOR, Student, StudentSpec, automatic_law, build_student, warm_start
from csb.dtypes import default_device
from csb.errors import CSBError
from csb.files import checksum, model_file, remove_leftovers
from csb.networks.diffusion import CONDITIONAL, ConditionalSpec, NetworkDenoiser, ScoreNetwork, build_conditional
from csb.problems import FilePairs
from csb.problems.specs import same_problem
from csb.runs import provenance
from csb.runs.config import RunConfig
from csb.runs.denoiser import train_stage
from csb.runs.folder import check_folder, require_same_pairs, stage_files, writing
from csb.runs.load import Run, load_run, stored_spec
from csb.runs.logs import Logs
from csb.runs.recipe import AUTO, DISTIL, flatten
from csb.samplers import ConsistencySampler
from csb.training.distil import cache_size, check_patches, train_student
from csb.training.fit import with_gradients
from csb.training.pairs import encoded
from csb.training.regression import train_by_regression
from csb.training.stage import Setup

_MODELS: dict[str, Any] = {"denoiser": NetworkDenoiser, **CONDITIONAL, DISTIL: Student}


@with_gradients()
def stage_job(run: RunConfig) -> None:
    """Train the model of a stage into the run's folder, or continue.

    Raises:
        CSBError: a folder that cannot be written or holds the model or a bridge of other pairs, a state of other
            settings, missing data, a full disk, a diverging loss; as :func:`teacher`.
    """
    check_folder(run)
    path, _ = stage_files(run.folder, run.stage)
    with writing(run.folder):
        beside = model_file(run.folder, "bridge")
        if beside.exists() and isinstance(run.problem, FilePairs):
            require_same_pairs(run.folder, load(beside, of=Bridge).about, run.problem)
        if run.stage == "denoiser":
            train_stage(run.problem, run.plain, run.folder, run.seed, run.resume, run.progress)
            return
        remove_leftovers(run.folder, path.stem)
        run.problem.prepare()
        (_distil if run.stage == DISTIL else _amortize)(run)


def record(run: RunConfig, resumed: bool, **more: Any) -> None:
    """Write what the run's stage is made with beside its results; see :func:`csb.runs.provenance.record`."""
    where, precision = run.device.where, run.device.precision
    provenance.record(
        run.folder, run.stage, run.problem, where, precision, run.seed, run.plain, resumed=resumed, **more
    )


def setup_of(run: RunConfig, fingerprint: dict[str, Any], logs: Logs, **more: Any) -> Setup:
    """What :mod:`csb.training` is given of a run; ``more`` goes with the trained model."""
    about = {"problem": run.problem.record(), "config": run.plain, "versions": provenance.versions(), **more}
    return Setup(run.folder, run.optimizer, run.device, run.seed, fingerprint, about, logs.metrics, run.progress)


@contextmanager
def _recorded(run: RunConfig, spec: ConditionalSpec | StudentSpec, own: dict[str, Any], **more: Any) -> Iterator[Setup]:
    """Inside, the training of a stage goes on, with a log. ``own``: what a resumed one must have in common beside."""
    shared = {"problem": run.problem.record(), "seed": run.seed, "optimizer": vars(run.optimizer)}
    _, state = stage_files(run.folder, run.stage)
    record(run, run.resume and state.exists(), **more)
    with Logs(run.logger, run.folder, run.plain) as logs:
        yield setup_of(run, flatten({**spec.plain(), **shared, **own}), logs, **more)


def _amortize(run: RunConfig) -> None:
    """stage=score or stage=flow."""
    rows = run.problem.rows("train")
    transform = run.problem.make_transform(rows)
    spec = run.conditional_spec(run.stage, transform)
    model = build_conditional(spec, run.seed)
    model.transform.load_state_dict(transform.state_dict())
    own = {k: v for k, v in vars(run.conditional).items() if k not in ("checkpoint_every", "alpha_bar_end")}
    with _recorded(run, spec, {"conditional": own}) as setup:
        schedule = model.schedule if isinstance(model, ScoreNetwork) else None
        train_by_regression(model, encoded(transform, rows), schedule, run.conditional, setup, run.resume)


def student_spec(run: RunConfig, bridge: Bridge) -> StudentSpec:
    """The description of the student of a bridge, made of the bridge's backward network."""
    kernel, own, transform = bridge.spec.backward, run.distil, bridge.transform
    law = automatic_law(transform.z_shape) if own.law == AUTO else own.law
    return StudentSpec(
        alpha_bar=bridge.spec.alpha_bar, transform=transform.spec(), network=kernel.network,
        parametrisation=kernel.parametrisation, law=law, calls=own.calls, components=own.components, rank=own.rank,
        noise=own.noise, variance_floor=kernel.variance_floor, precision=run.device.precision,
    )  # fmt: skip


def teacher(run: RunConfig) -> Run:
    """The finished run to distil, checked to fit.

    CSBError where there is none or it is not finished, it is of another problem, or no student of it can be made.
    """
    assert run.teacher is not None
    found = load_run(run.teacher, str(run.device.where))
    of, wanted = stored_spec(found.about["problem"], found.folder), run.problem.spec()
    if not same_problem(of, wanted):
        raise CSBError(f"run={run.teacher} is a bridge of {of}, not of {wanted}; give the experiment=… of run=")
    spec = student_spec(run, found.bridge)
    if spec.law == GENERATOR:
        check_patches(run.distil.patches, found.bridge.transform.z_shape)
    build_student(spec)
    cache_size(found.bridge, run.distil)
    return found


def _distil(run: RunConfig) -> None:
    """stage=distil."""
    source = teacher(run)
    bridge = source.bridge
    require_same_pairs(source.folder, source.about, run.problem)
    spec = student_spec(run, bridge)
    student = build_student(spec, run.seed)
    student.transform.load_state_dict(bridge.transform.state_dict())
    warm_start(student, bridge.backward_kernel)
    of = checksum(model_file(source.folder, "bridge"))
    own = {k: v for k, v in vars(run.distil).items() if k not in ("checkpoint_every", "out")}
    with _recorded(run, spec, {"distil": own, "run": of}, bridge=of) as setup:
        pairs = encoded(bridge.transform, run.problem.rows("train"))
        train_student(student, bridge, pairs, run.distil, setup, run.resume)


def load_stage(folder: str | Path, stage: str, device: str | torch.device | None = None) -> Any:
    """The model of a stage in a folder: "denoiser", "score", "flow" or "distil".

    Its ``about`` holds plain data: "problem", "config", "versions", the training's "seconds" and optimiser "steps", of
    a student "bridge", the checksum of the bridge's file.

    Args:
        folder: which the stage wrote into.
        stage: of the training.
        device: a GPU where there is one, else the CPU, for None.

    Raises:
        CSBError: no such file, a damaged file or one of another kind.
    """
    path, _ = stage_files(Path(folder), stage)
    if not path.is_file():
        raise CSBError(f"{folder} holds no {path.name}; make it with csb train … stage={stage}")
    return load(path, device or default_device(), _MODELS[stage])


def student_of(run: Run) -> Student:
    """The student of a run's bridge. CSBError where there is none, or the bridge was trained again since."""
    student: Student = load_stage(run.folder, DISTIL, run.bridge.device)
    if student.about.get("bridge") != checksum(model_file(run.folder, "bridge")):
        path, _ = stage_files(run.folder, DISTIL)
        raise CSBError(f"{path} is a student of another bridge than that beside it; distil again, overwrite=true")
    return student


def students_of(run: Run) -> dict[int, ConsistencySampler]:
    """The samplers of a run's student by their number of calls; none where it has none. CSBError as above."""
    if not stage_files(run.folder, DISTIL)[0].exists():
        return {}
    student = student_of(run)
    return {calls: ConsistencySampler(student, calls) for calls in student.spec.calls}
