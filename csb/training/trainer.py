"""The training of a bridge: half-steps one after the other, each a sequence of cache rounds."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast

from csb.bridge import Bridge, Kernel, load, save
from csb.bridge.objectives import Objective
from csb.files import SUFFIX, model_file
from csb.process import Stream
from csb.training.half_step import Batches, Draw, HalfStepModule, Validation, on_device
from csb.training.pairs import Cache, EncodedPairs, bytes_per_trajectory, capacity, fill
from csb.training.ranks import Ranks
from csb.training.settings import DTYPES, DeviceSettings, HalfStep, TrainingSettings, plan
from csb.training.stage import Metrics, Setup, Stage
from csb.training.state import EACH, Progress, chosen_iteration, take_weights, to_cpu

logger = logging.getLogger(__name__)
_VALIDATION = 4096  # trajectories of validation pairs
_POINTS = 500  # of a curve of losses


class Observer(Protocol):
    """Looks at the bridge during training: makes pictures and diagnostics, and must not touch its weights."""

    def within(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        """Look every ``observe_every`` steps, at the averaged weights."""

    def after(self, bridge: Bridge, half_step: HalfStep, losses: list[float]) -> Metrics:
        """Look at the end of a half-step, with the loss of each of its steps; return diagnostics by name."""
        ...


class BridgeTrainer:
    """Trains a bridge.

    Args:
        bridge: with initial weights; changed in place.
        objective: how kernels are fitted.
        pairs: encoded training pairs.
        settings: of the alternation.
        setup: of the training; ``state.safetensors``, ``half_steps/*.safetensors`` and ``bridge.safetensors`` go into
            its folder. Of several processes, which must have joined, the first alone writes, logs and observes.
        observer: pictures and diagnostics.
        calibrate: called with the bridge after each backward half-step; may change the kernels' inflation, and returns
            figures, among them :data:`csb.training.state.SCORE` if the best iteration is to be chosen.
        val: encoded validation pairs, for early stopping.
        fresh: called with the index of a half-step and the number of a round of its cache, for other training pairs
            than ``pairs``.
    """

    def __init__(
        self,
        bridge: Bridge,
        objective: Objective,
        pairs: EncodedPairs,
        settings: TrainingSettings,
        setup: Setup,
        *,
        observer: Observer | None = None,
        calibrate: Callable[[Bridge], dict[str, Any]] | None = None,
        val: EncodedPairs | None = None,
        fresh: Callable[[int, int], EncodedPairs] | None = None,
    ) -> None:
        # A fit moves only the kernel that it trains. The other one fills the cache, with a generator of its device:
        # left on the CPU, a resumed training on a GPU would draw other trajectories than an uninterrupted one.
        self.bridge = bridge.to(setup.device.where)
        self.pairs, self.settings, self.setup = pairs, settings, setup
        self.ranks = Ranks.of(setup.device)
        self.observer, self.calibrate = observer if self.ranks.is_rank_zero else None, calibrate
        self.val, self.fresh = val if settings.patience else None, fresh
        compile_networks(bridge, setup.device)
        self.plan = plan(settings)
        self.draw = Draw(
            bridge.grid, objective, settings.batch_size, settings.states_per_pair, setup.seed, ranks=self.ranks
        )
        self.dtype = DTYPES[settings.cache_dtype]
        each = bytes_per_trajectory(bridge.transform, bridge.grid.T, objective, pairs.missing, self.dtype)
        self.cache_size = capacity(each, settings.trajectories, settings.cache_bytes)
        self.cache_bytes = self.cache_size * each

    @property
    def progress(self) -> Progress:
        return self.stage.progress

    def run(self, resume: bool) -> Progress:
        """Take all half-steps that are not done yet. Return the final progress, with the diagnostics' history."""
        self.stage = Stage("state", self.bridge, self.setup, [of.steps for of in self.plan], resume, self.ranks)
        if self.settings.patience:  # steps may turn out not to be needed
            self.stage.bar.describe("starting", left="left, at most")
        self.stage.until_done(self._half_steps)
        if self.ranks.is_rank_zero:
            self._select()
        return self.progress

    def reached(self) -> Bridge:
        """Return the bridge of an interrupted training, with the averaged weights of the fit that it was in."""
        average = self.progress.average if hasattr(self, "stage") else None
        if average is not None:
            kernel = self.bridge.kernel(self.plan[self.progress.half_step].direction)
            take_weights(kernel, {k[len("module.") :]: v for k, v in average.items() if k.startswith("module.")})
        self.bridge.about = self.setup.about
        return self.bridge.eval().requires_grad_(False)

    def _select(self) -> None:
        """Write ``bridge.safetensors``, with the kernels of the best iteration, which ``self.bridge`` then has."""
        folder, history = self.setup.folder, self.progress.history
        if self.settings.select == "best":
            best = chosen_iteration(history)
            name = [row["half_step"] for row in history if row["iteration"] == best][-1]
            take_weights(self.bridge, load(model_file(folder, f"half_steps/{name}"), of=Bridge).state_dict())
        save(self.bridge, folder / "bridge.safetensors", self.setup.about)

    def _half_steps(self) -> None:
        while self.progress.half_step < len(self.plan) and not self._converged():
            self._half_step(self.plan[self.progress.half_step])

    def _converged(self) -> bool:
        """Whether the iteration that ended last samples no better than an earlier one, in all processes."""
        done, found = self.plan[: self.progress.half_step], False
        may = self.ranks.is_rank_zero and self.settings.patience > 0 and self.settings.select == "best"
        if may and done and done[-1].direction == "backward":
            best = chosen_iteration(self.progress.history)
            if found := best < done[-1].iteration:
                logger.info(
                    "iteration %d samples no better than iteration %d on validation pairs: the training ends here "
                    "(training.patience=0 goes on to the last)", done[-1].iteration, best,
                )  # fmt: skip
                self.stage.bar.shorten(sum(self.stage.parts) - self.stage.offset)
        return self.ranks.broadcast(found)

    def _half_step(self, half_step: HalfStep) -> None:
        module = HalfStepModule(self.bridge, half_step, self.draw.objective, self.setup.optimizer)
        draw = replace(self.draw, draw_targets=not module.kernel.integrates_targets)
        stage, progress, settings = self.stage, self.progress, self.settings
        fit, validation = stage.fit(module), None
        if self.val is not None:
            cache = self._fill(half_step, self.val, min(self.cache_size, _VALIDATION), (0, 0, Stream.VALIDATION))
            validation = Validation(module, draw, self.val, cache)
        validate, observe = partial(self._validate, validation), partial(self._observe, module)
        filling, start = 0.0, time.perf_counter()
        while progress.step < half_step.steps and not progress.stopped:
            round_, clock, pairs = progress.step // settings.refresh, time.perf_counter(), self.pairs
            if self.fresh is not None:
                self._describe(half_step, "simulating pairs")
                pairs = self.fresh(half_step.index, round_)
            cache = self._fill(half_step, pairs, self.cache_size, (round_, 0, Stream.CACHE))
            filling += time.perf_counter() - clock
            self._describe(half_step, "fitting")
            steps = progress.step, min(half_step.steps, (round_ + 1) * settings.refresh)
            batches = on_device(Batches(draw, half_step, pairs, cache, steps), self.setup.device)
            at: Metrics = {"iteration": half_step.iteration}
            stage.run(fit, batches, half_step.direction, settings.checkpoint_every, validate, observe, at)
            del cache, batches  # before the next cache is filled
        stage.bar.shorten(half_step.steps - progress.step)
        self._finish(module, filling / max(time.perf_counter() - start, 1e-9), validation)

    def _fill(self, half_step: HalfStep, pairs: EncodedPairs, size: int, key: tuple[int, ...]) -> Cache | None:
        """Simulate the trajectories that a half-step is fitted to; None for the first, which needs none."""
        if half_step.index == 0:
            return None
        self._describe(half_step, "filling the cache")
        bridge, seed = self.bridge.eval(), (self.setup.seed, half_step.index, *key)
        return fill(bridge, half_step.source, self.draw.objective, pairs, size, seed, self.dtype, self.ranks)

    def _describe(self, half_step: HalfStep, doing: str) -> None:
        self.stage.bar.describe(f"{half_step.direction} {half_step.iteration}/{self.plan[-1].iteration} · {doing}")

    def _validate(self, validation: Validation | None, step: int) -> None:
        if validation is None or step % self.settings.validate_every:
            return
        loss, best = validation.record(self.progress, step)
        self.stage.log({f"val_loss/{validation.module.half_step.direction}": loss}, self.stage.offset + step)
        self.progress.stopped = step - best >= self.settings.patience * self.settings.validate_every

    def _observe(self, module: HalfStepModule, step: int) -> None:
        every, half_step = self.settings.observe_every, module.half_step
        early = half_step.index == 0 and step in (every // 8, every // 4, every // 2)
        if self.observer is None or not (early or step % every == 0):
            return
        self.bridge.set_kernel(half_step.direction, cast(Kernel, module.average.module))
        try:
            self.observer.within(self.bridge, half_step, step)
        finally:
            self.bridge.set_kernel(half_step.direction, module.kernel)

    def _finish(self, module: HalfStepModule, fill_share: float, validation: Validation | None) -> None:
        half_step, stage, progress = module.half_step, self.stage, self.progress
        stage.watch.check(module.where(progress.step))
        kept = validation.restore(progress) if validation is not None and progress.best is not None else None
        module.adopt_average()
        calibration = self._calibrated(half_step)
        stage.progress = Progress(half_step.index + 1, retries=progress.retries)
        if not self.ranks.is_rank_zero:
            return
        save(self.bridge, self.setup.folder / "half_steps" / f"{half_step.name}{SUFFIX}", self.setup.about)
        metrics = _figures(progress, fill_share, self.cache_bytes if half_step.index else 0, kept) | calibration
        if self.observer is not None:
            metrics |= self.observer.after(self.bridge, half_step, progress.losses)
        about = {"half_step": half_step.name, "iteration": half_step.iteration, "direction": half_step.direction}
        row = {**about, **metrics, "curve": _curve(progress, kept), "seconds": stage.seconds}
        stage.progress.history = [*progress.history, row]
        logged = {f"{half_step.direction}/{key}": value for key, value in metrics.items() if key != EACH}
        stage.log(logged, stage.done)
        stage.write()

    def _calibrated(self, half_step: HalfStep) -> dict[str, Any]:
        """Return the figures of ``calibrate``, whose changes of the bridge all processes take over."""
        if self.calibrate is None or half_step.direction == "forward":
            return {}
        self._describe(half_step, "calibrating")
        found = self.calibrate(self.bridge) if self.ranks.is_rank_zero else {}
        if self.ranks.size > 1:
            take_weights(self.bridge, self.ranks.broadcast(to_cpu(self.bridge.state_dict())))
        return found


def _figures(progress: Progress, fill_share: float, cache_bytes: int, kept: int | None) -> dict[str, Any]:
    """Of a half-step at its end: "loss" is the mean of the last tenth."""
    tail = progress.losses[-max(1, len(progress.losses) // 10) :]
    found: dict[str, Any] = {"loss": sum(tail) / len(tail), "fill_share": fill_share, "cache_mib": cache_bytes / 2**20}
    if (best := progress.best) is not None:
        found |= {"val_loss": best["loss"], "best_step": best["step"], "kept_step": kept, "steps": progress.step}
    if count := sum(record["half_step"] == progress.half_step for record in progress.retries):
        found["retries"] = count
    return found


def _curve(progress: Progress, kept: int | None) -> dict[str, Any]:
    """The losses of a half-step, means of "every" steps each, at most 500, and what validation saw, for a figure."""
    losses, every = progress.losses, -(-len(progress.losses) // _POINTS) or 1
    parts = [losses[start : start + every] for start in range(0, len(losses), every)]
    seen = {"validation": progress.validated, "kept_step": kept, "stopped": progress.stopped}
    return {"losses": [sum(part) / len(part) for part in parts], "every": every, **seen}


def compile_networks(bridge: Bridge, device: DeviceSettings) -> None:
    """Compile both networks in place where the settings ask for it; weights keep their names.

    One kernel for all batch sizes: were sizes compiled as they come up, a resumed run might compute with others.
    """
    if device.compile:
        mode = "reduce-overhead" if device.cuda_graphs else None
        for kernel in (bridge.backward_kernel, bridge.forward_kernel):
            kernel.network.compile(dynamic=True, mode=mode)
            kernel.replayed = device.cuda_graphs
