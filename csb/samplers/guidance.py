from torch import Tensor

from csb.samplers.base import Fresh, NotNegative, noised
from csb.samplers.diffusion import DiffusionSampler


class ClassifierGuidance(DiffusionSampler):
    r"""Classifier guidance (Dhariwal & Nichol 2021, algorithm 1), with any differentiable likelihood.

    z_{k−1} ~ N(μ_k + s β̃_k g, β̃_k I), g = ∇_{z_k} log p̃_k(y | z_k): the step p(z_{k−1} | z_k) p(y | z_{k−1}) with
    log p(y | ·) linear around μ_k. So s = 1 draws from p(x | y) as T → ∞ *where p̃_k is the exact* p(y | z_k). Of x̂_0
    it is an approximation, and no weight corrects it as in TDS. s > 1 aims at p(x) p(y | x)^s: surer of y, less
    diverse, and no posterior. Dhariwal & Nichol's classifier reads z_k; here g goes through the denoiser.
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
