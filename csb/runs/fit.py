"""Training from Python: arrays or a problem in, a trained :class:`~csb.runs.result.Run` out; no files of settings."""

import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import create_model

from csb.bridge import Ensemble
from csb.bridge.student import Student
from csb.errors import CSBError, require_int
from csb.files import write_json
from csb.networks import Encoder, Network
from csb.networks.diffusion import Denoiser
from csb.problems import Problem
from csb.runs.config import RunConfig, read
from csb.runs.load import ENSEMBLE, MOST_MEMBERS, finished, member_folder
from csb.runs.options import Bounds, configured
from csb.runs.presets import merged
from csb.runs.recipe import DISTIL
from csb.runs.result import Run
from csb.runs.stages import exact_denoiser, load_stage, stage_job
from csb.runs.train import Interrupted, train
from csb.samplers import FlowSampler, ScoreSampler, flow_sampler, score_sampler
from csb.schema import Arguments
from csb.training.fit import with_gradients
from csb.training.ranks import ALONE, Ranks, environment, init

log = logging.getLogger(__name__)


@with_gradients()
def fit(
    x: Any = None,
    y: Any = None,
    *,
    problem: Problem | None = None,
    T: int | None = None,
    L: int | None = None,
    network: str | Mapping[str, Any] | type[Network] | None = None,
    encoder: str | Mapping[str, Any] | type[Encoder] | None = None,
    schedule: str | Mapping[str, Any] | None = None,
    start: str | None = None,
    objective: str | Mapping[str, Any] | None = None,
    bounds: Bounds | Mapping[Any, Bounds] | None = None,
    kinds: Mapping[Any, str] | Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    devices: int = 1,
    precision: str = "auto",
    accelerator: str = "auto",
    logger: str | Mapping[str, Any] | None = None,
    progress: bool = True,
    drop_nan: bool = False,
    ensemble: int | None = None,
) -> Run:
    """Train a bridge on pairs (x, y): ``csb.fit(x, y).bridge.sample(y_observed, 1000).x`` are draws of p(x | y).

    What is left out follows the data: the network, the noise schedule, the kernels' covariance and the number of
    optimiser steps from the shapes and the number of pairs, as on the command line with ``experiment=pairs``.

    Args:
        x: (N, d) vectors or (N, C, H, W) images to be drawn, N ≥ 100; a tensor, an array, a memory map, a dataset of
            HDF5, a list, or a frame of pandas, whose columns become ``names``. Or a map-style torch Dataset of pairs
            (x, y), without ``y``. Memory maps, datasets of HDF5 and a Dataset are read by rows.
        y: (N, d), (N, C, H, W), or series or sets (N, L, d), the observations of x in the same order; NaN is a missing
            value. A list of (L_i, d) is filled up with NaN. Or several of these by name, {name: …}, which the bridge is
            then given by name, too.
        problem: in place of x and y: a problem of :mod:`csb.problems`, or what :func:`csb.problem` returned.
        T: steps of the bridge: network calls of a sample. 10 by default.
        L: iterations, each a backward and a forward half-step. 3 by default, of images 2.
        network: "mlp" or "affine", of images "unet" or "dit"; {"name": …, **options}; or a subclass of
            :class:`csb.networks.Network`.
        encoder: of y, for the network "mlp": "vector", "image", "series" or "set"; {"name": …, **options}; or a
            subclass of :class:`csb.networks.Encoder`, which is trained with the network; of a y of named parts one of
            these for each, {name: …}. "auto" goes by y's shape, and takes rows for a series, but for a set where many
            of them show no order (:mod:`csb.metrics.order`).
        schedule: "auto", "linear", "cosine" or "power"; or {"name": …, **options}.
        start: what sampling starts from: "gaussian", N(0, I), by default; "residual", "residual_full" or "spectral",
            N(m(y), S) of a regression of x on y with a diagonal, full or (of images) stationary S; "informed", as
            "residual_full", where few observed numbers tell of few directions of a large x; see
            :mod:`csb.problems.start`.
        objective: a preset's name, e.g. "bridge_matching" or "likelihood_full"; or {"name": …, **options}.
        bounds: (low, high) of x: numbers, or one for each coordinate of a vector or channel of an image, None where
            there is none; samples stay inside, e.g. (0, 1) for images. Or {coordinate: (low, high)}, by name or number.
        kinds: {coordinate: kind}, by name or number, or a list of one for each: "real", "angle", which wraps at its
            bounds (−π, π by default), "integer" or "category", 0, …, K − 1; see :mod:`csb.problems.kinds`.
        names: of the coordinates of x, for figures and tables.
        training: further settings by name, of :class:`csb.training.settings.TrainingSettings`, ``OptimizerSettings``
            and ``DeviceSettings``: {"steps": 500, "batch_size": 256, "lr": 1e-3, …}.
        seed: of weights, batches, noise and the split.
        out: the folder of the run's files, from which csb's commands read it. None keeps nothing beyond the result.
        resume: go on with an interrupted training in ``out``; the result is bit for bit that of an uninterrupted one.
        overwrite: replace the run in ``out``.
        devices: processes with a device each, which torchrun has started:
            ``torchrun --standalone --nproc-per-node=2 script.py`` for 2. Each gets the run, from ``out``.
        precision: "auto", "32-true" or "bf16-mixed".
        accelerator: "auto", "cpu" or "gpu".
        logger: "csv", "wandb", "tensorboard" or "none"; or {"name": …, **options}. None: "csv" with ``out``.
        progress: whether a bar is shown.
        drop_nan: leave out pairs that hold NaN, masked or infinite values; otherwise all but NaN in y are refused.
        ensemble: how many bridges are trained, on the same split, of the seeds ``seed``, ``seed + 1``, …; the run's
            bridge is a :class:`csb.Ensemble` of them, and ``csb.Run.open(run.folder / "member_0")`` is a run of one.

    Returns:
        The run. After Ctrl+C that of an unfinished training, with the weights it had reached.

    Raises:
        CSBError: data that are no pairs of finite numbers; a setting that is unknown or out of its range; a folder
            that holds another run; a loss that diverges.
    """
    given = Options(
        problem=problem, T=T, L=L, network=network, encoder=encoder, schedule=schedule, start=start,
        objective=objective, bounds=bounds, kinds=kinds, names=names, training=training, seed=seed, out=out,
        resume=resume, overwrite=overwrite, devices=devices, precision=precision, accelerator=accelerator,
        logger=logger, progress=progress, drop_nan=drop_nan,
    )  # fmt: skip
    if ensemble is not None:
        return _fit_ensemble(x, y, given, require_int("ensemble", ensemble, 2, MOST_MEMBERS))
    with _told(progress and devices == 1):  # of what is chosen
        run, scratch = configured(x, y, given)
    ranks = _joined(run, scratch) if run.device.world > 1 else ALONE
    try:
        with _told(run.progress and ranks.is_rank_zero):
            train(run, draws=scratch is None)
    except Interrupted as stopped:
        log.warning("interrupted: the run has the weights that the training had reached")
        return Run(run.folder, stopped.bridge, stopped.bridge.about, run.problem, scratch, interrupted=True)
    while not ranks.is_rank_zero and finished(run.folder) is None:
        time.sleep(0.2)  # process 0 scores; were it to fail, torchrun would end all
    return replace(Run.open(run.folder, str(run.device.where)), given=run.problem, scratch=scratch)


_fields: Any = {
    name: (Any, p.default)
    for name, p in inspect.signature(fit).parameters.items()
    if p.kind == p.KEYWORD_ONLY and name != "ensemble"
}
Options: Any = create_model("Options", __base__=Arguments, **_fields)  # of fit, where they are given as **options


def _fit_ensemble(x: Any, y: Any, given: Any, count: int) -> Run:
    """The run of several bridges, that of each in a folder of its own."""
    if given.devices > 1:
        raise CSBError(f"ensemble={count} with devices={given.devices} is not possible; train members one by one")
    scratch = TemporaryDirectory(prefix="csb-") if given.out is None else None
    folder = Path(str(given.out)) if scratch is None else Path(scratch.name, "run")
    options, runs = dict(given), []
    for number in range(count):
        place = member_folder(folder, number)
        options |= {"seed": given.seed + number, "out": None if scratch else place}
        runs.append(run := fit(x, y, **options))
        if run.interrupted:
            break
        if scratch:
            run.save(place)
        names = getattr(x, "columns", None) if given.names is None else given.names
        x, y, options = None, None, {**options, "problem": runs[0].given, "bounds": None, "kinds": None, "names": names}
    write_json(folder / ENSEMBLE, {"members": len(runs)})
    bridge: Any = Ensemble([run.bridge for run in runs])
    return Run(folder, bridge, bridge.about, runs[0].given, scratch, runs[-1].interrupted)


def fit_score(x: Any = None, y: Any = None, *, method: str = "dpmpp", steps: int = 10, **options: Any) -> ScoreSampler:
    """Train an amortized conditional score on pairs, with the bridge's network and optimiser steps.

    Args:
        x, y: as of :func:`fit`, or ``problem=…``.
        method, steps: how it is sampled, and in how many steps (:func:`csb.samplers.score_sampler`).
        **options: as of :func:`fit`.

    Returns:
        A sampler: ``csb.fit_score(x, y).sample(y_observed, 1000).x``; ``.model`` is the score.
    """
    return score_sampler(_stage("score", x, y, options), method, steps)


def fit_flow(x: Any = None, y: Any = None, *, method: str = "euler", steps: int = 10, **options: Any) -> FlowSampler:
    """Train an amortized conditional flow on pairs; arguments and result as of :func:`fit_score`."""
    return flow_sampler(_stage("flow", x, y, options), method, steps)


def fit_denoiser(x: Any = None, **options: Any) -> Denoiser:
    """Train the denoiser of a prior on its draws x (N, …), for the guided samplers of :mod:`csb.samplers`.

    Args:
        x: as of :func:`fit`, or ``problem=…``.
        **options: as of :func:`fit`; training={"steps": …} are its optimiser steps.
    """
    return _stage("denoiser", x, x, options)


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
    return load_stage(chosen.folder, DISTIL, chosen.device.where)


@with_gradients()
def _stage(stage: str, x: Any, y: Any, options: dict[str, Any]) -> Any:
    """The model of a stage that is not the bridge."""
    run, scratch = configured(x, y, Options(**options), stage)
    try:
        if stage == "denoiser" and (exact := exact_denoiser(run.problem)) is not None:
            return exact
        stage_job(run)
        return load_stage(run.folder, stage, run.device.where)
    finally:
        if scratch is not None:
            scratch.cleanup()


def _joined(run: RunConfig, scratch: TemporaryDirectory[str] | None) -> Ranks:
    """This process among those of a training on several devices. CSBError where they were not started."""
    count = run.device.devices
    if scratch is not None:
        raise CSBError(f"devices={count} lacks out=, the folder from which each process reads the result; give it")
    if environment() is None:
        raise CSBError(
            f"devices={count} takes as many processes; start the script with torchrun --standalone "
            f"--nproc-per-node={count} script.py"
        )
    return init(run.device)


@contextmanager
def _told(wanted: bool) -> Iterator[None]:
    """Inside, what the command line would say goes to standard error, unless the program has handlers of its own."""
    root, own = logging.getLogger(), logging.getLogger("csb")
    if not wanted or root.handlers or own.handlers:
        yield
        return
    handler, level = logging.StreamHandler(), own.level
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        own.removeHandler(handler)
        own.setLevel(level)
