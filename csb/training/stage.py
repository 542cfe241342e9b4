"""What all trainings share: where they stand, in memory and on the disk, and the way back after a divergence."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Columns
from torch import nn

from csb.files import OLD_SUFFIX, SUFFIX, model_file
from csb.training.fit import BLOCK, LAST, Fit, FitModule, LossWatch
from csb.training.ranks import ALONE, Ranks
from csb.training.settings import DeviceSettings, OptimizerSettings
from csb.training.state import Diverged, Progress, load_progress, restore_weights, save_progress, take_weights, to_cpu

LOWER = 0.3  # the factor on the learning rate of a retry
LOG_EVERY = 20  # steps whose mean loss is logged
T = TypeVar("T")
Metrics = dict[str, float]
logger = logging.getLogger(__name__)


class _Screen:
    """A stream that rich writes to; once it has gone away, nothing more is shown."""

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


def _console() -> Console:
    """Standard error; nothing is shown where there is none."""
    return Console(file=None if sys.stderr is None else cast(IO[str], _Screen(sys.stderr)), stderr=True)


@contextmanager
def working(text: str, shown: bool) -> Iterator[None]:
    """Show by a bar without an end what is being done inside, and for how long."""
    columns = TextColumn("[bold]{task.description}"), BarColumn(), TimeElapsedColumn()
    with Columns(*columns, console=_console(), disable=not shown, transient=True) as progress:
        progress.add_task(text, total=None)
        yield


class Bar:
    """Optimiser steps of the whole training, what is being done, the loss and the time left."""

    def __init__(self, total: int, done: int, enabled: bool = True) -> None:
        self.loss, self.total, self.skipped = float("nan"), total, 0
        self.progress = Columns(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"), TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("loss {task.fields[loss]}"),
            console=_console(), disable=not enabled,
        )  # fmt: skip
        self.task = self.progress.add_task("starting", total=total, completed=done, loss="–", left="left")

    def describe(self, text: str, **fields: Any) -> None:
        self.progress.update(self.task, description=text, **fields)

    def go_to(self, done: int) -> None:
        """Go to where so many steps are done, those that were not needed included."""
        self.progress.update(self.task, completed=done - self.skipped)

    def shorten(self, steps: int) -> None:
        """Leave out steps that are not needed: the time that is left is estimated by those that are taken."""
        self.skipped += steps
        self.progress.update(self.task, total=self.total - self.skipped)

    def advance(self, loss: float) -> None:
        self.loss = loss if self.loss != self.loss else 0.98 * self.loss + 0.02 * loss
        self.progress.update(self.task, advance=1, loss=f"{self.loss:.4f}")


@dataclass(frozen=True)
class Setup:
    """What a training is given beside its model, its data and its own settings."""

    folder: Path  # of the files
    optimizer: OptimizerSettings
    device: DeviceSettings
    seed: int  # of all batches and caches
    fingerprint: dict[str, Any] = field(default_factory=dict)  # plain data; a resumed training must have the same
    about: dict[str, Any] = field(default_factory=dict)  # plain data that goes with the trained model
    log: Callable[[Metrics, int], None] = lambda metrics, step: None  # on the axis of all optimiser steps
    bar: bool = True  # whether progress is shown


class Stage:
    """Where a training stands. CSBError for a state that is damaged or of other settings.

    Args:
        name: of the state file.
        model: with initial weights; changed in place.
        parts: optimiser steps of the training's parts, one after the other.
        resume: go on from the state file, where there is one; otherwise it is removed.
        ranks: the processes of the training; the first alone reads, writes and shows.
    """

    watch: LossWatch  # over the losses of the running fit

    def __init__(
        self, name: str, model: nn.Module, setup: Setup, parts: list[int], resume: bool, ranks: Ranks = ALONE
    ) -> None:
        self.name, self.model, self.setup, self.parts, self.ranks = name, model, setup, parts, ranks
        if ranks.is_rank_zero and not resume:
            self.remove()
        self.progress = ranks.broadcast(self._stored() or Progress() if ranks.is_rank_zero else Progress())
        if self.progress.weights:
            restore_weights(model, self.progress, self.path)
        self.start = Progress(weights=to_cpu(model.state_dict())) if setup.optimizer.retries else Progress()
        self.started = time.perf_counter() - self.progress.seconds
        self.bar = Bar(sum(parts), self.done, setup.bar and ranks.is_rank_zero)

    @property
    def offset(self) -> int:
        """Optimiser steps of the parts that are finished."""
        return sum(self.parts[: self.progress.half_step])

    @property
    def done(self) -> int:
        """Optimiser steps of the whole training."""
        return self.offset + self.progress.step

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, that before it was resumed included."""
        return time.perf_counter() - self.started

    def log(self, metrics: Metrics, step: int) -> None:
        if self.ranks.is_rank_zero:
            self.setup.log(metrics, step)

    def fit(self, module: FitModule) -> Fit:
        """Make the fit of a fresh module, where the progress stands."""
        progress, setup = self.progress, self.setup
        if progress.average is not None:
            take_weights(module.average, progress.average)
        module.rate_factor = LOWER ** len(progress.retries)
        self.watch = LossWatch(progress.losses)
        return Fit(module, setup.device, setup.optimizer.clip, self.ranks, progress.optimizer)

    def run(
        self,
        fit: Fit,
        batches: Iterable[Any],
        name: str,
        every: int,
        validate: Callable[[int], None] | None = None,
        observe: Callable[[int], None] | None = None,
        about: Metrics | None = None,
    ) -> None:
        """Take a step on each batch, until the progress is stopped, and report it. Diverged where losses explode.

        ``about`` is logged beside the loss of this name and the learning rate. A state is written after ``every`` steps
        and at the end, between ``validate`` and ``observe``, which are called with the number of steps done.
        """
        progress, losses, offset = self.progress, self.progress.losses, self.offset

        def after(step: int, loss: float, rate: float) -> bool:
            losses.append(loss)
            if len(losses) % BLOCK == 0:
                self.watch.check(fit.module.where(step - 1), BLOCK)
            self.bar.advance(loss)
            if step % LOG_EVERY == 0:
                recent = losses[-LOG_EVERY:]
                self.log({f"loss/{name}": sum(recent) / len(recent), "lr": rate, **(about or {})}, offset + step)
            if validate is not None:
                validate(step)
            if step % every == 0:
                self.save(fit, step)
            if observe is not None:
                observe(step)
            return progress.stopped

        fit.run(batches, after, lambda: self.save(fit, len(losses)))

    def save(self, fit: Fit, step: int) -> None:
        """Take the state after ``step`` steps down; it is not written where the loss may be exploding."""
        progress = self.progress
        progress.step, progress.optimizer = step, to_cpu(fit.state)
        progress.average = to_cpu(fit.module.average.state_dict())
        if self.watch.exploded(LAST) is None:
            self.write()

    def write(self) -> None:
        """Write the progress with the model's weights. Diverged where a number is not finite, in every process."""
        self.progress.weights = to_cpu(self.model.state_dict())
        if self.ranks.is_rank_zero:
            self.progress.seconds = self.seconds
            self._keep(self.progress)
        else:
            self.progress.require_finite()  # all find what one finds, and go back together

    @property
    def path(self) -> Path:
        """The state file that is there; that of an older version is replaced by the first that is written."""
        return model_file(self.setup.folder, self.name)

    def _stored(self) -> Progress | None:
        return load_progress(self.path, self.setup.fingerprint) if self.path.exists() else None

    def _keep(self, progress: Progress) -> None:
        save_progress(self.setup.folder / f"{self.name}{SUFFIX}", progress, self.setup.fingerprint)
        (self.setup.folder / f"{self.name}{OLD_SUFFIX}").unlink(missing_ok=True)

    def remove(self) -> None:
        for suffix in (SUFFIX, OLD_SUFFIX):
            (self.setup.folder / f"{self.name}{suffix}").unlink(missing_ok=True)

    def until_done(self, attempt: Callable[[], T]) -> T:
        """Return what ``attempt`` returns, called again from the last good state after each divergence."""
        with self.bar.progress:
            while True:
                try:
                    return attempt()
                except Diverged as error:
                    if len(self.progress.retries) >= self.setup.optimizer.retries:
                        raise
                    self._roll_back(error)

    def _roll_back(self, error: Diverged) -> None:
        """Go back to the last good state, or that of the start, with the retry on its record.

        It is written before anything else is done: a training that is killed after a retry ends as one that is not.
        """
        failed, good, at = self.progress, self.start, self.offset + len(self.progress.losses)
        if self.ranks.is_rank_zero:
            good, number = self._stored() or good, len(failed.retries) + 1
            record = {
                "half_step": failed.half_step, "failed_after": len(failed.losses), "from": [good.half_step, good.step],
                "rate_factor": LOWER**number, "reason": str(error),
            }  # fmt: skip
            good.retries, good.seconds = [*failed.retries, record], failed.seconds
            self._keep(good)
            logger.warning(
                "%s; retry %d of %d: on from step %d with the learning rate times %.3g",
                str(error).partition(";")[0], number, self.setup.optimizer.retries, good.step, LOWER**number,
            )  # fmt: skip
        self.progress = self.ranks.broadcast(good)
        take_weights(self.model, self.progress.weights)
        self.log({"retries": len(self.progress.retries)}, at)
        self.bar.go_to(self.done)
