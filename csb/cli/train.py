"""What a job of csb train does, alone or in a sweep."""

import contextlib
import ctypes
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from csb.cli.ends import PARENT
from csb.cli.launch import start
from csb.errors import CSBError
from csb.evaluation.table import print_table
from csb.runs.config import RunConfig, read
from csb.runs.evaluate import compare_run
from csb.runs.folder import check_folder, check_writable
from csb.runs.load import iteration_of, load_run, read_history
from csb.runs.recipe import DISTIL
from csb.runs.stages import stage_job, teacher
from csb.runs.train import train
from csb.schema import Given
from csb.training.ranks import Ranks, environment, init
from csb.training.settings import DeviceSettings

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def validate(given: Given) -> Callable[[], None]:
    """Check one job of a sweep. Return the check of the sweep's folder: Hydra has yet to name those of its jobs."""
    run = read(given)
    if run.stage != "bridge" or run.evaluate:
        raise CSBError(f"stage={run.stage}, evaluate={run.evaluate} cannot be swept over; run these jobs one at a time")
    return lambda: check_writable(Path(str(given["out"])) / "sweeps" / str(given["name"]))


def prepare(given: Given) -> Callable[[], Any]:
    """One training, checked before anything is written but its folder."""
    run = read(given)
    if run.stage == DISTIL:
        teacher(run)
    check_folder(run)
    return partial(_train, run)


def _train(run: RunConfig) -> dict[str, Any] | None:
    ranks = begin(run.device, ["train", *sys.argv[1:]])  # of this job, whatever main was given
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
    print_table(rows, title=f"{run.folder}, {iteration_of(read_history(run.folder))}")
    return result


def begin(device: DeviceSettings, command: list[str]) -> Ranks | None:
    """This process's place in the training; None where there is nothing to do here.

    That is where it has started the training's processes, and they are done, or where it is one too many.

    Args:
        device: the settings.
        command: arguments of ``csb`` that do again what this process does.

    Raises:
        CSBError: processes that do not fit the settings, too few GPUs, a process that was killed.
    """
    if device.world == 1:
        started = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
        if started == "1":
            return Ranks.of(device)
        if os.environ.get("RANK") != "0":  # process 0 says so; the others end without a word
            return None
        raise CSBError(
            f"torchrun started {started} processes for trainer.devices=1; set trainer.devices to the processes of a "
            f"machine (and trainer.num_nodes to the machines), or start csb train without torchrun"
        )
    if environment() is not None:
        if PARENT in os.environ:  # nobody else would stop this process, were the one that started it killed
            with contextlib.suppress(OSError, AttributeError):  # elsewhere than under Linux
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        ranks = init(device)
        if not ranks.is_rank_zero:
            logging.getLogger().setLevel(logging.WARNING)
        return ranks
    if device.num_nodes > 1:
        raise CSBError(
            f"trainer.num_nodes={device.num_nodes} needs a process for each device of every machine; start them with "
            f"srun or torchrun"
        )
    device.require_gpus()
    start(device.devices, command)
    return None
