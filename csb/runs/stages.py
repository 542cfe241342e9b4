"""The stages of a training that are not the bridge, kept beside it: denoiser, baselines and the distilled sampler.

``csb train experiment=… stage=score`` (or ``flow``, ``meanflow``, ``consistency``) trains an amortized baseline of the
bridge's network and pairs, in as many optimiser steps, into ``score.safetensors`` (of ``consistency``:
``consistency_training.safetensors``) of the run's folder, which may hold a bridge or not. ``csb train experiment=…
stage=distil run=…`` fits a sampler of few network calls to a finished bridge, into ``consistency.safetensors``. To use
them:

    score = csb.load("outputs/mnist_inpaint/score.safetensors")
    samples = csb.samplers.score_sampler(score, "dpmpp", T=10).sample(y, 64)
    student = csb.load("outputs/two_moons/consistency.safetensors")
    samples = csb.samplers.ConsistencySampler(student, calls=1).sample(y, 1000)

and likewise with "flow" and :func:`csb.samplers.flow_sampler`, "meanflow" and :class:`csb.samplers.MeanFlowSampler`,
"consistency_training" and :class:`csb.samplers.MultistepConsistency`. ``csb evaluate run=…`` compares the distilled
sampler with its bridge.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csb.bridge import Bridge, load
from csb.bridge.student import GENERATOR, Student, StudentSpec, automatic_law, build_student, warm_start
from csb.dtypes import default_device
from csb.errors import CSBError
from csb.files import checksum, model_file, remove_leftovers
from csb.networks.diffusion import (
    CONDITIONAL,
    ConditionalSpec,
    Denoiser,
    DenoiserSpec,
    MixtureDenoiser,
    NetworkDenoiser,
    ScoreNetwork,
    StationaryDenoiser,
    build_conditional,
    build_denoiser,
)
from csb.problems import (
    PROBLEMS,
    FilePairs,
    GaussianMixture,
    LinearGaussian,
    Mixture,
    MixtureClass,
    Problem,
    RandomField,
    SbiGaussianLinear,
)
from csb.problems.rows import Rows, pool
from csb.problems.scale import ROWS, Moments, bulk, columns
from csb.problems.sources import same_problem
from csb.runs.config import RunConfig, schedule_of
from csb.runs.folder import (
    check_folder,
    record,
    require_same_pairs,
    setup_of,
    stage_files,
    versions,
    write_provenance,
    writing,
)
from csb.runs.load import Run, load_run, stored_spec
from csb.runs.logs import Logs
from csb.runs.recipe import AUTO, DISTIL, flatten
from csb.samplers import ConsistencySampler
from csb.training.distil import cache_size, check_patches, train_student
from csb.training.fit import with_gradients
from csb.training.pairs import EncodedPairs, encoded
from csb.training.regression import train_by_regression
from csb.training.settings import DenoiserSettings, DeviceSettings, OptimizerSettings
from csb.training.stage import Setup

logger = logging.getLogger(__name__)


def exact_denoiser(problem: Problem) -> Denoiser | None:
    """The denoiser in closed form, or None where there is none."""
    if isinstance(problem, GaussianMixture | MixtureClass | SbiGaussianLinear):
        return MixtureDenoiser(problem.mixture)
    if isinstance(problem, LinearGaussian):
        return MixtureDenoiser(Mixture.isotropic(problem.dx, 1.0))
    if isinstance(problem, RandomField):
        return StationaryDenoiser(problem.spectrum, problem.x_shape)
    return None


def new_denoiser(
    problem: Problem, network: dict[str, Any], data: Rows, alpha_bar_end: float, seed: int
) -> NetworkDenoiser:
    """An untrained denoiser for the x of data: pixels from [0, 1] to [−1, 1], of all else the bulk to unit scale."""
    if kinds := getattr(problem, "kinds", None):
        raise CSBError(f"kinds={list(kinds)} are not known to denoisers, whose x are real numbers; leave kinds out")
    shift, scale = (torch.full(problem.x_shape, 0.5), 0.5) if problem.is_pixels else _shift_and_scale(data)
    denoiser = build_denoiser(
        DenoiserSpec(network=network, x_shape=problem.x_shape, scale=scale, alpha_bar_end=alpha_bar_end), seed
    )
    denoiser.shift.copy_(shift)
    return denoiser


def _shift_and_scale(data: Rows) -> tuple[Tensor, float]:
    """Of x: the mean of each number and the root mean square of their standard deviations.

    Where those of a column or channel do not fit its bulk, its median and the width of the bulk.
    """
    numbers, parts = Moments(), Moments()
    for block in data.blocks():
        numbers.update(block.x.flatten(1))
        parts.update(block.x)
    head = data.head(min(ROWS, pool(data.x_shape, data.y_shape))).x
    centre, spread = (v.view(-1, *[1] * (len(data.x_shape) - 1)) for v in bulk(columns(head), parts.mean, parts.std))
    far = spread != parts.std.view_as(spread)
    shift = torch.where(far, centre, numbers.mean.view(data.x_shape))
    std = torch.where(far, spread, numbers.std.view(data.x_shape))
    return shift, float(std.square().mean().sqrt())


@with_gradients()
def train_stage(problem: Problem, config: dict[str, Any], folder: Path, seed: int, resume: bool, bar: bool) -> Denoiser:
    """Trains the denoiser of a problem into ``folder/denoiser.safetensors``, or continues; nothing where it is exact.

    ``config`` is the whole configuration of a training, checked, as plain data.
    """
    if (exact := exact_denoiser(problem)) is not None:
        logger.info("the denoiser of %s is known in closed form; there is nothing to train", problem.name)
        return exact
    network = {"name": config["network"]["name"], **(config["network"].get("options") or {})}
    own = DenoiserSettings.read(config["denoiser"])
    optimizer = OptimizerSettings.read(config["optimizer"])
    device, schedule = DeviceSettings.read(config["trainer"]), schedule_of(config["schedule"])
    problem.prepare()
    remove_leftovers(folder, "denoiser")
    rows = problem.rows("train")
    denoiser = new_denoiser(problem, network, rows, own.alpha_bar_end, seed)
    groups = {name: config[name] for name in ("schedule", "optimizer", "denoiser")}
    groups["trainer"] = device.fingerprint()
    fingerprint = flatten({"problem": problem.record(), "network": network, "seed": seed, **groups})
    del fingerprint["denoiser.checkpoint_every"]  # the training does not depend on it
    about = {"problem": problem.record(), "config": config, "versions": versions()}
    resumed = resume and model_file(folder, "denoiser_state").exists()
    write_provenance(folder, "denoiser", problem, device.where, device.precision, seed, config, resumed)
    setup = Setup(folder, optimizer, device, seed, fingerprint, about, bar=bar)
    long = schedule.replace(alpha_bar_end=denoiser.alpha_bar_end)
    train_by_regression(denoiser, _states(denoiser, rows), long, own, setup, resume)
    return denoiser


def _states(denoiser: Denoiser, rows: Rows) -> EncodedPairs:
    """The states of x alone, without observations."""
    shift, scale = denoiser.shift.cpu().clone(), denoiser.scale

    def encode(x: Tensor, y: Tensor | None = None) -> Tensor:
        return (x - shift) / scale

    return EncodedPairs(rows, denoiser.x_shape, encode, lambda y: y.new_empty(len(y), 0))


def stored_denoiser(problem: Problem, folder: Path, device: str | torch.device) -> Denoiser | None:
    """The exact denoiser, or the one trained into the folder, or None.

    A denoiser knows nothing of observations: that of another problem with the same prior, e.g. any on MNIST, will do.
    CSBError where it is of another prior.
    """
    if (exact := exact_denoiser(problem)) is not None:
        return exact
    path = model_file(folder, "denoiser")
    if not path.exists():
        return None
    denoiser = load(path, device, NetworkDenoiser)
    about = denoiser.about
    name = stored_spec(about["problem"], path)["name"]
    other = PROBLEMS.get(name)
    shared = other is not None and other.shared_prior != "" and other.shared_prior == problem.shared_prior
    if not (name == problem.name or shared) or denoiser.x_shape != problem.x_shape:
        raise CSBError(f"{path} is a denoiser of {name}, not {problem.name}; remove it")
    if name == problem.name:
        require_same_pairs(folder, about, problem)
    return denoiser


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


@contextmanager
def _recorded(run: RunConfig, spec: ConditionalSpec | StudentSpec, own: dict[str, Any], **more: Any) -> Iterator[Setup]:
    """Inside, the training of a stage goes on, with a log. ``own``: what a resumed one must have in common beside."""
    shared = {"problem": run.problem.record(), "seed": run.seed, "optimizer": vars(run.optimizer)}
    _, state = stage_files(run.folder, run.stage)
    record(run, run.resume and state.exists(), **more)
    with Logs(run.logger, run.folder, run.plain) as logs:
        yield setup_of(run, flatten({**spec.plain(), **shared, **own}), logs, **more)


def _amortize(run: RunConfig) -> None:
    """The stage of a conditional model."""
    rows = run.problem.rows("train")
    transform = run.problem.make_transform(rows)
    spec = run.conditional_spec(run.stage, transform)
    model = build_conditional(spec, run.seed)
    model.transform.load_state_dict(transform.state_dict())
    own = {k: v for k, v in vars(run.conditional).items() if k not in ("checkpoint_every", "alpha_bar_end")}
    with _recorded(run, spec, {"conditional": own}) as setup:
        schedule = model.schedule if isinstance(model, ScoreNetwork) else None
        train_by_regression(
            model, encoded(transform, rows, run.training.missing), schedule, run.conditional, setup, run.resume
        )


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
    cache_size(found.bridge, run.distil, run.training.missing)
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
        pairs = encoded(bridge.transform, run.problem.rows("train"), run.training.missing)
        train_student(student, bridge, pairs, run.distil, setup, run.resume)


def load_stage(folder: str | Path, stage: str, device: str | torch.device | None = None) -> Any:
    """The model of a stage in a folder: "denoiser", "score", "flow", "meanflow", "consistency" or "distil".

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
