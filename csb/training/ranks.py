"""The processes of one training on several devices: who each is, what they tell each other, and who reports a failure.

Each device has one process, started from outside (``torchrun``, ``srun``) or by csb (:mod:`csb.cli.launch`). Their
number leaves no trace in the result but the order of floating-point sums: random numbers are drawn for the whole
training, by every process alike, and each computes on its share of the rows: of each batch, whose gradients are
averaged (:mod:`csb.training.fit`); of the cache (:func:`csb.training.pairs.fill`), whose shares are exchanged, as any
row may go to any process; and of the validation's batches.

Process 0 decides and writes: checkpoints, the calibration, logs and pictures are its own. A resumed training is
bit-identical for the same number of processes, which is in the run's fingerprint; another is refused.

Where one process fails, the others find its connection closed, and end; one line is printed in all, by whoever asks
:func:`reports_first`. Fabric's launching and exchanges would not do: it offers no store in which the processes agree on
who reports, only one time limit for joining and for waiting, and it moves what is exchanged to the GPU.
"""

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from csb.errors import CSBError, in_one_line
from csb.training.settings import DeviceSettings

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

T = TypeVar("T")
JOINING, WAITING = timedelta(minutes=10), timedelta(hours=2)  # for all to be there; for one that has more to do alone
PEER_FAILED = (
    "another process of this training ended without a word, perhaps for want of memory; resume=true goes on from the "
    "last checkpoint"
)


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training; by default the only one."""

    rank: int = 0  # of 0..size − 1; 0 decides and writes
    size: int = 1
    local: int = 0  # the process's number on its machine

    @classmethod
    def of(cls, device: DeviceSettings) -> "Ranks":
        """Return what :func:`init` made. CSBError where the settings want several and they were not joined."""
        if device.world == 1:
            return ALONE
        if _own.size != device.world:
            raise CSBError(f"trainer.devices={device.devices} takes {device.world} processes; start it with csb train")
        return _own

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return this process's share of ``count`` rows: neighbours, as many as any other's or one more."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def broadcast(self, value: T) -> T:
        """Return process 0's value, in all."""
        box = [value if self.is_rank_zero else None]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # pyright: ignore[reportReturnType]

    def all_reduce(self, rows: Tensor) -> None:
        """Fill in, on the CPU and in place, what the others have computed, 0 so far; nobody goes on before all do."""
        if self.size > 1:
            dist.all_reduce(rows if rows.dtype == torch.float32 else rows.view(torch.uint8))  # of bytes: the same bits


ALONE = Ranks()
_own: Ranks = ALONE
_store: Any = None


def environment() -> "ClusterEnvironment | None":
    """Tell who started this process as one of several: torchrun, or :mod:`csb.cli.launch`; srun; None: nobody.

    A batch script under Slurm has tasks to start, but is not one of them: srun alone sets SLURM_STEP_NUM_TASKS.
    CSBError where srun was not told how many tasks a machine has.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # which takes seconds
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if dist.is_available() and dist.is_torchelastic_launched():
        return TorchElasticEnvironment()
    if (tasks := int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))) > 1 and "SLURM_PROCID" in os.environ:
        if "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise CSBError(f"srun started {tasks} tasks without --ntasks-per-node; give it, as many as trainer.devices")
        return SLURMEnvironment(auto_requeue=False)
    return None


def init(device: DeviceSettings) -> Ranks:
    """Join the processes that were started for this training, each with a device of its own.

    CSBError where their number is not the settings', this machine has too few GPUs, or some do not come.
    """
    global _own, _store
    where = environment()
    started = 1 if where is None else where.world_size()
    if where is None or started != device.world:
        raise CSBError(
            f"trainer.devices={device.devices} × trainer.num_nodes={device.num_nodes} takes {device.world} processes "
            f"and {started} were started; start one a device, or set trainer.devices to those of a machine"
        )
    ranks = Ranks(where.global_rank(), started, where.local_rank())
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = where.main_address, str(where.main_port)
    device.require_gpus()
    if gpu := device.where.type == "cuda":
        torch.cuda.set_device(ranks.local)
    try:
        _store, _, _ = next(rendezvous("env://", ranks.rank, ranks.size, timeout=JOINING))
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        store = PrefixStore("csb", _store)
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=WAITING)
    except dist.DistError as error:
        reason = in_one_line(error, 120)
        raise CSBError(f"the {ranks.size} processes of the training did not find each other ({reason})") from error
    _own = ranks
    return ranks


def destroy() -> None:
    """End what :func:`init` began, after the last exchange."""
    if _store is not None and dist.is_initialized():
        dist.destroy_process_group()


def reports_first() -> bool:
    """Whether this process is the one to print why the training ends: the first that asks, by itself always.

    What ends all of them at once, such as a loss that is not finite, is left to process 0.
    """
    if _store is None:
        return True
    if not _own.is_rank_zero:
        time.sleep(0.3)
    try:
        return _store.add("csb_reported", 1) == 1
    except (dist.DistError, RuntimeError):  # the store was process 0's, which has ended and said why
        return False


def peer_failed(error: BaseException) -> bool:
    """Whether an error tells that another process has ended."""
    if _store is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection closed" in str(error)
