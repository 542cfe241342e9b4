r"""The bootstrap particle filter (Gordon, Salmond & Smith 1993): weigh the forecast by p(y | x), resample, every cycle.

Exact as M → ∞ for any forecast and likelihood. Copies of one member part only by the noise of the model; where that is
small, the particles of a finite ensemble become few. *Regularisation* (Musso, Oudjane & Le Gland 2001) draws from a
kernel estimate in place of copies: x + b·N(0, C), C the weighted covariance and b = factor·(4/(M(d + 2)))^{1/(d + 4)},
Silverman's bandwidth for factor 1, after which the members are shrunk about their mean by 1/√(1 + b²) to keep the
covariance (West 1993). It vanishes as M → ∞.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.filtering.base import Analysis, Filter
from csb.filtering.model import StateSpace
from csb.samplers.resampling import effective_sample_size, normalised, systematic
from csb.schema import Schema


class Bootstrap(Filter, Schema):
    """See the module's docstring. Systematic resampling."""

    name: ClassVar[str] = "bootstrap"

    regularisation: float = Field(default=0.0, ge=0, description="the factor; 0 leaves copies as they are")

    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        M, d = x.shape
        log_weights = model.log_likelihood(y, x)[None]
        u = torch.rand((1, 1), dtype=torch.float64, generator=generator)
        ancestors = systematic(log_weights, u.expand(1, M))[0]
        reported = {"ess": float(effective_sample_size(log_weights)), "ancestors": float(len(ancestors.unique()))}
        chosen = x[ancestors]
        if self.regularisation:
            w = normalised(log_weights)[0]
            mean = w @ x
            values, vectors = torch.linalg.eigh((x - mean).T @ (w[:, None] * (x - mean)))
            bandwidth = self.regularisation * (4 / (M * (d + 2))) ** (1 / (d + 4))
            noise = torch.randn((M, d), dtype=x.dtype, generator=generator) * values.clamp_min(0).sqrt() @ vectors.T
            chosen = mean + (chosen - mean + bandwidth * noise) / (1 + bandwidth**2) ** 0.5
        return Analysis(chosen, reported)
