"""The loop: one optimiser step after another, on one device or several; the modules that it fits, and what ends it.

Lightning Fabric places the module, casts to the precision and averages over processes. The gradients are averaged here
in one exchange a step, and not by Fabric's DDP, which would cast the states of a batch to bfloat16 as well.
"""

import math
import signal
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self, cast

import lightning as pl
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from csb.errors import ENDING, CSBError, ended_by
from csb.training.muon import Muon
from csb.training.ranks import ALONE, Ranks, environment
from csb.training.settings import DeviceSettings, OptimizerSettings
from csb.training.state import REMEDY, Diverged, first_bad, take_weights

BLOCK, LAST = 50, 5  # steps whose median loss is looked at: to stop, and before a checkpoint is written
EXPLODED = 1000.0  # multiple of max(1, |lowest median|) by which a median above the lowest counts as exploded
After = Callable[[int, float, float], bool | None]  # of steps done, loss, learning rate; True ends the fit


class MovingAverage(AveragedModel):
    """A moving average of weights, of shorter memory over the first steps: decay_n = min(decay, (1+n)/(10+n)).

    Step 0 copies them. It is passed in: torch's own update reads a counter for every array, which waits for the GPU.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.weights: list[Tensor] = list(self.module.parameters())  # asked for once: a walk through all modules
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, weights: list[Tensor], step: int) -> None:
        """Take a model's weights in after step n ≥ 0. Buffers are constants of the kernels."""
        share = 1 - min(self.decay, (1 + step) / (10 + step)) if step else 1.0
        torch._foreach_lerp_(self.weights, weights, share)  # pyright: ignore[reportPrivateImportUsage]
        self.n_averaged += 1  # which states of trainings hold; nothing reads it


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Return the rate of a step: linear warm-up over a share of the steps, then cosine decay to 1 % of the peak."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class FitModule(pl.LightningModule):
    """A network under training and the moving average of its weights; :class:`Fit` drives it.

    ``training_step`` gives the loss of a batch, (), to be descended, and sets ``last_loss``, to be shown. Messages name
    the training ``name``; ``peak`` is the learning rate after warm-up, ``rate_factor`` below 1 after a retry.
    """

    last_loss: Tensor

    def __init__(self, model: nn.Module, name: str, steps: int, peak: float, settings: OptimizerSettings) -> None:
        super().__init__()
        self.model, self.name, self.settings = model, name, settings
        self.steps, self.peak, self.rate_factor = steps, peak, 1.0
        self.average = MovingAverage(model, settings.ema)
        self.weights: list[Tensor] = list(model.parameters())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        own = self.settings
        options: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": own.weight_decay, "fused": True}
        return Muon(self.model, own.lr, **options) if own.name == "muon" else AdamW(self.weights, own.lr, **options)

    def learning_rate(self, step: int) -> float:
        return self.rate_factor * learning_rate(step, self.steps, self.peak, self.settings.warmup)

    def where(self, step: int) -> str:
        return f"{self.name} at step {step}"

    def adopt_average(self) -> None:
        """End the fit: the network takes the averaged weights, with which it is frozen and continued."""
        take_weights(self.model, self.average.module.state_dict())


class NetworkModule(FitModule):
    """A network that is fitted by a loss of its batches."""

    def __init__(self, loss: Callable[[Any], Tensor], *fitted: Any) -> None:
        super().__init__(*fitted)
        self.loss = loss

    def training_step(self, batch: Any) -> Tensor:
        loss = self.loss(batch)
        self.last_loss = loss.detach()
        return loss


class _Asked:
    """Inside, Ctrl+C, SIGTERM and SIGHUP are noted, and raised at the end, when all is saved; a second Ctrl+C at once.

    A signal that is ignored stays so, and all are as they were outside the main thread.
    """

    number = 0  # of the signal that asks this process to end; 0 while there is none

    def __call__(self, number: int, frame: Any) -> None:
        if number == self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> Self:
        here = threading.current_thread() is threading.main_thread()
        ours = [number for number in ENDING if here and signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self) for number in ours}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.number:
            raise ended_by(self.number)


class Fit:
    """The optimisation of a module's network, which goes to the device; each of ``ranks`` takes its part of a batch.

    ``state`` is that of the optimiser, by the number of the array of weights, from which it goes on.
    """

    def __init__(
        self,
        module: FitModule,
        device: DeviceSettings,
        clip: float,
        ranks: Ranks = ALONE,
        state: dict[int, Any] | None = None,
    ) -> None:
        where, options = device.where.type, dict[str, Any]()
        plugins: list[Any] = []
        if device.precision == "bf16-mixed":  # by its text Fabric says of each half-step that it is used
            plugins = [MixedPrecision("bf16-mixed", where)]
        if ranks.size > 1:
            options, plugins = {"strategy": "ddp", "num_nodes": device.num_nodes}, [*plugins, environment()]
        self.fabric = Fabric(accelerator=where, devices=device.devices, plugins=plugins, **options)
        self.fabric.launch()
        self.module: FitModule = module.to(self.fabric.device)
        self.clip, self.ranks = clip, ranks
        self.optimizer = module.configure_optimizers()
        if state is not None:  # the settings and the step give the rest
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    @property
    def state(self) -> dict[int, Any]:
        return self.optimizer.state_dict()["state"]

    def run(self, batches: Iterable[Any], after: After, save: Callable[[], None]) -> None:
        """Take a step on each batch, until ``after`` says so or a process is asked to end; then call ``save``.

        Batches are named tuples with a field ``step``. A signal that came, to this process or another, is raised after
        ``save``. CSBError for a loss or a gradient that is not finite, before any weight is changed.
        """
        cudnn = torch.backends.cudnn
        repeatable = nullcontext()  # on a GPU, convolutions' gradients must be the same each time
        if self.fabric.device.type == "cuda":
            repeatable = cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=cudnn.allow_tf32)
        with _Asked() as asked:
            with repeatable:
                self._steps(batches, after, asked)
            save()

    def _steps(self, batches: Iterable[Any], after: After, asked: _Asked) -> None:
        module, optimizer, fabric = self.module.train(), self.optimizer, self.fabric
        alone = self.ranks.size == 1
        for batch in batches:
            rate = module.learning_rate(batch.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with fabric.autocast():
                loss = cast(Tensor, module.training_step(fabric.to_device(batch)))
            optimizer.zero_grad()
            fabric.backward(loss)
            ends = not alone and self._exchange(asked)
            self._check_and_clip(batch)
            optimizer.step()
            module.average.update(module.weights, batch.step)
            enough = after(batch.step + 1, float(module.last_loss), rate)  # which logs, validates and saves
            if enough or ends or (alone and asked.number):
                return

    def _exchange(self, asked: _Asked) -> bool:
        """The mean loss and gradients of all processes; whether they end: at one step, where one of them is asked."""
        gradients = [w.grad for w in self.module.weights if w.grad is not None]
        of_step = torch.stack([loss := self.module.last_loss.float(), loss.new_tensor(float(asked.number > 0))])
        own = torch.cat([*(gradient.flatten() for gradient in gradients), of_step])
        mean = cast(Tensor, self.fabric.all_reduce(own, reduce_op="mean"))
        *parts, of_step = mean.split([*(gradient.numel() for gradient in gradients), 2])
        for gradient, part in zip(gradients, parts):
            gradient.copy_(part.view_as(gradient))
        self.module.last_loss, ends = of_step[0], bool(of_step[1] > 0)
        if ends and not asked.number:
            asked.number = signal.SIGTERM
        return ends

    def _check_and_clip(self, batch: Any) -> None:
        """Clip the norm of the gradients. CSBError, in all processes alike, where it or the loss is not finite."""
        module = self.module
        norm = nn.utils.get_total_norm([w.grad for w in module.weights if w.grad is not None])
        if not bool(torch.isfinite(norm + module.last_loss)):
            raise _not_finite(module, batch)
        if norm > self.clip:
            nn.utils.clip_grads_with_norm_(module.weights, self.clip, norm)


def _not_finite(module: FitModule, batch: Any) -> CSBError:
    """The error of a loss or a gradient that is not finite, with the first array and rows in which it shows."""
    loss, weights = float(module.last_loss), dict(module.model.named_parameters())
    what = "the gradient is not finite" if math.isfinite(loss) else f"the loss became {loss}"
    what = f"{what} in {module.where(batch.step)}"
    if (found := first_bad(batch, "batch")) is not None:
        return CSBError(
            f"{what}: already the data of its batch are not finite, first in {found}; fix the data and train again"
        )
    first = "what the network makes of finite weights and data"
    if math.isfinite(loss) and (found := first_bad({name: w.grad for name, w in weights.items()}, "")) is not None:
        first = f"the gradient of {found}"
    elif (found := first_bad(weights, "")) is not None:
        first = f"the weights {found}"
    return Diverged(f"{what}, first in {first}; {REMEDY}")


class LossWatch:
    """Tells an exploded loss: half of the last steps are far above the lowest earlier median, or the first loss.

    With a negative log-likelihood, which is one a coordinate, this takes errors of 45 standard deviations in every
    coordinate of half the states of a batch, in half of the steps. ``losses`` grow; the verdict is a function of them.
    """

    def __init__(self, losses: list[float]) -> None:
        self.losses, self.lowest, self.seen = losses, math.inf, 0

    def exploded(self, last: int) -> str | None:
        """Say how far the median of so many last losses is above the lowest of a block; None where it is not far."""
        losses = self.losses
        for end in range(self.seen + BLOCK, len(losses) + 1, BLOCK):
            self.lowest, self.seen = min(self.lowest, statistics.median(losses[end - BLOCK : end])), end
        if len(losses) < last:
            return None
        lowest, median = min(self.lowest, losses[0]), statistics.median(losses[-last:])
        if median > lowest + EXPLODED * max(1.0, abs(lowest)):
            return f"the median of the last steps is {median:.4g}, the lowest before was {lowest:.4g}"
        return None

    def check(self, where: str, last: int = LAST) -> None:
        """Raise Diverged where so many last losses count as exploded."""
        if (found := self.exploded(last)) is not None:
            raise Diverged(f"the loss exploded in {where}: {found}; {REMEDY}")


@contextmanager
def with_gradients() -> Iterator[None]:
    """Leave torch's inference mode and no_grad: what is made inside can be trained. Also a decorator."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
