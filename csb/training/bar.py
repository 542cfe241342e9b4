"""What is shown of a training: the bar over its steps, and metrics on the axis of all steps."""

import sys
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from csb.bridge import Bridge
from csb.training.divergence import LossWatch, exploded
from csb.training.settings import HalfStep

Metrics = dict[str, float]


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


class Report:
    """Takes the loss of each step: to the bar, and every ``log_every`` steps with the learning rate to the loggers.

    Args:
        bar: shows it.
        log: called as log(metrics, step) on the axis of all optimiser steps.
        offset: optimiser steps before those of this fit.
        losses: those of the fit so far, to which each step's is added.
        name: the loss's in the logs; ``about`` goes with it.
        where: the place of a step in the training, for messages.
    """

    def __init__(
        self,
        bar: Bar,
        log: Callable[[Metrics, int], None],
        offset: int,
        losses: list[float],
        name: str,
        where: Callable[[int], str],
        about: Metrics | None = None,
        log_every: int = 20,
    ) -> None:
        self.bar, self.log, self.offset, self.losses, self.log_every = bar, log, offset, losses, log_every
        self.name, self.where, self.about, self.watch = name, where, about or {}, LossWatch(losses)

    def __call__(self, step: int, loss: float, rate: float) -> None:
        """After ``step`` steps. Raises Diverged where the losses explode."""
        self.losses.append(loss)
        if (found := self.watch.exploded()) is not None:
            raise exploded(*found, self.where(step - 1))
        self.bar.advance(loss)
        if step % self.log_every == 0:
            recent = self.losses[-self.log_every :]
            metrics = {f"loss/{self.name}": sum(recent) / len(recent), "lr": rate, **self.about}
            self.log(metrics, self.offset + step)
