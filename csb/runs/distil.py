"""Distillation of a finished bridge into a sampler of few network calls: stage=distil.

``python train.py experiment=two_moons stage=distil run=outputs/two_moons`` writes ``consistency.safetensors`` beside
the bridge. To use it:

    student = csb.load("outputs/two_moons/consistency.safetensors")
    samples = csb.samplers.ConsistencySampler(student, calls=1).sample(y, 1000)

and ``csb evaluate run=outputs/two_moons`` compares it with the bridge.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from csb.bridge import Bridge, load
from csb.bridge.student import GENERATOR, Student, StudentSpec, automatic_law, build_student, warm_start
from csb.dtypes import default_device
from csb.errors import CSBError
from csb.files import SUFFIX, checksum, model_file, remove_leftovers
from csb.problems import Problem, Transform, build_problem
from csb.problems.specs import same_problem
from csb.runs.config import RunConfig, flatten
from csb.runs.load import Run, load_run, stored_spec
from csb.runs.logs import Logs
from csb.runs.recipe import AUTO
from csb.runs.train import record, require_same_pairs, setup_of
from csb.samplers import ConsistencySampler
from csb.training.distil import NAME, cache_size, train_student
from csb.training.fit import with_gradients
from csb.training.pairs import encoded
from csb.training.regression import state_file
from csb.training.scoring import check_patches


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


@with_gradients()
def train_stage(run: RunConfig) -> None:
    """stage=distil: fits the student and writes ``consistency.safetensors``, or continues.

    CSBError as :func:`teacher`, and for a state of other settings, missing data, a full disk, a diverging loss.
    """
    source = teacher(run)
    bridge = source.bridge
    assert run.teacher is not None
    remove_leftovers(run.folder, NAME)
    run.problem.prepare()
    require_same_pairs(source.folder, source.about, run.problem)
    pairs = encoded(bridge.transform, run.problem.rows("train"))
    spec = student_spec(run, bridge)
    student = build_student(spec, run.seed)
    student.transform.load_state_dict(bridge.transform.state_dict())
    warm_start(student, bridge.backward_kernel)
    of = checksum(model_file(run.teacher, "bridge"))
    record(run, resumed=run.resume and state_file(run.folder, NAME).exists(), bridge=of)
    own = {k: v for k, v in vars(run.distil).items() if k not in ("checkpoint_every", "out")}
    shared = {"problem": run.problem.record(), "seed": run.seed, "optimizer": vars(run.optimizer), "distil": own}
    logs, status = Logs(run.logger, run.folder, run.plain), "failed"
    try:
        setup = setup_of(run, flatten({**spec.plain(), **shared, "run": of}), logs, bridge=of)
        train_student(student, bridge, pairs, run.distil, setup, run.resume)
        status = "success"
    finally:
        logs.close(status)


class Consistency(NamedTuple):
    """A distilled student.

    Attributes:
        student: for :class:`csb.samplers.ConsistencySampler`.
        transform: between (x, y) and (z, c).
        problem: of the bridge.
        about: plain data: "problem", "config", "versions", "bridge" (the checksum of the bridge's file), the training's
            "seconds" and optimiser "steps".
    """

    student: Student
    transform: Transform
    problem: Problem
    about: dict[str, Any]


def load_consistency(folder: str | Path, device: str | torch.device | None = None) -> Consistency:
    """The student in a folder, on a device: by default a GPU where there is one, else the CPU.

    Raises CSBError where there is none, or its file is damaged or of another kind.
    """
    path = model_file(folder, NAME)
    if not path.is_file():
        raise CSBError(f"{folder} holds no {path.name}; make it with csb train … stage=distil run={folder}")
    student = load(path, device or default_device(), Student)
    reported = student.about
    return Consistency(student, student.transform, build_problem(stored_spec(reported["problem"], path)), reported)


def student_sampler(run: Run, calls: int, batch_size: int) -> ConsistencySampler:
    """The sampler of a run's student in a number of network calls.

    CSBError where the run has no student, its student is of another bridge, or was not fitted for that many calls.
    """
    samplers = students_of(run)
    if not samplers:
        raise CSBError(f"{run.folder} holds no {NAME}{SUFFIX} for calls={calls}; make it with csb train … stage=distil")
    return ConsistencySampler(next(iter(samplers.values())).model, calls, batch_size)


def students_of(run: Run) -> dict[int, ConsistencySampler]:
    """The samplers of a run's student by their number of calls; none where it has no student.

    CSBError where the bridge was trained again since.
    """
    path = model_file(run.folder, NAME)
    if not path.exists():
        return {}
    found = load_consistency(run.folder, run.bridge.device)
    if found.about.get("bridge") != checksum(model_file(run.folder, "bridge")):
        raise CSBError(f"{path} is a student of another bridge than that beside it; distil again, overwrite=true")
    return {calls: ConsistencySampler(found.student, calls) for calls in found.student.spec.calls}


__all__ = [
    "Consistency", "ConsistencySampler", "load_consistency", "student_sampler", "students_of", "teacher", "train_stage"
]  # fmt: skip
