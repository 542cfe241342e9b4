"""What guides a diffusion sampler: an approximation of log p(y | z_k) at x̂_0, differentiable."""

from abc import ABC, abstractmethod

from torch import Tensor


class GuidanceLikelihood(ABC):
    """log p̃_k(y | z_k), a function of y, the denoiser's x̂_0(z_k) and ᾱ_k; at ᾱ = 1 the likelihood log p(y | x).

    Attributes:
        z_variance: the mean variance of a coordinate of z over the data, which says how long a horizon must be.
    """

    z_variance: float

    @abstractmethod
    def log_prob(self, y: Tensor, x_0: Tensor, alpha_bar: float) -> Tensor:
        """At x̂_0 (B, *x_shape) in data units and y (B, *y_shape): (B,), float64, differentiable in x̂_0."""


__all__ = ["GuidanceLikelihood"]
