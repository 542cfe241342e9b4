"""A classifier of denoised digits that knows how noisy they were: p(digit | x̂_0, ᾱ)."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from csb.dtypes import Float32Module

WIDTHS = (32, 64, 64)


class DigitGuide(Float32Module):
    """Three 3×3 convolutions, each moved by an embedding of ᾱ and pooled, then two linear layers.

    Smooth, for its gradient is what it is for. Its logits are divided by ``temperature`` (Guo et al. 2017).
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, *WIDTHS)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))
        self.level = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, sum(WIDTHS)))
        self.hidden = nn.Linear(WIDTHS[-1] * 3 * 3, 128)
        self.exit = nn.Linear(128, 10)
        self.register_buffer("temperature", torch.ones((), dtype=torch.float32))

    def forward(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """log p(digit | x̂_0, ᾱ), (B, 10): x̂_0 (B, 1, 28, 28), pixels on the scale [0, 1]; ᾱ (B,) in (0, 1]."""
        angle = alpha_bar.to(x).sqrt().clamp(0, 1).acos() * (2 / math.pi)
        features = torch.stack([angle, (math.pi * angle).cos(), (2 * math.pi * angle).cos()], dim=1)
        moves = self.level(features)[..., None, None].split(WIDTHS, dim=1)
        h = 2 * x - 1
        for conv, move in zip(self.convs, moves):
            h = nnf.avg_pool2d(nnf.silu(conv(h) + move), 2)
        logits = self.exit(nnf.silu(self.hidden(h.flatten(1))))
        return (logits.float() / self.temperature).log_softmax(1)
