"""What a job of csb train does, alone or in a sweep."""

import logging
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from csb.bridge import Bridge, load
from csb.errors import CSBError
from csb.evaluation.tables import print_table, write_json
from csb.files import model_file
from csb.problems import FilePairs
from csb.run.amortized import train_stage as train_amortized
from csb.run.config import DISTIL, RunConfig, read
from csb.run.denoiser import train_stage
from csb.run.distil import teacher
from csb.run.distil import train_stage as distil
from csb.run.ends import explain
from csb.run.evaluate import compare_run
from csb.run.launch import is_requeued, take_gpu
from csb.run.load import load_run
from csb.run.lock import writing
from csb.run.processes import begin
from csb.run.sweep import MARKER, read_json, write_marker
from csb.run.train import check_folder, check_writable, finished, require_same_pairs, train
from csb.training.distil import NAME
from csb.training.ranks import PEER_FAILED, Ranks, init, peer_failed, reports_first
from csb.training.regression import state_file

logger = logging.getLogger(__name__)


def validate(config: DictConfig, sweep: bool = False) -> Callable[[], None]:
    """Checks one job's config. Returns the check of its folder (of the sweep's, whose jobs Hydra has yet to name)."""
    run = read(config)
    if not sweep:
        return _check_of(run)
    if run.stage != "bridge" or run.evaluate:
        raise CSBError(f"stage={run.stage}, evaluate={run.evaluate} cannot be swept over; run these jobs one at a time")
    return lambda: check_writable(Path(str(config.out)) / "sweeps" / str(config.name))


def _check_of(run: RunConfig) -> Callable[[], None]:
    """The check of a run's folder, which makes it. CSBError where what is distilled is missing or does not fit."""
    if run.stage == DISTIL:
        teacher(run)
    return partial(check_folder if run.stage == "bridge" else check_stage, run)


def check_stage(run: RunConfig) -> None:
    """CSBError where the stage's file is there already, was begun, or cannot be written. Else the folder is made.

    The folder may hold a bridge or not.
    """
    name = NAME if run.stage == DISTIL else run.stage
    path, state = model_file(run.folder, name), state_file(run.folder, name)
    if path.exists() and not run.overwrite:
        raise CSBError(f"{path} is there already; choose overwrite=true or another name=…")
    if state.exists() and not run.resume and not run.overwrite:
        raise CSBError(f"{path} was begun; continue with resume=true, or choose overwrite=true or another name=…")
    check_writable(run.folder)


def stage_job(run: RunConfig) -> None:
    """A stage that is not the bridge: trains its model into the run's folder."""
    check_stage(run)
    with writing(run.folder):
        _run_stage(run)


def _run_stage(run: RunConfig) -> None:
    beside = model_file(run.folder, "bridge")
    if beside.exists() and isinstance(run.problem, FilePairs):
        require_same_pairs(run.folder, load(beside, of=Bridge).about, run.problem)
    if run.stage == "denoiser":
        train_stage(run.problem, run.plain, run.folder, run.seed, run.resume, run.progress)
    elif run.stage == DISTIL:
        distil(run)
    else:
        train_amortized(run)


def prepare(config: DictConfig) -> Callable[[], Any]:
    """One training, checked before anything is written but its folder."""
    run = read(config)
    _check_of(run)()
    return partial(_train, run)


def _train(run: RunConfig) -> dict[str, Any] | None:
    ranks = begin(run.device, ["train", *sys.argv[1:]])  # of which cli.run has made the arguments of this job
    if ranks is None:
        return None
    if run.stage != "bridge":
        return stage_job(run)
    result = train(run)
    if not ranks.is_rank_zero:
        return None
    if run.evaluate:
        command = shlex.join(["csb", "evaluate", f"run={run.folder}"])
        of = load_run(run.folder, str(run.device.where))
        compare_run(of, [], run.baselines, run.sampler, run.metrics, run.seed, command, run.progress)
    rows = [{"figure": key, "value": value} for key, value in result.items()]
    print_table(rows, title=str(run.folder))
    return result


def main(config: DictConfig) -> dict[str, Any] | None:
    """Trains one run of a sweep, in the job's own folder; an error is reported in its row of the table."""
    return _swept(config, HydraConfig.get())


def _swept(config: DictConfig, hydra: HydraConf) -> dict[str, Any] | None:
    """One job of a sweep, perhaps in a process of its own. Whatever ends it is reported; the other jobs go on."""
    take_gpu()
    folder = Path(hydra.sweep.dir) / str(hydra.sweep.subdir)
    with open_dict(config):
        config.out, config.name = hydra.sweep.dir, hydra.sweep.subdir
    left_out = list(hydra.job.config.override_dirname.exclude_keys)
    try:
        device = read(config).device
        ranks = init(device) if device.world > 1 else Ranks.of(device)  # check_launch has seen to the tasks
        with open_dict(config):
            if ranks.broadcast(is_requeued(hydra, str(hydra.job.id), read_json(folder / MARKER))):
                config.resume, config.overwrite = True, False
        if ranks.is_rank_zero:
            overrides = [str(text) for text in hydra.overrides.task]
            write_marker(folder, overrides, config.L, config.T, config.seed, str(hydra.job.id), left_out)
        return train(read(config))
    except Exception as error:
        message = PEER_FAILED if peer_failed(error) else explain(error)
        if message is None:  # not known to this program: its traceback is printed
            logger.exception("%s", folder)
            message = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if not reports_first():
        return None
    logger.error("%s: %s", folder, message)
    if finished(folder) is None:
        write_json(folder / "result.json", {"L": config.L, "T": config.T, "error": message})
    return None
