"""The loop: one optimiser step after another, on one device or several.

Lightning Fabric places the module, casts to the precision and averages over processes. The gradients are averaged here
in one exchange a step, and not by Fabric's DDP, which would cast the states of a batch to bfloat16 as well.
"""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from csb.errors import ENDING, ended_by
from csb.training.divergence import not_finite
from csb.training.module import FitModule
from csb.training.ranks import ALONE, Ranks, environment
from csb.training.settings import DeviceSettings

After = Callable[[int, float, float], bool | None]


class _Asked:
    """Inside, Ctrl+C, SIGTERM and SIGHUP are noted; what they raise is raised at the end, when all is saved.

    A signal that is ignored stays so, and all are as they were outside the main thread. A second Ctrl+C interrupts at
    once.
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
    """The optimisation of a module's network.

    Args:
        module: what is fitted; it is moved to its device.
        device: where and how.
        clip: norm to which gradients are clipped.
        ranks: the processes that fit it, each on its part of every batch.
        state: of the optimiser, by the number of the array of weights, from which it goes on.
    """

    def __init__(
        self,
        module: FitModule,
        device: DeviceSettings,
        clip: float,
        ranks: Ranks = ALONE,
        state: dict[int, Any] | None = None,
    ) -> None:
        several: dict[str, Any] = {}
        if ranks.size > 1:
            several = {"strategy": "ddp", "num_nodes": device.num_nodes, "plugins": [environment()]}
        self.fabric = Fabric(
            accelerator=device.where.type, devices=device.devices, precision=device.precision, **several  # type: ignore[arg-type]
        )  # fmt: skip
        self.fabric.launch()
        self.module: FitModule = module.to(self.fabric.device)
        self.clip, self.ranks = clip, ranks
        self.optimizer = module.configure_optimizers()
        if state is not None:  # the settings and the step give the rest
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    @property
    def state(self) -> dict[int, Any]:
        """Of the optimiser, as it is passed in."""
        return self.optimizer.state_dict()["state"]

    def run(self, batches: Iterable[Any], after: After, save: Callable[[], None]) -> None:
        """Takes a step on each batch, until ``after`` says so or a process is asked to end; then calls ``save``.

        Args:
            batches: named tuples with a field ``step``.
            after: called after each step as after(steps done, loss, learning rate); True ends the fit.
            save: keeps the state, before a signal that came meanwhile is raised.

        Raises:
            CSBError: a loss or a gradient that is not finite, before any weight is changed.
            KeyboardInterrupt, Terminated: a signal came, to this process or another.
        """
        with _Asked() as asked:
            with _repeatable(self.fabric.device):
                self._steps(batches, after, asked)
            save()

    def _steps(self, batches: Iterable[Any], after: After, asked: _Asked) -> None:
        module, optimizer, fabric = self.module.train(), self.optimizer, self.fabric
        alone = self.ranks.size == 1
        for batch in batches:
            rate = module.learning_rate(batch.step)
            optimizer.param_groups[0]["lr"] = rate
            with fabric.autocast():
                loss = cast(Tensor, module.training_step(fabric.to_device(batch)))
            optimizer.zero_grad()
            fabric.backward(loss)
            ends = not alone and self._exchange(asked)
            self._clip(batch)
            optimizer.step()
            module.average.update(module.weights, batch.step)
            if after(batch.step + 1, float(module.last_loss), rate) or ends or (alone and asked.number):
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

    def _clip(self, batch: Any) -> None:
        """Clips the norm of the gradients: of their mean, so that all processes stop at the same step."""
        module = self.module
        norm = nn.utils.get_total_norm([w.grad for w in module.weights if w.grad is not None])
        if not bool(torch.isfinite(norm + module.last_loss)):
            raise not_finite(float(module.last_loss), module.where(batch.step), module.model, batch)
        if norm > self.clip:
            nn.utils.clip_grads_with_norm_(module.weights, self.clip, norm)


def _repeatable(where: torch.device) -> AbstractContextManager[Any]:
    """Inside, convolutions on a GPU have gradients that are the same each time."""
    cudnn = torch.backends.cudnn
    if where.type != "cuda":
        return nullcontext()
    return cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=cudnn.allow_tf32)


@contextmanager
def with_gradients() -> Iterator[None]:
    """Leaves torch's inference mode and no_grad: what is made inside can be trained. Also a decorator."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
