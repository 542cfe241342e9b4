"""One training, from a checked configuration to a finished run."""

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from csb.bridge import Bridge, build_bridge, load
from csb.bridge.check import MOST
from csb.bridge.checkpoint import save_reference
from csb.errors import CSBError
from csb.evaluation.diagnose_figures import HalfStepLosses, loss
from csb.evaluation.pictures import draw_bridge
from csb.evaluation.plots import write_png
from csb.evaluation.results import final_scores
from csb.evaluation.scores import warn_of_failure
from csb.evaluation.selection import drift_norm, end_distances, inflate, validation_score
from csb.files import SUFFIX, model_file, remove_leftovers, write_json
from csb.problems import Pairs
from csb.problems.rows import Rows
from csb.process import Stream, seeded
from csb.runs.config import RunConfig, require_pairs
from csb.runs.folder import check_folder, clean, record, setup_of, writing
from csb.runs.load import finished
from csb.runs.logs import Logs
from csb.schema import shown
from csb.training.fit import with_gradients
from csb.training.pairs import EncodedPairs, encoded
from csb.training.ranks import Ranks, destroy
from csb.training.settings import HalfStep, plan
from csb.training.stage import working
from csb.training.state import Progress, end_figures, load_progress
from csb.training.trainer import BridgeTrainer, Observer

_WATCHED = 2000  # validation pairs that pictures, diagnostics and calibration look at, at most
logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl+C in a training, whose state is saved where it has a folder.

    Attributes:
        bridge: with the averaged weights that the training had reached.
    """

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge


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
        resume, result = ranks.broadcast(_begun(run) if ranks.is_rank_zero else (False, None))
        return _train(run, observer, draws, ranks, resume) if result is None else result


def _begun(run: RunConfig) -> tuple[bool, dict[str, Any] | None]:
    """Whether there is something to resume, and the result of a run that is finished.

    Told before anything is touched: a damaged state, and other settings.
    """
    check_folder(run)
    remove_leftovers(run.folder)
    state = model_file(run.folder, "state")
    if not (run.resume and state.exists()):
        return False, None
    load_progress(state, run.fingerprint())
    result = finished(run.folder)
    if result is None or not _is_whole(model_file(run.folder, "bridge")):
        return True, None
    logger.info("%s is finished; nothing to resume", run.folder)
    return True, result


def _is_whole(path: Path) -> bool:
    """Whether a finished run's bridge can be read; where not, it is written again from those of the half-steps."""
    try:
        load(path, of=Bridge)
    except CSBError as error:
        logger.warning("%s; it is written again", error)
        return False
    return True


def _train(run: RunConfig, observer: Observer | None, draws: bool, ranks: Ranks, resume: bool) -> dict[str, Any]:
    problem = run.problem
    if ranks.local == 0:  # it makes the files that the others of its machine then find
        problem.prepare()
    ranks.all_reduce(torch.zeros(1))  # nobody goes on before all are there
    problem.prepare()
    rows = problem.rows("train")
    require_pairs(len(rows), run.training)
    transform = run.make_transform(rows)
    gaps = run.training.missing
    pairs, val = encoded(transform, rows, gaps, fitted_to=True), problem.first("val", _WATCHED)
    fingerprint, run = run.fingerprint(), run.resolved(pairs, transform.informed)
    bridge = build_bridge(run.bridge_spec(transform), run.seed)
    bridge.transform.load_state_dict(transform.state_dict())

    def fresh(half_step: int, number: int) -> EncodedPairs:
        rows = problem.fresh(half_step, number)
        assert rows is not None
        return encoded(transform, rows, gaps)

    with Logs(run.logger if ranks.is_rank_zero else run.logger.replace(name="none"), run.folder, run.plain) as logs:
        trainer = BridgeTrainer(
            bridge, run.objective, pairs, run.training, setup_of(run, fingerprint, logs),
            observer=observer or RunObserver(run, val, logs, draws), calibrate=partial(_calibrate, run=run, val=val),
            val=encoded(transform, problem.rows("val"), gaps), fresh=fresh if problem.is_endless else None,
        )  # fmt: skip
        if ranks.is_rank_zero:
            if run.overwrite:  # nothing of the old run is touched before all that can be checked has been
                clean(run.folder)
            write_json(run.folder / "config.json", run.plain)
            record(run, resume)
            logger.info("%s", _chosen(run, bridge, len(pairs)))
        try:
            progress = trainer.run(resume)
        except KeyboardInterrupt:
            raise Interrupted(trainer.reached()) from None
        destroy()
        if not ranks.is_rank_zero:
            return {}
        _keep_reference(run, bridge, rows)
        return _scored(run, bridge, val, progress, logs)


def _keep_reference(run: RunConfig, bridge: Bridge, train: Rows) -> None:
    """Write what observations are checked against: the first of the training, and the last that the scores look at."""
    test = run.problem.rows("test")
    last = slice(max(0, len(test) - MOST), len(test))
    bridge.set_reference(train.read_y(slice(0, min(MOST, len(train)))), test.read_y(last))
    save_reference(bridge, run.folder / f"bridge{SUFFIX}")


def _scored(run: RunConfig, bridge: Bridge, val: Pairs, progress: Progress, logs: Logs) -> dict[str, Any]:
    """Scores a trained bridge and writes ``history.json`` and ``result.json``, whose content is returned."""
    with working("scoring samples", run.progress):
        scores = final_scores(run.problem, bridge, run.sampler, run.metrics, run.seed)
    generator = seeded(run.seed, Stream.FIRST_SAMPLES, device=bridge.device)
    one = bridge.sample(val.y[:1], 1, generator=generator, **vars(run.sampler))
    last = [row for row in progress.history if row["direction"] == "backward"][-1]
    result = {
        "L": run.training.L, "T": run.grid.T,
        **{key: last[key] for key in ("x0_distance", "x0_floor", "loss") if key in last},
        **scores, "calls": one.info.forward_evaluations, "seconds": progress.seconds,  # calls of the network, a sample
    }  # fmt: skip
    write_json(run.folder / "history.json", progress.history)
    logs.metrics({f"final/{k}": v for k, v in scores.items()}, sum(h.steps for h in plan(run.training)))
    write_json(run.folder / "result.json", result)
    figures = {**scores, **end_figures(progress.history)}
    warn_of_failure(run.folder, figures, run.problem, run.sampler, run.metrics)
    return result


def _chosen(run: RunConfig, bridge: Bridge, count: int) -> str:
    """What the data and the settings have decided, in one line."""
    maps, grid, kernel = bridge.transform, bridge.grid, run.backward
    encoder = kernel.network.get("encoder")
    encoder = encoder.get("encoders", encoder) if isinstance(encoder, dict) else encoder
    network = " ".join(str(part) for part in (kernel.network["name"], encoder) if part)
    patch = kernel.network.get("patch")
    network += f" on patches of {patch}×{patch}" if patch else ""
    bounds = tuple(maps.spec().get(side) for side in ("low", "high"))
    within = "" if bounds == (None, None) else f" from {shown(bounds[0])} to {shown(bounds[1])}"
    first, later, half_steps = run.training.first_steps, run.training.steps, len(plan(run.training))
    return (
        f"{count} training pairs, x {maps.x_shape}{within}, y {maps.parts or maps.y_shape}: {network}, "
        f"{kernel.covariance} covariance, T = {grid.T} steps to ᾱ_T = {float(grid.alpha_bar[-1]):.2g}; "
        f"{half_steps} half-steps, of at most {first} and then {later} optimiser steps on batches "
        f"of {run.training.batch_size}"
    )


def _calibrate(bridge: Bridge, run: RunConfig, val: Pairs) -> dict[str, Any]:
    """What is done and measured on validation pairs after a backward half-step."""
    figures = inflate(bridge, val, run.seed) if run.training.inflate else {}
    return figures | (validation_score(bridge, val, run.seed) if run.training.select == "best" else {})


class RunObserver:
    """Implements :class:`csb.training.trainer.Observer` for a run: pictures of samples and losses, diagnostics.

    Args:
        run: the configuration.
        val: held-out pairs.
        logs: where pictures go besides ``pictures/``.
        draws: whether there are pictures: a folder that nobody keeps needs none.
    """

    def __init__(self, run: RunConfig, val: Pairs, logs: Logs, draws: bool = True) -> None:
        self.run, self.val, self.logs, self.draws = run, val, logs, draws

    def within(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        """A picture of posterior samples; none while the forward kernels are fitted, which do not change them."""
        if self.draws and half_step.direction == "backward" and step < half_step.steps:
            self._picture(bridge, half_step, step)

    def after(self, bridge: Bridge, half_step: HalfStep, losses: list[float]) -> dict[str, float]:
        """A sample picture, the loss curve, and how far both ends are from what they must be."""
        if self.draws:
            self._picture(bridge, half_step, half_step.steps)
            path = self.run.folder / "pictures" / f"{half_step.name}_loss.png"
            write_png(path, loss([HalfStepLosses(half_step=half_step.name, losses=losses)]))
        seed = self.run.seed
        return end_distances(bridge, self.val, seed) | drift_norm(bridge, half_step.direction, self.val, seed)

    def _picture(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        run, problem, name = self.run, self.run.problem, f"{half_step.name}_{step:06d}"
        pairs = Pairs(*(part[: run.metrics.picture_rows] for part in (self.val.x, self.val.y)))
        path = run.folder / "pictures" / f"{name}.png"
        title = f"{problem.name}: {half_step.direction} half-step of iteration {half_step.iteration}, step {step}"
        n = 32 if problem.is_image else 1000
        if draw_bridge(path, bridge, problem, pairs, n, run.seed, Stream.PICTURE, title):
            before = sum(one.steps for one in plan(run.training)[: half_step.index])
            self.logs.picture("samples", path, before + step)
