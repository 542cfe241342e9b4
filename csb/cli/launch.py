"""The processes of a command: the jobs of a sweep by its launcher, and those of a training on several devices.

``csb train trainer.devices=4`` runs itself again, once for each device, under torch's elastic agent, and waits. Under
torchrun, Slurm's srun, or in the tasks of a submitit job, the processes are there already, and join
(:mod:`csb.training.ranks`).
"""

import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from csb.cli.ends import PARENT
from csb.errors import ENDING, CSBError

BASIC, JOBLIB, LOCAL, SLURM = "BasicLauncher", "JoblibLauncher", "LocalLauncher", "SlurmLauncher"
_PACKAGES = {"joblib": "hydra-joblib-launcher", "submitit": "hydra-submitit-launcher"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Launch(NamedTuple):
    """A checked sweep.

    Attributes:
        launcher: class name of Hydra's launcher.
        jobs: how many there are.
        parallel: how many run at a time on this machine; 0 where they run on others.
        folders: which the jobs' folders lie in.
    """

    launcher: str
    jobs: int
    parallel: int
    folders: tuple[Path, ...]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def explain_missing(message: str) -> str:
    """The message of a config that does not compose; of a launcher that is not installed, how to install it."""
    found = re.search(r"hydra/launcher/((joblib|submitit)\w*)", message)
    if found is None:
        return message
    return f"the launcher {found[1]} needs the package {_PACKAGES[found[2]]}; run pip install -e '.[sweep]'"


def launcher_of(config: DictConfig) -> str:
    """The class name of the launcher of a config that holds Hydra's part."""
    return str(config.hydra.launcher._target_).rpartition(".")[2]


def check_launch(config: DictConfig) -> str:
    """Check the launcher of one valid job of a sweep and return its class name.

    CSBError for jobs of several devices outside Slurm, where jobs run inside one process; for a Slurm launcher that
    does not start a task for each of their devices; and for it where there is no Slurm.
    """
    launcher, own, trainer = launcher_of(config), config.hydra.launcher, config.trainer
    if (world := trainer.devices * trainer.num_nodes) > 1 and launcher != SLURM:
        raise CSBError(
            f"-m with {world} devices a job is possible with sweep=slurm alone: elsewhere a job is one process; give "
            f"trainer.devices=1 with sweep=joblib, which puts each job on a GPU of its own, or leave out -m"
        )
    if launcher == SLURM and not (shutil.which("sbatch") and shutil.which("srun")):
        raise CSBError("the Slurm launcher finds no sbatch and srun here; start it where jobs are submitted, or choose "
                       "sweep=joblib or sweep=slurm_local")  # fmt: skip
    for name, key in (("tasks_per_node", "devices"), ("nodes", "num_nodes")) if launcher == SLURM else ():
        if own.get(name, 1) != trainer[key]:
            raise CSBError(
                f"hydra.launcher.{name}={own.get(name, 1)} does not fit trainer.{key}={trainer[key]}; give both the "
                f"same"
            )
    return launcher


def parallel(config: DictConfig, launcher: str, jobs: int) -> int:
    """How many of the jobs run at a time on this machine. CSBError for joblib's n_jobs where it is no number."""
    if launcher != JOBLIB:
        return {SLURM: 0, LOCAL: jobs}.get(launcher, 1)
    n = config.hydra.launcher.n_jobs
    if isinstance(n, bool) or not isinstance(n, int) or n == 0:
        raise CSBError(f"hydra.launcher.n_jobs={n!r} is not possible; give the number of jobs at a time, or -1")
    return min(jobs, n if n > 0 else max(1, cores() + 1 + n))


@contextmanager
def prepared(launch: Launch) -> Iterator[None]:
    """Inside, worker processes inherit their part of the cores as threads, where no number of threads is set."""
    before = dict(os.environ)
    if launch.parallel > 1 or launch.launcher == LOCAL:
        for name in THREADS:
            os.environ.setdefault(name, str(max(1, cores() // launch.parallel)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def take_gpu() -> None:
    """In a worker of joblib, before CUDA starts: see one of the GPUs alone, which goes by the worker's number.

    Workers outlive jobs, and CUDA keeps the devices it started with: the first job decides for all later ones.
    """
    name, _, number = multiprocessing.current_process().name.partition("-")
    gpus = (os.environ.get(_VISIBLE) or ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    if name == "LokyProcess" and len(gpus) > 1:
        os.environ[_VISIBLE] = gpus[(int(number) - 1) % len(gpus)]


def is_requeued(config: Any, job_id: str, begun: dict[str, Any] | None) -> bool:
    """Whether Slurm has started this job before, after preemption or at its time limit; ``begun``: its marker."""
    return str(config.launcher._target_).endswith(SLURM) and begun is not None and begun.get("id") == job_id


_ROOT = str(Path(__file__).resolve().parents[2])  # which csb is imported from, installed or not
_CHILD = f"import sys; sys.path.append({_ROOT!r}); from csb.cli.main import main; main()"


def start(count: int, command: list[str]) -> None:
    """Start the processes of ``csb *command`` on this machine and wait for them; the first that fails ends all."""
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
