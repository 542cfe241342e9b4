"""An optimiser that makes the steps of matrices orthogonal."""

from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM, COEFFICIENTS, ITERATIONS = 0.95, (3.4445, -4.7750, 2.0315), 5
GAIN = 10.0  # of a matrix's learning rate over that of AdamW's weights
_ENDS = ("entry", "exit", "time", "gains", "film", "modulation", "whole")  # layers that AdamW keeps


def orthogonal(u: Tensor) -> Tensor:
    """A matrix (a, b) with the singular vectors of u and singular values of about 1, by Newton–Schulz iterations.

    Iteration X ← P X with P = aI + bXXᵀ + c(XXᵀ)² needs XXᵀ alone, which becomes P XXᵀ P: X is multiplied once, by the
    product of all P. Of kernels, which are several times as wide as high, that takes about half the time.
    """
    wide = u if u.shape[0] <= u.shape[1] else u.mT
    x = wide / (wide.norm() + 1e-7)
    (a, b, c), square, identity = COEFFICIENTS, x @ x.mT, torch.eye(len(x), dtype=x.dtype, device=x.device)
    product = identity
    for _ in range(ITERATIONS):
        factor = torch.addmm(square, square, square, beta=b, alpha=c).add_(identity, alpha=a)
        square, product = factor @ square @ factor, factor @ product
    return product @ x if wide is u else (product @ x).mT


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for the matrices inside a network, AdamW for all its other weights.

    The kernel of a convolution is the matrix (out, in·height·width). A matrix (a, b) moves by the orthogonalised
    momentum of its gradient times 10 · max(1, a/b)^½ · the learning rate. First and last layers, and those that make
    scales and shifts of time and observation, which are known by their names, are AdamW's, as is what is no weight of a
    linear layer or a convolution.

    torch.optim.Muon takes no convolutions, and computes in bfloat16, which takes fifteen times as long on a processor
    that multiplies bfloat16 in software.

    Args:
        model: whose parameters are fitted.
        lr: of AdamW's weights.
        options: of AdamW.
    """

    def __init__(self, model: nn.Module, lr: float, **options: Any) -> None:
        layers = [
            layer
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and not set(name.split(".")) & set(_ENDS)
        ]
        inner = {id(layer.weight) for layer in layers}
        rest = [p for p in model.parameters() if id(p) not in inner]
        super().__init__([{"params": rest}, {"params": [layer.weight for layer in layers]}], lr, **options)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        rest, inner = self.param_groups
        for p in inner["params"]:
            if p.grad is None:
                continue
            if not (state := self.state[p]):  # AdamW, which loads it too, looks for a step in each
                state |= {"step": torch.zeros((), dtype=torch.float32), "momentum": torch.zeros_like(p)}
            momentum = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
            ahead = orthogonal(p.grad.lerp(momentum, MOMENTUM).flatten(1))
            a, b = ahead.shape
            p.mul_(1 - inner["lr"] * inner["weight_decay"])
            p.add_(ahead.view_as(p), alpha=-GAIN * inner["lr"] * max(1.0, a / b) ** 0.5)
        self.param_groups = [rest]
        try:
            super().step()
        finally:
            self.param_groups = [rest, inner]
