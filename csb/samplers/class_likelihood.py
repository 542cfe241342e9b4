r"""The likelihood of a class: p̃_k(y | z_k) = p(class y | x̂_0(z_k)) of a classifier (Wu et al. 2023, §5.2).

p(y | z_k) = E[p(y | x_0) | z_k], and a classifier of clean data at x̂_0 = E[x_0 | z_k] is surer than that: between two
Gaussians at ±m of variance S, with the log-odds ℓ of p(y | z_k), those at x̂_0 are ℓ + 2m²/S·(1−ᾱ)/(ᾱS + 1−ᾱ)·tanh(ℓ/2)
(put x̂_0 = [√ᾱ S z + (1−ᾱ) m tanh(ℓ/2)]/(ᾱS + 1−ᾱ) into the clean log-odds 2m x/S). A classifier may therefore know
ᾱ: one that is fitted to denoised states approaches p(y | x̂_0, ᾱ) = E[p(y | z_k) | x̂_0], which does not overstate.
"""

from collections.abc import Callable

from torch import Tensor

from csb.errors import CSBError
from csb.samplers.guidance_likelihood import GuidanceLikelihood

LogProbabilities = Callable[[Tensor, float], Tensor]  # (x̂_0 (B, *x_shape), ᾱ_k) → (B, classes)


class ClassLikelihood(GuidanceLikelihood):
    """y, one-hot, is the class that a classifier reads.

    Args:
        log_probabilities: of the classes at x̂_0 in data units and ᾱ_k, (B, classes), differentiable in x̂_0.
        z_variance: see :class:`csb.samplers.guidance_likelihood.GuidanceLikelihood`.
    """

    def __init__(self, log_probabilities: LogProbabilities, z_variance: float) -> None:
        self.log_probabilities, self.z_variance = log_probabilities, z_variance

    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """log of the probability of y's class (B,), float64. CSBError where a row of y (B, classes) is not one-hot."""
        if not bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all()):
            raise CSBError("y holds rows that are no class; give one 1 among zeros in each")
        return (y * self.log_probabilities(x_0, alpha_bar)).double().sum(1)


__all__ = ["ClassLikelihood", "LogProbabilities"]
