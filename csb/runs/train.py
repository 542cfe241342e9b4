"""One training, from a checked configuration to a finished run."""

import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from csb.bridge import Bridge, build_bridge, load
from csb.errors import CSBError
from csb.evaluation.scores import final_scores
from csb.evaluation.selection import inflate, validation_score
from csb.evaluation.table import write_json
from csb.evaluation.verdict import warn_of_failure
from csb.files import OLD_SUFFIX, SUFFIX, model_file, remove_leftovers
from csb.networks.diffusion import CONDITIONAL
from csb.problems import Pairs, Problem
from csb.problems.transform import Transform
from csb.process import Stream, seeded
from csb.runs import provenance
from csb.runs.config import RunConfig, require_pairs
from csb.runs.load import read_result
from csb.runs.lock import writing
from csb.runs.logs import Logs
from csb.runs.observer import RunObserver
from csb.training.distil import NAME
from csb.training.fit import with_gradients
from csb.training.history import end_figures
from csb.training.pairs import EncodedPairs, encoded
from csb.training.ranks import Ranks, destroy
from csb.training.regression import state_file
from csb.training.settings import plan
from csb.training.stage import Setup, working
from csb.training.state import load_progress
from csb.training.trainer import BridgeTrainer, Observer

_WATCHED = 2000  # validation pairs that pictures, diagnostics and calibration look at, at most
_SPARE_BYTES = 64 * 2**20  # for pictures, logs and temporary files
logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl+C in a training, whose state is saved where it has a folder.

    Attributes:
        bridge: with the averaged weights that the training had reached.
    """

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge


def check_folder(run: RunConfig) -> None:
    """CSBError where the run's folder cannot be written, or holds another run that would be lost."""
    folder, state = run.folder, run.folder / "state.pt"
    if folder.exists() and not folder.is_dir():
        raise CSBError(f"{folder} is a file; remove it or choose another name=…")
    has_bridge = model_file(folder, "bridge").exists()
    if run.resume and not state.exists() and has_bridge:
        raise CSBError(f"{folder} has a bridge but no state.pt to resume from; choose overwrite=true or another name=…")
    if (state.exists() or has_bridge) and not run.resume and not run.overwrite:
        raise CSBError(
            f"{folder} already holds a run; continue it with resume=true, or choose overwrite=true or name=…"
        )
    check_writable(folder)


def check_writable(folder: Path, remedy: str = "out=…") -> None:
    """Makes the folder. CSBError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CSBError(f"cannot write to {folder}: {error.strerror}; choose another folder with {remedy}") from error


def _check_space(run: RunConfig, trainer: BridgeTrainer) -> None:
    """CSBError where the disk has no room for the files of a whole run."""
    weights = sum(p.numel() * p.element_size() for p in trainer.bridge.parameters())
    size = weights * (len(trainer.plan) + 1) + 3 * weights * 2 + _SPARE_BYTES
    if (free := shutil.disk_usage(run.folder).free) < size:
        raise CSBError(
            f"{run.folder} has {free / 2**20:.0f} MiB free and the run needs about {size / 2**20:.0f} MiB; free space "
            f"or choose another folder with out=…"
        )


def _clean(folder: Path) -> None:
    """Removes all that csb wrote beside an earlier bridge (overwrite=true); what it did not write stays.

    The order is such that a kill leaves the old run or none to resume.
    """
    files = ("result.json", "state.pt", "config.json", "history.json")
    figures = [f"{name}.{end}" for name in ("evaluation", "report") for end in ("json", "md", "png", "html")]
    stages = ("denoiser", *CONDITIONAL, NAME)
    models = [f"{name}{suffix}" for name in ("bridge", *stages) for suffix in (SUFFIX, OLD_SUFFIX)]
    states = [state_file(folder, name).name for name in stages]
    for name in (files[0], *models, *files[1:], *figures, *states, "reproduced.json", provenance.FILE):
        (folder / name).unlink(missing_ok=True)
    for name in ("half_steps", "pictures"):
        shutil.rmtree(folder / name, ignore_errors=True)


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of a run that has one, and a bridge; None otherwise."""
    try:
        result = read_result(folder)
    except CSBError:
        return None
    return result if "error" not in result and model_file(folder, "bridge").exists() else None


def _is_whole(path: Path) -> bool:
    """Whether a finished run's bridge can be read; where not, it is written again from those of the half-steps."""
    try:
        load(path, of=Bridge)
    except CSBError as error:
        logger.warning("%s; it is written again", error)
        return False
    return True


def about(run: RunConfig) -> dict[str, Any]:
    """What goes with a saved bridge: problem, configuration and versions, as plain data."""
    return {"problem": run.problem.record(), "config": run.plain, "versions": provenance.versions()}


def setup_of(run: RunConfig, fingerprint: dict[str, Any], logs: Logs, **more: Any) -> Setup:
    """What the trainings of a run have in common; ``more`` goes with the trained model."""
    return Setup(
        run.folder, run.optimizer, run.device, run.seed, fingerprint, {**about(run), **more}, logs.metrics, run.progress
    )


def record(run: RunConfig, **more: Any) -> None:
    """Writes what the run is made with beside its results; see :mod:`csb.runs.provenance`."""
    where, precision = run.device.where, run.device.precision
    provenance.record(run.folder, run.stage, run.problem, where, precision, run.seed, run.plain, **more)


def require_same_pairs(folder: Path, of: dict[str, Any], problem: Problem) -> None:
    """CSBError where own pairs are not those that the bridge of a folder was trained on, of which ``of`` tells."""
    then, now = of.get("problem", {}).get("digest"), problem.record().get("digest")
    if None not in (then, now) and then != now:
        where = problem.spec()["path"] or "the files of now"
        raise CSBError(f"{folder} holds a bridge of other pairs than {where}; restore them, or choose another name=…")


def _data(run: RunConfig) -> tuple[EncodedPairs, Transform]:
    """The encoded training pairs, and the map that encodes them."""
    rows = run.problem.rows("train")
    require_pairs(len(rows), run.training)
    transform = run.problem.make_transform(rows)
    return encoded(transform, rows), transform


def _fresh(problem: Problem, transform: Transform) -> Callable[[int, int], EncodedPairs] | None:
    """Other training pairs for each round of the cache, where the problem simulates them."""

    def fresh(half_step: int, number: int) -> EncodedPairs:
        rows = problem.fresh(half_step, number)
        assert rows is not None
        return encoded(transform, rows)

    return fresh if problem.is_endless else None


@with_gradients()
def train(run: RunConfig, observer: Observer | None = None, draws: bool = True) -> dict[str, Any]:
    """Trains, or continues, a run and scores it. Returns the content of its ``result.json``.

    ``observer`` looks at the bridge meanwhile, in place of the one that makes diagnostics and, where it ``draws``,
    pictures. Of several processes the first alone looks at the folder, writes and scores; the others return {}.

    Raises:
        CSBError: a folder that cannot be written or holds another run, missing data, a full disk, a diverging loss.
    """
    ranks = Ranks.of(run.device)
    if ranks.is_rank_zero:
        check_folder(run)
    with writing(run.folder) if ranks.is_rank_zero else nullcontext():
        return _train(run, observer, draws, ranks)


def _train(run: RunConfig, observer: Observer | None, draws: bool, ranks: Ranks) -> dict[str, Any]:
    resume, result = ranks.broadcast(_begun(run) if ranks.is_rank_zero else (False, None))
    if result is not None:
        return result
    if ranks.local == 0:  # it makes the files that the others of its machine then find
        run.problem.prepare()
    ranks.all_gather(None)
    run.problem.prepare()
    pairs, transform = _data(run)
    val = run.problem.first("val", _WATCHED)
    fingerprint, run = run.fingerprint(), run.resolved(pairs)
    spec = run.bridge_spec(transform)
    bridge = build_bridge(spec, run.seed)
    bridge.transform.load_state_dict(transform.state_dict())
    logs = Logs(run.logger if ranks.is_rank_zero else run.logger.replace(name="none"), run.folder, run.plain)
    status = "failed"
    try:
        trainer = BridgeTrainer(
            bridge, run.objective, pairs, run.training, setup_of(run, fingerprint, logs),
            observer=observer or RunObserver(run, val, logs, draws), calibrate=partial(_calibrate, run=run, val=val),
            val=encoded(transform, run.problem.rows("val")), fresh=_fresh(run.problem, transform),
        )  # fmt: skip
        if ranks.is_rank_zero:
            _check_space(run, trainer)
            if run.overwrite:  # nothing of the old run is touched before all that can be checked has been
                _clean(run.folder)
            write_json(run.folder / "config.json", run.plain)
            record(run, resumed=resume)
            logger.info("%s", _chosen(run, bridge, len(pairs)))
        try:
            progress = trainer.run(resume)
        except KeyboardInterrupt:
            raise Interrupted(trainer.reached()) from None
        destroy()
        if not ranks.is_rank_zero:
            return {}
        with working("scoring samples", run.progress):
            scores = final_scores(run.problem, bridge, run.sampler, run.metrics, run.seed)
        generator = seeded(run.seed, Stream.FIRST_SAMPLES, device=bridge.device)
        one = bridge.sample(val.y[:1], 1, generator=generator, **vars(run.sampler))
        cost = {"calls": one.info.forward_evaluations, "seconds": progress.seconds}  # calls: of the network, a sample
        result = _result(run, progress.history, {**scores, **cost})
        logs.metrics({f"final/{k}": v for k, v in scores.items()}, sum(h.steps for h in trainer.plan))
        write_json(run.folder / "result.json", result)
        figures = {**scores, **end_figures(progress.history)}
        warn_of_failure(run.folder, figures, run.problem, run.sampler, run.metrics)
        status = "success"
    finally:
        logs.close(status)
    return result


def _chosen(run: RunConfig, bridge: Bridge, count: int) -> str:
    """What the data and the settings have decided, in one line."""
    maps, grid, kernel = bridge.transform, bridge.grid, run.backward
    first, later, half_steps = run.training.first_steps, run.training.steps, len(plan(run.training))
    return (
        f"{count} training pairs, x {maps.x_shape}, y {maps.y_shape}: {kernel.network['name']}, {kernel.covariance} "
        f"covariance, T = {grid.T} steps to ᾱ_T = {float(grid.alpha_bar[-1]):.2g}; {half_steps} half-steps, of at most "
        f"{first} and then {later} optimiser steps on batches of {run.training.batch_size}"
    )


def _begun(run: RunConfig) -> tuple[bool, dict[str, Any] | None]:
    """Whether there is something to resume, and the result of a run that is finished.

    Told before anything is touched: a damaged state, and other settings.
    """
    check_folder(run)
    remove_leftovers(run.folder)
    if not (run.resume and (run.folder / "state.pt").exists()):
        return False, None
    load_progress(run.folder / "state.pt", run.fingerprint())
    result = finished(run.folder)
    if result is None or not _is_whole(model_file(run.folder, "bridge")):
        return True, None
    logger.info("%s is finished; nothing to resume", run.folder)
    return True, result


def _calibrate(bridge: Bridge, run: RunConfig, val: Pairs) -> dict[str, Any]:
    """What is done and measured on validation pairs after a backward half-step."""
    figures = inflate(bridge, val, run.seed) if run.training.inflate else {}
    return figures | (validation_score(bridge, val, run.seed) if run.training.select == "best" else {})


def _result(run: RunConfig, history: list[dict[str, Any]], figures: dict[str, float]) -> dict[str, Any]:
    last = [row for row in history if row["direction"] == "backward"][-1]
    keep = ("x0_distance", "x0_floor", "loss")
    row = {"L": run.training.L, "T": run.grid.T, **{key: last[key] for key in keep if key in last}, **figures}
    write_json(run.folder / "history.json", history)
    return row
