"""The classifier of C2ST: one small network for each of five folds, trained side by side as batched matrix products."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as nnf

FOLDS = 5
_BATCH, _RATE, _DECAY = 200, 1e-3, 1e-4  # as scikit-learn's MLPClassifier has them, like the next three
_TOLERANCE, _PATIENCE, _EPOCHS = 1e-4, 10, 10_000
_LEARNT = 0.1  # nats: a network whose loss is below knows its points by heart, and its accuracy elsewhere has settled


@torch.inference_mode(False)
@torch.enable_grad()
def accuracy(data: Tensor, label: Tensor, seed: int) -> float:
    """The share of points that a network trained on the other folds classifies rightly.

    It has two hidden layers of 10·d and ReLU, weights as of Glorot & Bengio (2010) and a small L2 penalty. Adam trains
    it until its loss has not fallen by 1e-4 in ten epochs, as scikit-learn does, or is below .1.

    Args:
        data: (n, d), float32, n ≥ 5.
        label: (n,), float32, 0 or 1.
        seed: of folds, weights and batches.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.randperm(len(data), generator=generator).tensor_split(FOLDS)
    others = [torch.cat([held_out[j] for j in range(FOLDS) if j != i]) for i in range(FOLDS)]
    n = min(map(len, others))  # they differ by one point at most
    rows = torch.stack([each[:n] for each in others])
    weights = _weights(data.shape[1], generator)
    optimiser = torch.optim.Adam(weights, _RATE, fused=True)
    found = torch.zeros(FOLDS, dtype=torch.float64)
    best, stale = torch.full((FOLDS,), torch.inf), torch.zeros(FOLDS)
    running = torch.ones(FOLDS, dtype=torch.bool)
    for epoch in range(_EPOCHS):
        order = torch.rand(rows.shape, generator=generator).argsort(1)
        loss = _epoch(data, label, rows.gather(1, order), weights, optimiser)
        stale = torch.where(loss > best - _TOLERANCE, stale + 1, 0)
        best = torch.minimum(best, loss)
        ended = running & ((stale > _PATIENCE) | (loss < _LEARNT) | (epoch + 1 == _EPOCHS))
        for i in ended.nonzero()[:, 0].tolist():
            x, truth = data[held_out[i]], label[held_out[i]] > 0.5
            logits = _logits(x[None], [w.detach()[i : i + 1] for w in weights])[0]
            found[i] = ((logits > 0) == truth).double().mean()
        running &= ~ended
        if not running.any():
            break
    return float(found.mean())


def _weights(d: int, generator: torch.Generator) -> list[Tensor]:
    """Matrix and shift of each layer, of all folds, uniform within ±√(6/(inputs + outputs))."""
    found = []
    for before, after in pairwise((d, 10 * d, 10 * d, 1)):
        bound = (6 / (before + after)) ** 0.5
        for size in (before, 1):
            uniform = torch.rand(FOLDS, size, after, generator=generator, dtype=torch.float32)
            found.append((bound * (2 * uniform - 1)).requires_grad_())
    return found


def _epoch(data: Tensor, label: Tensor, rows: Tensor, weights: list[Tensor], optimiser: torch.optim.Adam) -> Tensor:
    """One pass over rows (folds, n) in their order; returns each fold's loss, (folds,)."""
    total = torch.zeros(FOLDS)
    for chosen in rows.split(_BATCH, 1):
        size = chosen.shape[1]
        penalty = torch.stack([w.square().sum((1, 2)) for w in weights[::2]]).sum(0)
        each = nnf.binary_cross_entropy_with_logits(_logits(data[chosen], weights), label[chosen], reduction="none")
        loss = each.mean(1) + _DECAY / (2 * size) * penalty
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        total += loss.detach() * size / rows.shape[1]
    return total


def _logits(x: Tensor, weights: list[Tensor]) -> Tensor:
    """Of points x (folds, n, d): (folds, n)."""
    for i in range(0, len(weights), 2):
        x = torch.baddbmm(weights[i + 1], x.relu() if i else x, weights[i])
    return x[..., 0]
