"""The Lightning module of one half-step."""

import math
from typing import Any

import lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from csb.bridge import Bridge, Kernel
from csb.bridge.objectives import Objective
from csb.process import repeated
from csb.training.batches import Batch
from csb.training.divergence import not_finite
from csb.training.plan import HalfStep
from csb.training.ranks import ALONE, Ranks
from csb.training.settings import OptimizerSettings
from csb.training.state import take_weights


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
    """Fits one network and keeps the moving average of its weights.

    Holds the optimiser state that passes from one Trainer to the next. Batches have a field ``step``.

    Args:
        model: what is fitted.
        steps: optimiser steps in all.
        peak: the learning rate after warm-up.
        settings: the optimiser's.
        ranks: the processes that fit it.
    """

    last_loss: Tensor
    batch: Any  # under training

    def __init__(
        self, model: nn.Module, steps: int, peak: float, settings: OptimizerSettings, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.model, self.steps, self.peak, self.settings = model, steps, peak, settings
        self.rate_factor = 1.0  # on every learning rate, below 1 after a retry
        self.asked, self.ends = 0, False  # to end after the running step: this process, by which signal; all of them
        self.average = MovingAverage(model, settings.ema)
        self.weights: list[Tensor] = list(model.parameters())
        self.optimizer_state: dict[str, Any] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.lr, (0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        )
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
        return optimizer

    def where(self, step: int) -> str:
        """The place of a step in the training, for messages."""
        raise NotImplementedError

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.batch = batch
        rate = self.rate_factor * learning_rate(batch.step, self.steps, self.peak, self.settings.warmup)
        for group in self.optimizer_on_trainer().param_groups:
            group["lr"] = rate

    def optimizer_on_trainer(self) -> torch.optim.Optimizer:
        """The optimiser of the running fit."""
        return self.trainer.optimizers[0]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the gradients' norm. CSBError where it or the loss is not finite, before any weight is changed.

        The norm is that of all processes' mean gradient, so that all of them stop at the same step.
        """
        self._exchange()
        gradients = [w.grad for w in self.weights if w.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(norm + self.last_loss)):
            for weight in self.weights:  # what a CUDA graph owns is lost in the search below, and Lightning copies it
                weight.grad = None
            with self.trainer.precision_plugin.train_step_context():
                raise not_finite(float(self.last_loss), self.where(self.batch.step), self, self.batch)
        if gradient_clip_val and norm > gradient_clip_val:
            nn.utils.clip_grads_with_norm_(self.weights, gradient_clip_val, norm)

    def _exchange(self) -> None:
        """The loss of all processes together, and whether they end: all at one step, where one of them was asked to.

        After the backward pass, whose kernels a GPU works on meanwhile.
        """
        self.ends = self.asked != 0
        if self.ranks.size > 1:
            asked = self.last_loss.new_tensor(float(self.ends))
            found = self.ranks.mean(torch.stack([self.last_loss.double(), asked.double()]))
            self.last_loss, self.ends = found[0], bool(found[1] > 0)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of weights and average together, for callbacks save both before this module's on_train_batch_end."""
        super().optimizer_step(*args, **kwargs)
        self.average.update(self.weights, self.batch.step)

    def adopt_average(self) -> None:
        """Ends the fit: the network takes the averaged weights, with which it is frozen and continued."""
        take_weights(self.model, self.average.module.state_dict())


class HalfStepModule(FitModule):
    """Fits the kernels of one direction; those of the other are frozen."""

    beta: Tensor
    weight: Tensor

    def __init__(
        self,
        bridge: Bridge,
        half_step: HalfStep,
        objective: Objective,
        settings: OptimizerSettings,
        ranks: Ranks = ALONE,
    ) -> None:
        peak = settings.lr if half_step.iteration == 1 else settings.later_lr
        kernel = bridge.kernel(half_step.direction)
        kernel.inflation.fill_(1.0)  # the likelihood is fitted without
        super().__init__(kernel, half_step.steps, peak, settings, ranks)
        self.bridge, self.half_step, self.objective, self.kernel = bridge, half_step, objective, kernel
        self.register_buffer("beta", bridge.grid.beta.float(), persistent=False)
        self.register_buffer("weight", balance(kernel, settings.balance), persistent=False)
        self.select()

    def select(self) -> None:
        """Freezes the other direction before a fit, so that DDP sees only parameters that receive gradients."""
        self.bridge.requires_grad_(False)
        self.kernel.requires_grad_(True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.weighted_loss(self.kernel, batch)

    def where(self, step: int) -> str:
        return f"half-step {self.half_step.name} at step {step}"

    def weighted_loss(self, kernel: Kernel, batch: Batch) -> Tensor:
        """The loss of a batch with the steps' weights, (); ``last_loss`` is that without."""
        code = repeated(kernel.encode(batch.c), len(batch.x) // len(batch.c))
        law = kernel(batch.x, batch.k, code)
        losses = self.objective.loss(law, batch.target, self.beta[batch.k])
        self.last_loss = losses.detach().mean()
        return (losses.flatten(1).mean(1) * self.weight[batch.k]).mean()
