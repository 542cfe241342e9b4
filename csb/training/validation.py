"""The loss on validation pairs: a half-step ends with the averaged weights of its end, or those of the lowest loss."""

import math
from dataclasses import replace

import torch
from lightning.fabric.utilities import move_data_to_device

from csb.bridge import Kernel
from csb.process import Stream
from csb.training.batches import Batches, Draw
from csb.training.cache import Cache
from csb.training.divergence import REMEDY, Diverged
from csb.training.module import HalfStepModule
from csb.training.pairs import EncodedPairs
from csb.training.ranks import ALONE
from csb.training.state import Progress, take_weights, to_cpu

_STATES = 16_384  # of validation


class Validation:
    """The validation loss of one half-step, always on the same states: a function of (seed, half-step).

    Args:
        module: of the half-step.
        draw: how its batches are drawn; here each state has a pair of its own.
        pairs: encoded validation pairs.
        cache: their trajectories; None for the first half-step.
    """

    def __init__(self, module: HalfStepModule, draw: Draw, pairs: EncodedPairs, cache: Cache | None) -> None:
        assert isinstance(module.average.module, Kernel)
        self.module, self.ranks, self.average = module, draw.ranks, module.average.module
        count = -(-_STATES // draw.batch_size)
        draw = replace(draw, states_per_pair=1, ranks=ALONE)  # processes share the work in whole batches
        batches = Batches(draw, module.half_step, pairs, cache, (0, count), Stream.VALIDATION)
        self.batches = list(batches)[self.ranks.part(count)]

    def loss(self) -> float:
        """The mean loss of the averaged weights, steps weighted as in training. Diverged where it is not finite."""
        losses = self.losses()
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            where = f"half-step {self.module.half_step.name}"
            raise Diverged(f"the loss on validation pairs became {loss} in {where}; {REMEDY}")
        return loss

    def record(self, progress: Progress, step: int) -> tuple[float, int]:
        """The loss after a step, and the step of the lowest, whose averaged weights the progress keeps."""
        loss = self.loss()
        progress.validated.append([step, loss])
        if progress.best is None or loss < progress.best["loss"]:
            progress.best = {"loss": loss, "step": step, "weights": to_cpu(self.average.state_dict())}
        return loss, progress.best["step"]

    @torch.no_grad()
    def losses(self) -> list[float]:
        """The loss of each batch, of all processes."""
        average, device = self.average, self.module.beta.device
        training = average.training
        average.eval()
        try:
            batches = (move_data_to_device(batch, device) for batch in self.batches)
            own = [float(self.module.weighted_loss(average, batch)) for batch in batches]
        finally:
            average.train(training)
        return [loss for part in self.ranks.all_gather(own) for loss in part]

    def restore(self, progress: Progress) -> int:
        """Gives the moving average the weights of the lowest loss, unless those that it has are as good.

        Returns the step whose weights it has then.

        The end of a schedule has the smallest learning rate, hence the smallest noise of the weights. A loss measured
        every few hundred steps is lowest somewhere earlier by chance alone; so the end stands where its loss is not
        higher by more than the standard error of the difference, over batches.
        """
        assert progress.best is not None
        if progress.best["step"] == progress.step:
            return progress.step
        end, weights = self.losses(), to_cpu(self.average.state_dict())
        take_weights(self.average, progress.best["weights"])
        gaps = torch.tensor(end, dtype=torch.float64) - torch.tensor(self.losses(), dtype=torch.float64)
        error = float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        if float(gaps.mean()) > error:
            return int(progress.best["step"])
        take_weights(self.average, weights)
        return progress.step
