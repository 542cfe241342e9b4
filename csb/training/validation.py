"""The loss on validation pairs: a half-step ends with the averaged weights of its end, or those of the lowest loss."""

import math

import torch
from torch import nn

from csb.bridge import Kernel
from csb.process import Stream
from csb.training.batches import Batches, Draw
from csb.training.cache import Cache
from csb.training.divergence import REMEDY, Diverged
from csb.training.module import FitModule, HalfStepModule
from csb.training.pairs import EncodedPairs
from csb.training.ranks import ALONE, Ranks
from csb.training.state import Progress, take_weights, to_cpu

_STATES = 16_384  # of validation


class Validation:
    """The validation loss of one half-step, always on the same states: a function of (seed, half-step).

    Args:
        module: of the half-step.
        draw: how its batches are drawn.
        pairs: encoded validation pairs.
        cache: their trajectories; None for the first half-step.
        ranks: the processes that share the work, in whole batches.
    """

    def __init__(
        self, module: HalfStepModule, draw: Draw, pairs: EncodedPairs, cache: Cache | None, ranks: Ranks = ALONE
    ) -> None:
        count = -(-_STATES // draw.batch_size)
        batches = Batches(draw, module.half_step, pairs, cache, (0, count), Stream.VALIDATION)
        self.batches = list(batches)[ranks.part(count)]
        self.module, self.ranks = module, ranks

    def loss(self) -> float:
        """The mean loss of the averaged weights, steps weighted as in training. Diverged where it is not finite."""
        losses = self.losses()
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            where = f"half-step {self.module.half_step.name}"
            raise Diverged(f"the loss on validation pairs became {loss} in {where}; {REMEDY}")
        return loss

    @torch.no_grad()
    def losses(self) -> list[float]:
        """The loss of each batch, of all processes."""
        average = self.module.average.module
        assert isinstance(average, Kernel)
        device, training = self.module.beta.device, average.training
        average.eval()
        try:
            own = [float(self.module.weighted_loss(average, batch.to(device))) for batch in self.batches]
        finally:
            average.train(training)
        return [loss for part in self.ranks.gather(own) for loss in part]

    def restore(self, progress: Progress) -> int:
        """Gives the moving average the weights of the lowest loss, unless those that it has are as good.

        Returns the step whose weights it has then.

        The end of a schedule has the smallest learning rate, hence the smallest noise of the weights. A loss measured
        every few hundred steps is lowest somewhere earlier by chance alone; so the end stands where its loss is not
        higher by more than the standard error of the difference, over batches.
        """
        average = self.module.average.module
        assert progress.best is not None
        if progress.best["step"] == progress.step:
            return progress.step
        end, weights = self.losses(), to_cpu(average.state_dict())
        restore_best(progress, self.module)
        gaps = torch.tensor(end, dtype=torch.float64) - torch.tensor(self.losses(), dtype=torch.float64)
        error = float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        if float(gaps.mean()) > error:
            return int(progress.best["step"])
        take_weights(average, weights)
        return progress.step


def keep_best(progress: Progress, loss: float, average: nn.Module, step: int) -> None:
    """Keeps the averaged weights in the progress if the validation loss is the lowest so far."""
    if progress.best is None or loss < progress.best["loss"]:
        progress.best = {"loss": loss, "step": step, "weights": to_cpu(average.state_dict())}


def restore_best(progress: Progress, module: FitModule) -> None:
    """Gives the moving average the weights of the lowest validation loss, where there was one."""
    if progress.best is not None:
        take_weights(module.average.module, progress.best["weights"])
