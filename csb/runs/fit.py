"""Training from Python: arrays or a problem in, a trained :class:`~csb.runs.result.Run` out; no files of settings."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from torch import nn
from torch.utils.data import Dataset

from csb.bridge import load
from csb.bridge.student import Student
from csb.errors import CSBError
from csb.files import model_file
from csb.networks import NETWORKS, Network
from csb.networks.diffusion import Denoiser, FlowNetwork, ScoreNetwork
from csb.numbers import as_numbers
from csb.problems import FilePairs, Problem, from_dataset
from csb.problems.sources import SCHEME, Held
from csb.runs.config import DISTIL, RunConfig, read
from csb.runs.denoiser import exact_denoiser
from csb.runs.presets import PRESETS, SCHEMAS, merged, own_pairs, preset
from csb.runs.result import Run
from csb.runs.stages import stage_job
from csb.runs.train import Interrupted, train
from csb.samplers import FlowSampler, ScoreSampler, flow_sampler, score_sampler
from csb.schema import Schema, nearest, shown
from csb.training.distil import NAME
from csb.training.fit import with_gradients

Bounds = tuple[Any, Any]
Model = TypeVar("Model", bound=nn.Module)
_TRAINING = ("ipf", "optimizer", "trainer")  # whose settings ``training`` may hold, each key of which is in one of them
_NAME = "arrays"  # of arrays that are given
logger = logging.getLogger(__name__)


@with_gradients()
def fit(
    x: Any = None,
    y: Any = None,
    *,
    problem: Problem | None = None,
    T: int | None = None,
    L: int | None = None,
    network: str | Mapping[str, Any] | type[Network] | None = None,
    schedule: str | Mapping[str, Any] | None = None,
    objective: str | Mapping[str, Any] | None = None,
    bounds: Bounds | None = None,
    names: Sequence[str] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    precision: str = "auto",
    accelerator: str = "auto",
    logger: str | Mapping[str, Any] | None = None,
    progress: bool = True,
    drop_nan: bool = False,
) -> Run:
    """Train a bridge on pairs (x, y): ``csb.fit(x, y).bridge.sample(y_observed, 1000).x`` are draws of p(x | y).

    What is left out follows the data: the network, the noise schedule, the kernels' covariance and the number of
    optimiser steps from the shapes and the number of pairs, as on the command line with ``experiment=pairs``.

    Args:
        x: (N, d) vectors or (N, C, H, W) images to be drawn, N ≥ 100; a tensor, an array, a memory map, a dataset of
            HDF5, a list, or a frame of pandas, whose columns become ``names``. Or a map-style torch Dataset of pairs
            (x, y), without ``y``. Memory maps, datasets of HDF5 and a Dataset are read by rows.
        y: (N, d) or (N, C, H, W), the observations of x in the same order.
        problem: in place of x and y: a problem of :mod:`csb.problems`, or what :func:`csb.problem` returned.
        T: steps of the bridge: network calls of a sample. 10 by default.
        L: iterations, each a backward and a forward half-step. 3 by default, of images 2.
        network: "mlp", "unet" or "affine"; {"name": …, **options}; or a subclass of :class:`csb.networks.Network`.
        schedule: "auto", "linear", "cosine" or "power"; or {"name": …, **options}.
        objective: a preset's name, e.g. "bridge_matching" or "likelihood_full"; or {"name": …, **options}.
        bounds: (low, high) of vectors x: numbers, or one for each coordinate, None where there is none; samples stay
            inside.
        names: of the coordinates of x, for figures and tables.
        training: further settings by name, of :class:`csb.training.settings.IPFSettings`, ``OptimizerSettings`` and
            ``DeviceSettings``: {"steps": 500, "batch_size": 256, "lr": 1e-3, …}.
        seed: of weights, batches, noise and the split.
        out: the folder of the run's files, from which csb's commands read it. None keeps nothing beyond the result.
        resume: go on with an interrupted training in ``out``; the result is bit for bit that of an uninterrupted one.
        overwrite: replace the run in ``out``.
        precision: "auto", "32-true" or "bf16-mixed".
        accelerator: "auto", "cpu" or "gpu".
        logger: "csv", "wandb", "tensorboard" or "none"; or {"name": …, **options}. None: "csv" with ``out``.
        progress: whether a bar is shown.
        drop_nan: leave out pairs that hold NaN, masked or infinite values, which are refused otherwise.

    Returns:
        The run. After Ctrl+C that of an unfinished training, with the weights it had reached.

    Raises:
        CSBError: data that are no pairs of finite numbers; a setting that is unknown or out of its range; a folder
            that holds another run; a loss that diverges.
    """
    options = Options(
        T=T, L=L, network=network, schedule=schedule, objective=objective, bounds=bounds, names=names,
        training=training, seed=seed, out=out, resume=resume, overwrite=overwrite, precision=precision,
        accelerator=accelerator, logger=logger, progress=progress, drop_nan=drop_nan,
    )  # fmt: skip
    return _trained_run(*_configured(x, y, problem, options))


def fit_score(x: Any = None, y: Any = None, *, method: str = "dpmpp", steps: int = 10, **options: Any) -> ScoreSampler:
    """Train an amortized conditional score on pairs, with the bridge's network and optimiser steps.

    Args:
        x, y: as of :func:`fit`, or ``problem=…``.
        method, steps: how it is sampled, and in how many steps (:func:`csb.samplers.score_sampler`).
        **options: as of :func:`fit`.

    Returns:
        A sampler: ``csb.fit_score(x, y).sample(y_observed, 1000).x``; ``.model`` is the score.
    """
    return score_sampler(_stage("score", ScoreNetwork, x, y, options), method, steps)


def fit_flow(x: Any = None, y: Any = None, *, method: str = "euler", steps: int = 10, **options: Any) -> FlowSampler:
    """Train an amortized conditional flow on pairs; arguments and result as of :func:`fit_score`."""
    return flow_sampler(_stage("flow", FlowNetwork, x, y, options), method, steps)


def fit_denoiser(x: Any = None, **options: Any) -> Denoiser:
    """Train the denoiser of a prior on its draws x (N, …), for the guided samplers of :mod:`csb.samplers`.

    Args:
        x: as of :func:`fit`, or ``problem=…``.
        **options: as of :func:`fit`; training={"steps": …} are its optimiser steps.
    """
    return _stage("denoiser", Denoiser, x, x, options)


@with_gradients()
def distil(
    run: Run, calls: Sequence[int] = (1, 2, 4), *, seed: int = 0, progress: bool = True, **settings: Any
) -> Student:
    """Distil a run's bridge into a sampler of few network calls, kept beside the bridge.

    ``csb.samplers.ConsistencySampler(student, calls=1).sample(y, 1000)`` draws from it.

    Args:
        run: finished.
        calls: the numbers of network calls that it is for, each at most T.
        seed: of weights and batches.
        progress: whether a bar is shown.
        **settings: further ones of :class:`csb.training.distil.DistilSettings`, e.g. ``steps=2000``.
    """
    plain = merged(run.config, {"stage": DISTIL, "run": str(run.folder), "seed": seed, "progress": progress})
    plain = merged(plain, {"resume": False, "overwrite": True, "distil": {**settings, "calls": list(calls)}})
    stage_job(chosen := read(plain, run.problem))
    return load(model_file(chosen.folder, NAME), chosen.device.where, Student)


class Options(Schema):
    """The keyword arguments of :func:`fit`, which say what they mean."""

    T: Any = None
    L: Any = None
    network: Any = None
    schedule: Any = None
    objective: Any = None
    bounds: Any = None
    names: Any = None
    training: Any = None
    seed: Any = 0
    out: Any = None
    resume: Any = False
    overwrite: Any = False
    precision: Any = "auto"
    accelerator: Any = "auto"
    logger: Any = None
    progress: Any = True
    drop_nan: Any = False


@with_gradients()
def _stage(stage: str, kind: type[Model], x: Any, y: Any, options: dict[str, Any]) -> Model:
    """The model of a stage that is not the bridge."""
    run, scratch = _configured(x, y, options.pop("problem", None), Options(**options), stage)
    if stage == "denoiser" and (exact := exact_denoiser(run.problem)) is not None and isinstance(exact, kind):
        return exact
    try:
        stage_job(run)
        found = load(model_file(run.folder, stage), run.device.where)
        assert isinstance(found, kind)
        return found
    finally:
        if scratch is not None:
            scratch.cleanup()


def _configured(
    x: Any, y: Any, problem: Problem | None, options: Options, stage: str = "bridge"
) -> tuple[RunConfig, TemporaryDirectory[str] | None]:
    """The checked settings of a training, and the temporary folder of its files where it is given none."""
    o, out = options, options.out
    held, problem = _problem(x, y, problem, o.bounds, o.seed, o.drop_nan)
    changes = {key: getattr(o, key) for key in ("seed", "progress", "resume", "overwrite")} | {"stage": stage}
    changes |= {key: value for key, value in (("T", o.T), ("L", o.L)) if value is not None}
    plain = merged(own_pairs(problem.is_image), changes)
    plain["problem"], plain["network"] = problem.spec(), _network(plain["network"], o.network)
    plain["process"] = _schedule(plain["process"], o.schedule)
    plain["objective"] = _group("objective", plain["objective"], o.objective)
    default = "none" if out is None else "csv"
    plain["logger"] = _group("logger", preset("logger", default), default if o.logger is None else o.logger)
    group = {"denoiser": "denoiser", "score": "amortized", "flow": "amortized"}.get(stage)
    plain = _trained(plain, {"precision": o.precision, "accelerator": o.accelerator, **(o.training or {})}, group)
    scratch = TemporaryDirectory(prefix="csb-") if out is None else None
    folder = Path(out or Path(scratch.name if scratch else "", "run"))
    plain |= {"out": "outputs", "name": problem.name} if scratch else {"out": str(folder.parent), "name": folder.name}
    if (names := _names(x) if o.names is None else o.names) is not None:
        plain["names"] = [str(name) for name in names]
    run = replace(read(plain, problem), folder=folder)
    del held  # the problem has it now
    return run, scratch


def _names(x: Any) -> list[Any] | None:
    """The columns of a frame."""
    columns = getattr(x, "columns", None)
    return None if columns is None else list(columns)


def _trained_run(run: RunConfig, scratch: TemporaryDirectory[str] | None) -> Run:
    try:
        train(run)
    except Interrupted as stopped:
        logger.warning("interrupted: the run has the weights that the training had reached")
        return Run(run.folder, stopped.bridge, stopped.bridge.about, run.problem, scratch, interrupted=True)
    found = Run.open(run.folder, str(run.device.where))
    return replace(found, given=run.problem, scratch=scratch)


def _problem(
    x: Any, y: Any, problem: Problem | None, bounds: Bounds | None, seed: int, drop_nan: bool
) -> tuple[Held | None, Problem]:
    """The problem that is given, or that of the arrays; with the arrays, which must outlive the first reading."""
    if problem is not None:
        if x is not None or y is not None:
            raise CSBError("x, y and problem are given; give pairs, or a problem that draws them")
        if not isinstance(problem, Problem):
            raise CSBError(f"problem={shown(problem)} is no csb.problems.Problem; make one with csb.problem(…)")
        return None, problem
    options: dict[str, Any] = {"val": "auto", "seed": seed, "drop_nan": drop_nan}
    options |= {side: _side(side, value) for side, value in zip(("low", "high"), bounds or (None, None))}
    if isinstance(x, Dataset) and y is None:
        return None, FilePairs(path=from_dataset(x, _NAME), **options)
    if x is None or y is None:
        raise CSBError("x and y are missing; give both, a torch Dataset of pairs as x, or problem=…")
    return Held(x, y, _NAME), FilePairs(path=SCHEME + _NAME, **options)


def _side(side: str, value: Any) -> Any:
    """Bounds as plain numbers: None, one, or a tuple of numbers and Nones."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple) and any(v is None for v in value):
        return tuple(value)
    numbers = as_numbers(f"bounds ({side})", value).double().reshape(-1).tolist()
    return tuple(v if math.isfinite(v) else None for v in numbers)


def _network(default: dict[str, Any], given: Any) -> dict[str, Any]:
    if isinstance(given, type) and issubclass(given, Network):
        NETWORKS[given.__name__] = given  # a file of the run names it so
        return {**default, "name": given.__name__, "options": {}}
    return _group("network", default, given)


def _group(group: str, default: dict[str, Any], given: Any) -> dict[str, Any]:
    """A group of settings: the default, a preset by its name, or {"name": …, **options} over the preset or default."""
    if given is None:
        return default
    values = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping):
        raise CSBError(f"{group}={shown(given)} is not possible; give a name, or {{'name': …, **options}}")
    name, known = values.get("name"), {**PRESETS[group], **(NETWORKS if group == "network" else {})}
    if name is not None and name not in known:
        raise CSBError(
            f"{group}={shown(name)} is unknown; choose one of {', '.join(known)}{nearest(name, list(known))}"
        )
    rest = {key: value for key, value in values.items() if key != "name"}
    base = preset(group, name) if name in PRESETS[group] else {**default, **({} if name is None else {"name": name})}
    if group == "network":
        own = {key: rest.pop(key) for key in ("parametrisation",) if key in rest}
        of_name = base.get("options") if name is None or name in PRESETS[group] else None
        return {**base, **own, "options": {**(of_name or {}), **rest}}
    return {**base, **rest}


def _schedule(default: dict[str, Any], given: Any) -> dict[str, Any]:
    if given is None:
        return default
    found = _group("process", default, given)
    return {key: value for key, value in found.items() if key != "name"}


def _trained(plain: dict[str, Any], given: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    """The settings with those of ``training``, each in the group that has it: first that of the stage."""
    homes = {key: of for of in _TRAINING for key in SCHEMAS[of].model_fields if key != "L"}
    homes |= {} if group is None else dict.fromkeys(SCHEMAS[group].model_fields, group)
    for key, value in given.items():
        if key not in homes:
            known = ", ".join(sorted(homes))
            raise CSBError(f"training has no setting {shown(key)}; choose among {known}{nearest(key, list(homes))}")
        plain = merged(plain, {homes[key]: {key: value}})
    return plain
