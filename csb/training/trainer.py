"""The IPF loop: half-steps one after the other, each a sequence of cache rounds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from csb.bridge import Bridge, BridgeSpec, Kernel, load, save
from csb.bridge.objectives import Objective
from csb.files import SUFFIX, model_file
from csb.process import Stream
from csb.training.bar import Bar, Metrics, Observer, Report
from csb.training.batches import Batches
from csb.training.cache import Cache, fill
from csb.training.divergence import Diverged, check_divergence
from csb.training.fit import Fit
from csb.training.history import EACH, SCORE, best_iteration, figures
from csb.training.module import HalfStepModule
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.plan import HalfStep, plan
from csb.training.ranks import Ranks
from csb.training.retry import record, restore, roll_back
from csb.training.settings import DeviceSettings, IPFSettings, OptimizerSettings
from csb.training.state import (
    Progress,
    load_progress,
    require_finite,
    restore_weights,
    save_progress,
    take_weights,
    to_cpu,
)
from csb.training.storage import capacity
from csb.training.transfer import compile_networks, on_device
from csb.training.validation import Validation, keep_best

_VALIDATION = 4096  # trajectories of validation pairs


class BridgeTrainer:
    """Trains a bridge.

    Args:
        bridge, spec: the bridge and its description, which goes into the files.
        objective: how kernels are fitted.
        pairs: encoded training pairs; or their z (N, …) and c (N, …), on the CPU.
        folder: where ``state.pt``, ``half_steps/*.safetensors`` and ``bridge.safetensors`` go.
        settings, optimizer, device: see :mod:`csb.training.settings`. For several devices :mod:`csb.training.ranks`
            must have joined the processes; the first alone writes, logs, and calls ``observer`` and ``calibrate``.
        seed: of all batches and caches.
        fingerprint: plain data; a resumed run must have the same.
        about: plain data that goes with each saved bridge.
        observer: pictures and diagnostics.
        calibrate: called with the bridge after each backward half-step; may change the kernels' inflation, and returns
            figures, among them :data:`csb.training.history.SCORE` if the best iteration is to be chosen.
        val: encoded validation pairs, for early stopping; None switches it off.
        log: called as log(metrics, step) on the axis of all optimiser steps.
        bar: show the progress bar.
    """

    def __init__(
        self,
        bridge: Bridge,
        spec: BridgeSpec,
        objective: Objective,
        pairs: EncodedPairs | tuple[Tensor, Tensor],
        folder: Path,
        settings: IPFSettings,
        optimizer: OptimizerSettings,
        device: DeviceSettings,
        seed: int,
        fingerprint: dict[str, Any],
        about: dict[str, Any],
        observer: Observer | None = None,
        calibrate: Callable[[Bridge], dict[str, Any]] | None = None,
        log: Callable[[Metrics, int], None] = lambda metrics, step: None,
        bar: bool = True,
        val: EncodedPairs | tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.bridge, self.spec, self.objective, self.pairs = bridge, spec, objective, as_pairs(pairs)
        self.folder, self.settings, self.optimizer, self.device = folder, settings, optimizer, device
        self.seed, self.fingerprint, self.about = seed, fingerprint, about
        self.ranks = Ranks.of(device)
        self.observer, self.calibrate, self.log, self.show_bar = observer, calibrate, log, bar
        self.val = as_pairs(val) if settings.patience and val is not None else None
        if not self.ranks.main:
            self.observer, self.log, self.show_bar = None, lambda metrics, step: None, False
        compile_networks(bridge, device)
        self.plan = plan(settings)
        self.storage = settings.storage(folder)
        self.cache_size = capacity(
            self.pairs.z_shape, bridge.grid.T, objective, settings.trajectories, settings.cache_bytes,
            dtype=self.storage.dtype, spill=self.storage.folder is not None,
        )  # fmt: skip

    @property
    def state_file(self) -> Path:
        return self.folder / "state.pt"

    def run(self, resume: bool) -> Progress:
        """All half-steps that are not done yet. Returns the final progress, with the diagnostics' history.

        Without ``resume`` a state that is there is removed: what is gone back to is this training's own.
        """
        if not resume and self.ranks.main:
            self.state_file.unlink(missing_ok=True)
        self.progress = load_progress(self.state_file, self.fingerprint) if resume and self.ranks.main else Progress()
        if resume:
            self.progress = self.ranks.share(self.progress)
            restore_weights(self.bridge, self.progress, self.state_file)
        start = Progress(weights=to_cpu(self.bridge.state_dict())) if self.optimizer.retries else Progress()
        self.started = time.perf_counter() - self.progress.seconds
        self.bar = Bar(sum(h.steps for h in self.plan), self._done(self.progress), self.show_bar)
        with self.bar.progress:
            while self.progress.half_step < len(self.plan):
                try:
                    self._half_step(self.plan[self.progress.half_step])
                except Diverged as error:
                    self._go_back(start, error)
        if self.ranks.main:
            self._select()
        return self.progress

    def _go_back(self, start: Progress, error: Diverged) -> None:
        """To the last good state; ``error`` is raised again where there were optimizer.retries of it."""
        failed = self._done(self.progress) - self.progress.step + len(self.progress.losses)
        most = self.optimizer.retries
        if self.ranks.main or len(self.progress.retries) >= most:
            start = roll_back(self.state_file, start, self.fingerprint, self.progress, error, most)
        self.progress = self.ranks.share(start)
        take_weights(self.bridge, self.progress.weights)
        self.log({"retries": len(self.progress.retries)}, failed)
        self.bar.go_to(self._done(self.progress))

    def _select(self) -> None:
        """Writes ``bridge.safetensors``, with the kernels of the best iteration, which ``self.bridge`` then has."""
        history = self.progress.history
        scored = [row for row in history if SCORE in row]
        if self.settings.select == "best" and scored:
            best = best_iteration(scored)
            name = [row["half_step"] for row in history if row["iteration"] == best][-1]
            take_weights(self.bridge, load(model_file(self.folder, f"half_steps/{name}"), of=Bridge).state_dict())
        save(self.bridge, self.folder / "bridge.safetensors", self.about)

    def _half_step(self, half_step: HalfStep) -> None:
        module = HalfStepModule(self.bridge, half_step, self.objective, self.optimizer)
        fit = restore(module, self.progress, self.device, self.optimizer.clip, self.ranks)
        timing = {"fill": 0.0, "fit": 0.0}
        validation = self._validation(module)
        while self.progress.step < half_step.steps and not self.progress.stopped:
            round_ = self.progress.step // self.settings.refresh
            stop = min(half_step.steps, (round_ + 1) * self.settings.refresh)
            clock = time.perf_counter()
            cache = self._fill(half_step, round_)
            timing["fill"] += time.perf_counter() - clock
            try:
                self._fit(fit, module, cache, (self.progress.step, stop), validation)
            finally:
                if cache is not None:
                    cache.close()
            timing["fit"] += time.perf_counter() - clock
            del cache  # before the next one is filled
        self.bar.skip(half_step.steps - self.progress.step)
        self._finish(module, timing, validation)

    def _validation(self, module: HalfStepModule) -> Validation | None:
        if self.val is None:
            return None
        size = min(self.cache_size, _VALIDATION)
        self._describe(module.half_step, "filling the cache")
        bridge, batch_size = self.bridge.eval(), self.settings.batch_size
        return Validation(
            bridge, module, self.objective, self.val, batch_size, size, self.seed, self.storage, self.ranks
        )

    def _fill(self, half_step: HalfStep, round_: int) -> Cache | None:
        if half_step.index == 0:
            return None
        self._describe(half_step, "filling the cache")
        seed = (self.seed, half_step.index, round_, 0, Stream.CACHE)
        bridge, objective, size = self.bridge.eval(), self.objective, self.cache_size
        return fill(bridge, half_step.source, objective, self.pairs, size, seed, storage=self.storage, ranks=self.ranks)

    def _describe(self, half_step: HalfStep, doing: str) -> None:
        self.bar.describe(f"{half_step.direction} {half_step.iteration}/{self.plan[-1].iteration} · {doing}")

    def _fit(
        self,
        fit: Fit,
        module: HalfStepModule,
        cache: Cache | None,
        steps: tuple[int, int],
        validation: Validation | None,
    ) -> None:
        """The steps from one filling of the cache to the next, with a state at their end."""
        half_step, settings, progress = module.half_step, self.settings, self.progress
        self._describe(half_step, "fitting")
        batches = Batches(
            half_step, self.bridge.grid, self.objective, self.pairs, cache, settings.batch_size,
            settings.states_per_pair, self.seed, steps, draw_targets=not module.kernel.integrates_targets,
            ranks=self.ranks,
        )  # fmt: skip
        offset = sum(h.steps for h in self.plan[: half_step.index])
        about: Metrics = {"iteration": half_step.iteration}
        report = Report(self.bar, self.log, offset, progress.losses, half_step.direction, module.where, about)

        def after(step: int, loss: float, rate: float) -> bool:
            report(step, loss, rate)
            if validation is not None and step % settings.validate_every == 0:
                self._validate(module, validation, step)
            if step % settings.checkpoint_every == 0:
                self._save(fit, step)
            if self.observer is not None and step % settings.observe_every == 0:
                self._observe(module, step)
            return progress.stopped

        fit.run(on_device(batches, self.device), after, lambda: self._save(fit, len(progress.losses)))

    def _validate(self, module: HalfStepModule, validation: Validation, step: int) -> None:
        """Keeps the averaged weights if they are the best so far, and stops where none have been for long."""
        settings, offset = self.settings, sum(h.steps for h in self.plan[: module.half_step.index])
        loss = validation.loss()
        self.log({f"val_loss/{module.half_step.direction}": loss}, offset + step)
        keep_best(self.progress, loss, module.average.module, step)
        assert self.progress.best is not None
        self.progress.stopped = step - self.progress.best["step"] >= settings.patience * settings.validate_every

    def _save(self, fit: Fit, step: int) -> None:
        """The state after ``step`` steps of the half-step; not written where the loss may be exploding."""
        if record(fit, self.progress, step):
            self._write()

    def _write(self) -> None:
        self.progress.weights = to_cpu(self.bridge.state_dict())
        if not self.ranks.main:
            require_finite(self.progress)  # all find what one finds, and go back together
            return
        self.progress.seconds = time.perf_counter() - self.started
        save_progress(self.state_file, self.progress, self.fingerprint)

    @contextmanager
    def _averaged(self, module: HalfStepModule) -> Iterator[Bridge]:
        """The bridge with the averaged weights in place of those under training."""
        direction = module.half_step.direction
        kernel = module.average.module
        assert isinstance(kernel, Kernel)
        self.bridge.set_kernel(direction, kernel)
        try:
            yield self.bridge
        finally:
            self.bridge.set_kernel(direction, module.kernel)

    def _observe(self, module: HalfStepModule, step: int) -> None:
        assert self.observer is not None
        with self._averaged(module) as bridge:
            self.observer.within(bridge, module.half_step, step)

    def _finish(self, module: HalfStepModule, timing: dict[str, float], validation: Validation | None) -> None:
        half_step = module.half_step
        check_divergence(self.progress.losses, module.where(self.progress.step))
        kept = validation.restore(self.progress) if validation is not None and self.progress.best is not None else None
        module.adopt_average()
        calibration = self._calibrated(half_step)
        if not self.ranks.main:
            self.progress = Progress(half_step.index + 1, 0, retries=self.progress.retries)
            return
        save(self.bridge, self.folder / "half_steps" / f"{half_step.name}{SUFFIX}", self.about)
        metrics = figures(self.progress, timing, self.cache_bytes if half_step.index else (0, 0), kept) | calibration
        if self.observer is not None:
            metrics |= self.observer.after(self.bridge, half_step, self.progress.losses)
        row = {
            "half_step": half_step.name,
            "iteration": half_step.iteration,
            "direction": half_step.direction,
            **metrics,
            "seconds": time.perf_counter() - self.started,
        }
        history = [*self.progress.history, row]
        self.progress = Progress(half_step.index + 1, 0, history=history, retries=self.progress.retries)
        done = self._done(self.progress)
        self.log({f"{half_step.direction}/{key}": value for key, value in metrics.items() if key != EACH}, done)
        self._write()

    @property
    def cache_bytes(self) -> tuple[int, int]:
        """Bytes of the cache in memory and on the disk."""
        return self.storage.sizes(self.pairs.z_shape, self.bridge.grid.T, self.objective, self.cache_size)

    def _calibrated(self, half_step: HalfStep) -> dict[str, Any]:
        """The figures of ``calibrate``, whose changes of the bridge all processes take over."""
        if self.calibrate is None or half_step.direction == "forward":
            return {}
        self._describe(half_step, "calibrating")
        found = self.calibrate(self.bridge) if self.ranks.main else {}
        if self.ranks.size > 1:
            take_weights(self.bridge, self.ranks.share(to_cpu(self.bridge.state_dict())))
        return found

    def _done(self, progress: Progress) -> int:
        """Optimiser steps of the whole training."""
        return sum(h.steps for h in self.plan[: progress.half_step]) + progress.step
