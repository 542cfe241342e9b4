"""What happens beside the fit: the bar over the half-steps, metrics on our own axis, checkpoints, pictures."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import IO, Any, Protocol, cast

import lightning as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn.parallel import DistributedDataParallel

from csb.bridge import Bridge
from csb.errors import ENDING, Terminated
from csb.training.divergence import LossWatch, exploded
from csb.training.module import FitModule
from csb.training.plan import HalfStep
from csb.training.ranks import environment
from csb.training.settings import DeviceSettings

Metrics = dict[str, float]
_NEWER = "forward_sync_buffers"  # torch 2.14's name of it
_BUFFERS = _NEWER if _NEWER in signature(DistributedDataParallel).parameters else "broadcast_buffers"


class Observer(Protocol):
    """Looks at the bridge during training: makes pictures and diagnostics, and must not touch its weights."""

    def within(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        """Called every ``observe_every`` steps, with the averaged weights."""
        ...

    def after(self, bridge: Bridge, half_step: HalfStep, losses: list[float]) -> Metrics:
        """Called at the end of a half-step, with the loss of each of its steps; returns diagnostics by name."""
        ...


class _Screen:
    """A stream that rich writes to. Once it has gone away, nothing more is shown."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.gone = stream, False

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if not self.gone:
            try:
                action()
            except (OSError, ValueError):  # a closed pipe, a terminal that hung up; a closed file
                self.gone = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Bar:
    """The progress bar: optimiser steps of the whole training, what is being done, the loss and the time left."""

    def __init__(self, total: int, done: int, enabled: bool = True) -> None:
        self.loss = float("nan")
        screen = None if sys.stderr is None else cast(IO[str], _Screen(sys.stderr))  # None: nothing is shown
        self.progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True), TextColumn("loss {task.fields[loss]}"),
            console=Console(file=screen, stderr=True), disable=not enabled,
        )  # fmt: skip
        self.task = self.progress.add_task("starting", total=total, completed=done, loss="–")

    def describe(self, text: str) -> None:
        """Says what is being done."""
        self.progress.update(self.task, description=text)

    def go_to(self, done: int) -> None:
        """So many steps are done: a training went back."""
        self.progress.update(self.task, completed=done)

    def skip(self, steps: int) -> None:
        """Steps that are not needed."""
        self.progress.update(self.task, advance=steps)

    def advance(self, loss: float) -> None:
        """One optimiser step."""
        self.loss = loss if self.loss != self.loss else 0.98 * self.loss + 0.02 * loss
        self.progress.update(self.task, advance=1, loss=f"{self.loss:.4f}")


class Reporter(Callback):
    """After each optimiser step: the bar, and every ``log_every`` steps the loss and learning rate to the loggers.

    ``losses`` are those of the fit so far, to which each step's is added; ``name`` is the loss's in the logs, ``about``
    goes with it. Raises Diverged where they explode (see :class:`csb.training.divergence.LossWatch`).
    """

    def __init__(
        self,
        bar: Bar,
        log: Callable[[Metrics, int], None],
        offset: int,
        losses: list[float],
        name: str,
        about: Metrics | None = None,
        log_every: int = 20,
    ) -> None:
        self.bar, self.write, self.offset, self.log_every = bar, log, offset, log_every  # Lightning owns self.log
        self.losses, self.name, self.about, self.watch = losses, name, about or {}, LossWatch(losses)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(module.last_loss)
        self.losses.append(loss)
        if (found := self.watch.exploded()) is not None:
            raise exploded(*found, module.where(batch.step))
        self.bar.advance(loss)
        if (batch.step + 1) % self.log_every == 0:
            recent = self.losses[-self.log_every :]
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            metrics = {f"loss/{self.name}": sum(recent) / len(recent), "lr": lr, **self.about}
            self.write(metrics, self.offset + batch.step + 1)


class Every(Callback):
    """Calls ``action(step)`` after every ``period`` optimiser steps of the fit, when ``step`` are done."""

    def __init__(self, period: int, action: Callable[[int], None]) -> None:
        self.period, self.action = period, action

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch.step + 1) % self.period == 0:
            self.action(batch.step + 1)


class _Stop(Callback):
    """Ends a fit after the running step once a signal of ENDING has come to one of its processes.

    Lightning's own handler of SIGTERM is replaced: of several processes it waits for all the others' handlers, while
    they may be waiting for this one's gradients.
    """

    def __init__(self, module: FitModule) -> None:
        self.module = module

    @property
    def number(self) -> int:
        """That of the signal; 0 while there is none, SIGTERM where it came to another process."""
        return self.module.asked or (signal.SIGTERM if self.module.ends else 0)

    def _note(self, number: int, frame: Any) -> None:
        self.module.asked = number

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._listen()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop |= module.ends or (module.asked != 0 and module.ranks.size == 1)

    def _listen(self) -> dict[int, Any]:
        """Notes the signals, but for one that is ignored. Returns the handlers from before, none in other threads."""
        here = threading.current_thread() is threading.main_thread()
        ours = [number for number in ENDING if here and signal.getsignal(number) != signal.SIG_IGN]
        return {number: signal.signal(number, self._note) for number in ours}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, signals are noted and no more."""
        before = self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _repeatable(where: torch.device) -> AbstractContextManager[Any]:
    """Inside, convolutions on a GPU have gradients that are the same each time."""
    cudnn = torch.backends.cudnn
    if where.type != "cuda":
        return nullcontext()
    return cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=cudnn.allow_tf32)


def fit(
    module: FitModule,
    batches: Any,
    device: DeviceSettings,
    clip: float,
    callbacks: list[Callback],
    save: Callable[[], None],
) -> None:
    """One Trainer's fit over the batches, with nothing on the screen or disk but what the callbacks put there.

    At its end it calls ``save``. Raises KeyboardInterrupt on Ctrl+C, which Lightning would turn into a silent exit. On
    SIGTERM or SIGHUP it ends after the running step, and raises Terminated when it has saved.
    """
    several: dict[str, Any] = {}
    if device.world > 1:  # of processes that have joined; buffers are constants
        buffers: dict[str, Any] = {_BUFFERS: False}
        strategy = DDPStrategy(**buffers, gradient_as_bucket_view=True)
        several = {"strategy": strategy, "num_nodes": device.num_nodes, "plugins": [environment()]}
    stop = _Stop(module)
    trainer = pl.Trainer(
        accelerator=device.where.type, devices=device.devices, precision=device.precision, **several,  # type: ignore[arg-type]
        max_epochs=1, gradient_clip_val=clip, callbacks=[*callbacks, stop], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module.train()
    with stop.listening(), _repeatable(device.where):
        try:
            trainer.fit(module, train_dataloaders=batches)
        except SIGTERMException:  # of Lightning, before the first step
            module.asked = signal.SIGTERM
        except SystemExit:
            if trainer.interrupted:
                raise KeyboardInterrupt from None
            raise
        save()
    if stop.number:
        raise Terminated(stop.number)
