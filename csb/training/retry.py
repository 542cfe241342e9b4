"""Going back to the last good state after a divergence, with a lower learning rate."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from csb.training.bar import Bar, Metrics, Report
from csb.training.divergence import Diverged, LossWatch
from csb.training.fit import Fit
from csb.training.module import FitModule
from csb.training.ranks import ALONE, Ranks
from csb.training.settings import DeviceSettings
from csb.training.state import Progress, load_progress, restore_weights, save_progress, take_weights, to_cpu

LOWER = 0.3  # the factor on the learning rate of a retry
logger = logging.getLogger(__name__)


def rate_factor(progress: Progress) -> float:
    """The factor on all learning rates from here on: 0.3 for each retry so far."""
    return LOWER ** len(progress.retries)


def restore(module: FitModule, progress: Progress, device: DeviceSettings, clip: float, ranks: Ranks = ALONE) -> Fit:
    """Puts a fresh module where the progress stands, ready to go on."""
    if progress.average is not None:
        take_weights(module.average, progress.average)
    module.rate_factor = rate_factor(progress)
    return Fit(module, device, clip, ranks, progress.optimizer)


def record(fit: Fit, progress: Progress, step: int) -> bool:
    """Takes the state after ``step`` steps down in the progress; False where the loss may be exploding."""
    progress.step, progress.optimizer = step, to_cpu(fit.optimizer.state_dict())
    progress.average = to_cpu(fit.module.average.state_dict())
    return LossWatch(progress.losses).suspicious() is None


def roll_back(
    path: Path, start: Progress, fingerprint: dict[str, Any], failed: Progress, error: Diverged, most: int
) -> Progress:
    """The last good state, with the retry on its record, which is written before anything else is done.

    What follows is a function of the state alone, so a training that is killed after a retry ends as one that is not.

    Args:
        path: of the state file; where there is none, no checkpoint was reached, and ``start`` is gone back to.
        start: the progress at step 0 of the whole training, with the initial weights.
        fingerprint: of the settings.
        failed: where the training stands.
        error: what ended it, raised again where ``most`` retries were made.
        most: optimizer.retries.
    """
    number = len(failed.retries) + 1
    if number > most:
        raise error
    good = load_progress(path, fingerprint) if path.exists() else start
    record = {"half_step": failed.half_step, "failed_after": len(failed.losses), "from": [good.half_step, good.step],
              "rate_factor": LOWER**number, "reason": str(error)}  # fmt: skip
    good.retries = [*failed.retries, record]
    good.seconds = failed.seconds
    save_progress(path, good, fingerprint)
    logger.warning(
        "%s; retry %d of %d: on from step %d with the learning rate times %.3g",
        str(error).partition(";")[0], number, most, good.step, LOWER**number,
    )  # fmt: skip
    return good


class Stage:
    """The progress, on disk and in memory, of a training of one network.

    Args:
        path: of the state file. Without ``resume`` one that is there is removed.
        fingerprint: plain data; a resumed training must have the same.
        model: with initial weights; changed in place.
        retries: optimizer.retries.

    Raises:
        CSBError: a state that is damaged or of other settings.
    """

    def __init__(self, path: Path, fingerprint: dict[str, Any], model: nn.Module, retries: int, resume: bool) -> None:
        self.path, self.fingerprint, self.model, self.retries = path, fingerprint, model, retries
        if not resume:
            path.unlink(missing_ok=True)
        self.progress = load_progress(path, fingerprint) if path.exists() else Progress()
        self.start = Progress(weights=to_cpu(model.state_dict())) if retries else Progress()
        self.started = time.perf_counter() - self.progress.seconds

    def restore(self, make: Callable[[], FitModule], device: DeviceSettings, clip: float) -> Fit:
        """The fit of the module that ``make`` makes of the model, where the progress stands."""
        if self.progress.weights:
            restore_weights(self.model, self.progress, self.path)
        return restore(make(), self.progress, device, clip)

    def run(self, fit: Fit, batches: Iterable[Any], report: Report, every: int) -> None:
        """A step on each batch, with a state on the disk after every so many, and at the end."""

        def after(step: int, loss: float, rate: float) -> None:
            report(step, loss, rate)
            if step % every == 0:
                self.save(fit, step)

        fit.run(batches, after, lambda: self.save(fit, len(self.progress.losses)))

    def save(self, fit: Fit, step: int) -> None:
        """The progress after ``step`` steps; not written where the loss may be exploding."""
        good = record(fit, self.progress, step)
        self.progress.seconds = time.perf_counter() - self.started
        self.progress.weights = to_cpu(self.model.state_dict())
        if good:
            save_progress(self.path, self.progress, self.fingerprint)

    def until_done(self, attempt: Callable[[], FitModule], bar: Bar, log: Callable[[Metrics, int], None]) -> FitModule:
        """What ``attempt`` returns, begun again from the last good state after each divergence."""
        while True:
            try:
                return attempt()
            except Diverged as error:
                failed = len(self.progress.losses)
                self.progress = roll_back(self.path, self.start, self.fingerprint, self.progress, error, self.retries)
                log({"retries": len(self.progress.retries)}, failed)
                bar.go_to(self.progress.step)

    def reported(self) -> dict[str, Any]:
        """What goes with the trained model: seconds, optimiser steps, and how often the training went back."""
        progress = self.progress
        retries = {"retries": len(progress.retries)} if progress.retries else {}
        return {"seconds": progress.seconds, "steps": progress.step, **retries}
