import torch
from torch import Tensor

from csb.samplers.base import Fresh, NotNegative, noised
from csb.samplers.diffusion import DiffusionSampler


class DPS(DiffusionSampler):
    r"""Diffusion posterior sampling (Chung et al. 2023, algorithm 1).

    z_{k−1} = μ_k + √β̃_k ε − ζ ∇_{z_k} ‖y − H(x̂_0(z_k))‖₂, the norm of *each sample*: across a batch it would couple
    the samples, which is a known error of public code. The gradient is one in z = (x − shift)/scale: a step of ζ moves
    x by ζ·scale² times the gradient in x. The paper descends the squared norm by ζ′ over the norm, so that ζ is 2ζ′. No
    ζ fits every problem and grid; try several and report them all.
    """

    name = "dps"
    label = "DPS"
    swept = ("step_size", "ζ")
    guided = True
    step_size: NotNegative = 1.0
    """ζ; sweep over e.g. 0.1 … 3."""

    def residual_norm(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """‖y − H(x̂_0)‖₂ of each sample, (N,): never over the batch."""
        return torch.linalg.vector_norm((y - self.likelihood.forward(x_0)).flatten(1), dim=1)

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        found = self.guide(z, k, y, self.residual_norm)
        mean, var = self.unconditional(z, found.z_0, k)
        return noised(mean - self.step_size * found.gradient, var, fresh)
