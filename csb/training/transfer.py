"""What makes a device faster: networks that are compiled, and batches that are there when they are needed.

On the CPU batches are left as they are. A GPU makes its own if :func:`resident` moves the data to it: a batch is then a
few gathers and random numbers, and no state crosses the bus. Data that are too large stay on the CPU, and
:class:`Ahead` makes the next batches in a thread, in pinned memory, and copies them on a stream of its own while the
GPU computes.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from csb.bridge import Bridge
from csb.training.batches import Batch, Batches
from csb.training.cache import Cache
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings


def compile_networks(bridge: Bridge, device: DeviceSettings) -> None:
    """Where the settings ask for it, torch.compile of both networks in place, which weights and their names outlive.

    One kernel for all batch sizes: were sizes compiled as they come up, a resumed run might compute with others. With
    ``cuda_graphs`` torch records the launches, for each size and for each place where the weights come to lie, and
    replays them.
    """
    if device.compile:
        mode = "reduce-overhead" if device.cuda_graphs else None
        for kernel in (bridge.backward_kernel, bridge.forward_kernel):
            kernel.network.compile(dynamic=True, mode=mode)
            kernel.replayed = device.cuda_graphs


def resident(pairs: EncodedPairs, cache: Cache | None, device: DeviceSettings) -> bool:
    """Whether pairs and cache may lie on the GPU: in memory, they take at most ``gpu_share`` of the GPU's.

    Of all it has: what is free depends on what ran before, and where a batch is made on which random numbers it is of.
    """
    kept = [] if cache is None else cache.held()
    if device.where.type != "cuda" or not pairs.in_memory or kept is None:
        return False
    total = torch.cuda.mem_get_info()[1]
    return sum(tensor.nbytes for tensor in (*pairs.head(len(pairs)), *kept)) <= device.gpu_share * total


def on_device(batches: Batches, device: DeviceSettings) -> "Batches | Ahead":
    """The same batches as fast as a device can be given them; on the CPU, ``batches`` as they are."""
    if device.where.type != "cuda":
        return batches
    if resident(batches.pairs, batches.cache, device):
        batches.move(device.where)
        return batches
    own = torch.device("cuda", torch.cuda.current_device())  # another thread's current one is the first
    return Ahead(batches, own)


class Ahead:
    """An iterable over batches that are made, and copied to a device, up to ``depth`` before they are asked for.

    What fails in the making is raised where the batch is asked for. Ending the iteration ends the thread.

    Args:
        batches: on the CPU.
        device: where they are needed; on the CPU they are only made ahead.
        depth: batches that wait.
    """

    def __init__(self, batches: Any, device: torch.device, depth: int = 2) -> None:
        self.batches, self.device, self.depth = batches, device, depth

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        ready: queue.Queue[Any] = queue.Queue(self.depth)
        ended = threading.Event()
        thread = threading.Thread(target=self._make, args=(ready, ended), name="batches-ahead", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield self._arrived(*item)
        finally:
            ended.set()

    def _make(self, ready: queue.Queue[Any], ended: threading.Event) -> None:
        """In the thread: puts (batch, event of its copy), then None or what went wrong."""

        def put(item: Any) -> bool:
            while not ended.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        stream = None
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread
            stream = torch.cuda.Stream(self.device)
        try:
            for batch in self.batches:
                if not put(self._sent(batch, stream)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    def _sent(self, batch: Batch, stream: Any) -> tuple[Batch, Any]:
        """The batch on its way to the device, and the event that its copy is complete."""
        if stream is None:
            return batch, None
        with torch.cuda.stream(stream):
            moved = batch.map(lambda tensor: tensor.pin_memory().to(self.device, non_blocking=True))
            return moved, stream.record_event()

    @staticmethod
    def _arrived(batch: Batch, copied: Any) -> Batch:
        """The batch, in the order of the stream that computes with it."""
        if copied is None:
            return batch
        current = torch.cuda.current_stream()
        current.wait_event(copied)

        def used_here(tensor: Tensor) -> Tensor:
            tensor.record_stream(current)  # so that its memory is not given away before the step ends
            return tensor

        return batch.map(used_here)
