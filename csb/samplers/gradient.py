"""The samplers that add a gradient through the denoiser to the unconditional step: DPS and classifier guidance."""

import torch
from torch import Tensor

from csb.samplers.base import Fresh, NotNegative, noised
from csb.samplers.diffusion import DiffusionSampler


class DPS(DiffusionSampler):
    r"""Diffusion posterior sampling (Chung et al. 2023, algorithm 1).

    z_{k−1} = μ_k + √β̃_k ε − ζ ∇_{z_k} ‖y − H(x̂_0(z_k))‖₂, the norm of *each sample*: across a batch it would couple
    the samples, which is a known error of public code. The gradient is one in z = (x − shift)/scale: a step of ζ moves
    x by ζ·scale² times the gradient in x. No ζ fits every problem and grid; try several and report them all.
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
        at = self.guide(z, k, y, self.residual_norm)
        mean, var = self.unconditional(z, at.z_0, k)
        return noised(mean - self.step_size * at.gradient, var, fresh)


class ClassifierGuidance(DiffusionSampler):
    r"""Classifier guidance (Dhariwal & Nichol 2021, algorithm 1), with any differentiable likelihood.

    z_{k−1} ~ N(μ_k + s β̃_k g, β̃_k I), g = ∇_{z_k} log p̃_k(y | z_k). The conditional step is p(z_{k−1} | z_k) p(y |
    z_{k−1}) up to a constant; with log p(y | ·) linear around μ_k that is the unconditional Gaussian moved by β̃_k
    times the gradient. So s = 1 draws from p(x | y) as T → ∞ *where p̃_k is the exact* p(y | z_k). Of x̂_0 it is an
    approximation, and no weight corrects it as in TDS. s > 1 aims at p(x) p(y | x)^s: surer of y, less diverse, and no
    posterior. Dhariwal & Nichol take g at z_k, from a classifier of noisy states; here it goes through the denoiser: a
    backward pass.
    """

    name = "guidance"
    label = "guidance"
    swept = ("scale", "s")
    any_likelihood = True
    guided = True
    scale: NotNegative = 1.0
    """s; 0 draws from the prior. Sweep over e.g. 1, 2, 4."""

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        at = self.guide(z, k, y)
        mean, var = self.unconditional(z, at.z_0, k)
        return noised(mean + self.scale * var * at.gradient, var, fresh)
