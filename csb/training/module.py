"""The Lightning modules of fits, and the loss of a half-step on validation pairs."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from csb.bridge import Bridge, Kernel
from csb.bridge.objectives import Objective
from csb.process import Stream, repeated
from csb.training.batches import Batch, Batches, Draw
from csb.training.divergence import REMEDY, Diverged
from csb.training.pairs import Cache, EncodedPairs
from csb.training.ranks import ALONE
from csb.training.settings import HalfStep, OptimizerSettings
from csb.training.state import Progress, take_weights, to_cpu

_STATES = 16_384  # of validation


class MovingAverage(AveragedModel):
    """A moving average of weights, of shorter memory over the first steps: decay_n = min(decay, (1+n)/(10+n)).

    Step 0 copies them. The number of the step is passed in: torch's own update reads its counter of steps for every
    array of weights, and each reading waits for the GPU.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.weights: list[Tensor] = list(self.module.parameters())  # asked for once: a walk through all modules
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, weights: list[Tensor], step: int) -> None:
        """Takes a model's weights in after step n ≥ 0. Buffers are constants of the kernels."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step)) if step else 1.0
        torch._foreach_lerp_(self.weights, weights, weight)  # pyright: ignore[reportPrivateImportUsage]
        self.n_averaged += 1


def balance(kernel: Kernel, exponent: float) -> Tensor:
    """Weights of the steps, (T + 1,), mean 1 over k = 1..T: ∝ (β_k/gain_k²)^exponent.

    The likelihood of step k weighs an error of the network's output by gain_k²/β_k, which falls a thousandfold from the
    data to the noise end of an image's grid; unbalanced, the network spends itself on the last step's pixels. A weight
    that depends on k alone leaves each step's optimum where it was (cf. Hang et al. 2023, min-SNR weighting).
    """
    _, _, gain, log_beta, _ = kernel.steps[:, 1:]
    weight = (log_beta.exp() / gain**2) ** exponent
    return torch.cat([weight.new_zeros(1), weight / weight.mean()])


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then cosine decay to 1 % of the peak: a function of the step alone."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class FitModule(pl.LightningModule):
    """A network under training and the moving average of its weights; :class:`csb.training.fit.Fit` drives it.

    ``training_step`` gives the loss of a batch, (), to be descended, and sets ``last_loss``, to be shown.

    Args:
        model: what is fitted.
        name: what the training is called in messages.
        steps: optimiser steps in all.
        peak: the learning rate after warm-up.
        settings: the optimiser's.

    Attributes:
        last_loss: of the last batch, ().
        rate_factor: on every learning rate, below 1 after a retry.
    """

    last_loss: Tensor

    def __init__(self, model: nn.Module, name: str, steps: int, peak: float, settings: OptimizerSettings) -> None:
        super().__init__()
        self.model, self.name, self.settings = model, name, settings
        self.steps, self.peak, self.rate_factor = steps, peak, 1.0
        self.average = MovingAverage(model, settings.ema)
        self.weights: list[Tensor] = list(model.parameters())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.weights, self.settings.lr, (0.9, 0.99), weight_decay=self.settings.weight_decay, fused=True
        )

    def learning_rate(self, step: int) -> float:
        """Of a step, from 0."""
        return self.rate_factor * learning_rate(step, self.steps, self.peak, self.settings.warmup)

    def where(self, step: int) -> str:
        """The place of a step in the training, for messages."""
        return f"{self.name} at step {step}"

    def adopt_average(self) -> None:
        """Ends the fit: the network takes the averaged weights, with which it is frozen and continued."""
        take_weights(self.model, self.average.module.state_dict())


class NetworkModule(FitModule):
    """Fits a network by a loss of its batches."""

    def __init__(self, loss: Callable[[Any], Tensor], *fitted: Any) -> None:
        super().__init__(*fitted)
        self.loss = loss

    def training_step(self, batch: Any) -> Tensor:
        loss = self.loss(batch)
        self.last_loss = loss.detach()
        return loss


class HalfStepModule(FitModule):
    """Fits the kernels of one direction; those of the other are frozen."""

    beta: Tensor
    weight: Tensor

    def __init__(self, bridge: Bridge, half_step: HalfStep, objective: Objective, settings: OptimizerSettings) -> None:
        peak = settings.lr if half_step.iteration == 1 else settings.later_lr
        kernel = bridge.kernel(half_step.direction)
        kernel.inflation.fill_(1.0)  # the likelihood is fitted without
        super().__init__(kernel, f"half-step {half_step.name}", half_step.steps, peak, settings)
        self.bridge, self.half_step, self.objective, self.kernel = bridge, half_step, objective, kernel
        self.register_buffer("beta", bridge.grid.beta.float(), persistent=False)
        self.register_buffer("weight", balance(kernel, settings.balance), persistent=False)
        self.bridge.requires_grad_(False)
        self.kernel.requires_grad_(True)

    def training_step(self, batch: Batch) -> Tensor:
        return self.weighted_loss(self.kernel, batch)

    def weighted_loss(self, kernel: Kernel, batch: Batch) -> Tensor:
        """The loss of a batch with the steps' weights, (); ``last_loss`` is that without."""
        context = repeated(kernel.encode(batch.c), len(batch.x) // len(batch.c))
        law = kernel(batch.x, batch.k, context)
        losses = self.objective.loss(law, batch.target, self.beta[batch.k])
        self.last_loss = losses.detach().mean()
        return (losses.flatten(1).mean(1) * self.weight[batch.k]).mean()


class Validation:
    """The loss of a half-step's averaged weights on validation pairs, by which it ends with those of the lowest.

    It is always taken on the same states: a function of (seed, half-step).

    Args:
        module: of the half-step.
        draw: how its batches are drawn; here each state has a pair of its own.
        pairs: encoded validation pairs.
        cache: their trajectories; None for the first half-step.
    """

    def __init__(self, module: HalfStepModule, draw: Draw, pairs: EncodedPairs, cache: Cache | None) -> None:
        self.module, self.ranks = module, draw.ranks
        self.average: Any = module.average.module
        self.count = -(-_STATES // draw.batch_size)
        draw = replace(draw, states_per_pair=1, ranks=ALONE)  # processes share the work in whole batches
        batches = Batches(draw, module.half_step, pairs, cache, (0, self.count), Stream.VALIDATION)
        self.batches = list(batches)[self.ranks.part(self.count)]

    def record(self, progress: Progress, step: int) -> tuple[float, int]:
        """The mean loss after a step, and the step of the lowest, whose averaged weights the progress keeps.

        Steps are weighted as in training. Diverged where the loss is not finite.
        """
        losses = self.losses()
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            where = f"half-step {self.module.half_step.name}"
            raise Diverged(f"the loss on validation pairs became {loss} in {where}; {REMEDY}")
        progress.validated.append([step, loss])
        if progress.best is None or loss < progress.best["loss"]:
            progress.best = {"loss": loss, "step": step, "weights": to_cpu(self.average.state_dict())}
        return loss, progress.best["step"]

    @torch.no_grad()
    def losses(self) -> list[float]:
        """The loss of each batch, of all processes."""
        average, device, found = self.average, self.module.beta.device, torch.zeros(self.count, dtype=torch.float64)
        training = average.training
        average.eval()
        try:
            batches = (move_data_to_device(batch, device) for batch in self.batches)
            own = [float(self.module.weighted_loss(average, batch)) for batch in batches]
        finally:
            average.train(training)
        found[self.ranks.part(self.count)] = torch.tensor(own, dtype=torch.float64)
        self.ranks.all_reduce(found)
        return found.tolist()

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
