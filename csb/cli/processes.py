"""The processes of a training on several devices: started on this machine as torchrun does, or found started.

``csb train trainer.devices=4`` runs itself again, once for each device, under torch's elastic agent, and waits. Under
torchrun, Slurm's srun, or in the tasks of a submitit job, the processes are there already, and join
(:mod:`csb.training.ranks`).
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from csb.cli.ends import PARENT
from csb.cli.launch import THREADS, cores
from csb.errors import ENDING, CSBError
from csb.training.ranks import Ranks, environment, init
from csb.training.settings import DeviceSettings

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_ROOT = str(Path(__file__).resolve().parents[2])  # which csb is imported from, installed or not
_CHILD = f"import sys; sys.path.append({_ROOT!r}); from csb.cli.main import main; main()"


def begin(device: DeviceSettings, command: list[str]) -> Ranks | None:
    """This process's place in the training; None where it has started the training's processes, and they are done.

    Args:
        device: the settings.
        command: arguments of ``csb`` that do again what this process does.

    Raises:
        CSBError: processes that do not fit the settings, too few GPUs, a process that was killed.
    """
    if device.world == 1:
        if (started := os.environ.get("WORLD_SIZE", "1")) != "1" and "TORCHELASTIC_RUN_ID" in os.environ:
            raise CSBError(f"torchrun started {started} processes; give trainer.devices= those of a machine")
        return Ranks.of(device)
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
    _run(device.devices, command)
    return None


def _run(count: int, command: list[str]) -> None:
    """Starts the processes and waits for them; the first that fails ends all."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it would say of a failure is said below, in one line
    for name in THREADS:
        os.environ.setdefault(name, str(max(1, cores() // count)))
    os.environ[PARENT] = str(os.getpid())
    options: dict[str, Any] = {}  # since torch 2.10 a signal that is ignored, as under nohup, can stay so
    if "signals_to_handle" in LaunchConfig.__dataclass_fields__:
        names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
        heard = [name for name in names if signal.getsignal(signal.Signals[name]) != signal.SIG_IGN]
        options = {"signals_to_handle": ",".join(heard)}
    config = LaunchConfig(
        1, 1, count, DefaultLogsSpecs(), rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        local_addr="localhost", run_id="csb", **options,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-c", _CHILD, *command)
    except ChildFailedError as error:
        killed = {rank: -one.exitcode for rank, one in error.failures.items() if one.exitcode < 0}
        if not killed:  # the process has said why
            raise SystemExit(2) from None
        rank, number = next(iter(killed.items()))
        raise CSBError(
            f"process {rank} of {count} was killed ({signal.Signals(number).name}), perhaps for want of memory; "
            f"resume=true goes on from the last checkpoint"
        ) from None
    except SignalException as error:
        if error.sigval in ENDING:  # the processes got it too, and have said so
            raise SystemExit(2 if error.sigval == signal.SIGINT else 128 + error.sigval) from None
        raise CSBError(f"stopped by {error.sigval.name}; resume=true goes on from the last checkpoint") from None
