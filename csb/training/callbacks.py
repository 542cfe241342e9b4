"""What happens beside the fit: the bar over the half-steps, metrics on our own axis, checkpoints, pictures."""

from collections.abc import Callable
from typing import Any, Protocol

import lightning as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from csb.bridge import Bridge
from csb.training.plan import HalfStep

Metrics = dict[str, float]


class Observer(Protocol):
    """Looks at the bridge during training: makes pictures and diagnostics, and must not touch its weights."""

    def within(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        """Called every ``observe_every`` steps, with the averaged weights."""
        ...

    def after(self, bridge: Bridge, half_step: HalfStep, losses: list[float]) -> Metrics:
        """Called at the end of a half-step, with the loss of each of its steps; returns diagnostics by name."""
        ...


class Bar:
    """The progress bar: optimiser steps over all half-steps, what is being done, the loss and the time left."""

    def __init__(self, plan: list[HalfStep], done: int, enabled: bool = True) -> None:
        self.plan, self.loss = plan, float("nan")
        self.progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True), TextColumn("loss {task.fields[loss]}"),
            console=Console(stderr=True), disable=not enabled,
        )  # fmt: skip
        total = sum(h.steps for h in plan)
        self.task = self.progress.add_task("starting", total=total, completed=done, loss="–")

    def describe(self, half_step: HalfStep, doing: str) -> None:
        """Says what is being done in which half-step."""
        iterations = self.plan[-1].iteration
        text = f"{half_step.direction} {half_step.iteration}/{iterations} · {doing}"
        self.progress.update(self.task, description=text)

    def advance(self, loss: float) -> None:
        """One optimiser step."""
        self.loss = loss if self.loss != self.loss else 0.98 * self.loss + 0.02 * loss
        self.progress.update(self.task, advance=1, loss=f"{self.loss:.4f}")


class Reporter(Callback):
    """After each optimiser step: the bar, and every ``log_every`` steps the loss and learning rate to the loggers.

    ``losses`` are those of the half-step so far, to which each step's is added.
    """

    def __init__(
        self,
        bar: Bar,
        log: Callable[[Metrics, int], None],
        offset: int,
        losses: list[float],
        log_every: int = 20,
    ) -> None:
        self.bar, self.write, self.offset, self.log_every = bar, log, offset, log_every  # Lightning owns self.log
        self.losses = losses

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(module.last_loss)
        self.losses.append(loss)
        self.bar.advance(loss)
        if (batch.step + 1) % self.log_every == 0:
            recent = self.losses[-self.log_every :]
            name, lr = module.half_step.direction, trainer.optimizers[0].param_groups[0]["lr"]
            metrics = {f"loss/{name}": sum(recent) / len(recent), "lr": lr, "iteration": module.half_step.iteration}
            self.write(metrics, self.offset + batch.step + 1)


class Every(Callback):
    """Calls ``action(step)`` after every ``period`` optimiser steps of the half-step, when ``step`` are done."""

    def __init__(self, period: int, action: Callable[[int], None]) -> None:
        self.period, self.action = period, action

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch.step + 1) % self.period == 0:
            self.action(batch.step + 1)
