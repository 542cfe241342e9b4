"""What is shown of a training: the bar over its steps, and pictures and diagnostics of the bridge."""

import sys
from contextlib import suppress
from typing import IO, Any, Protocol, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from csb.bridge import Bridge
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
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # a closed pipe, a terminal that hung up; a closed file
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()

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
        """So many steps are done: a training went back, or needs no more of them."""
        self.progress.update(self.task, completed=done)

    def advance(self, loss: float) -> None:
        """One optimiser step."""
        self.loss = loss if self.loss != self.loss else 0.98 * self.loss + 0.02 * loss
        self.progress.update(self.task, advance=1, loss=f"{self.loss:.4f}")
