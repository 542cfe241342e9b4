"""A y-conditioned family of Gaussian kernels: one network, T steps, one direction."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from csb.bridge.parametrisation import Direction, coefficients
from csb.networks import Network
from csb.process import Grid, expand, noise_like

LOG_VARIANCE_LIMIT = 12.0  # log-variances stay within ±12 of log β_k: e^±12 changes a standard deviation 400-fold


class Law(NamedTuple):
    """A diagonal Gaussian: mean and variance, both (B, *z_shape)."""

    mean: Tensor
    var: Tensor

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One draw an element, from the generator on the mean's device."""
        return self.mean + self.var.sqrt() * noise_like(self.mean, generator)


class Kernel(nn.Module):
    """backward: x_k ↦ law of x_{k−1}; forward: x_{k−1} ↦ law of x_k; both given the observation.

    Args:
        network: one output head for the mean and, where the variance is learned, a second for its logarithm.
        grid: the grid of T steps.
        direction: "backward" or "forward".
        parametrisation: how the mean is read from the output (see :mod:`csb.bridge.parametrisation`).
        variance_floor: added to a learned variance, in units of the state's variance; keeps the likelihood bounded
            where a coordinate is (nearly) known. Without a variance head the variance is β_k.
    """

    skip: Tensor
    gain: Tensor
    log_beta: Tensor

    def __init__(
        self,
        network: Network,
        grid: Grid,
        direction: Direction,
        parametrisation: str,
        variance_floor: float = 1e-6,
    ) -> None:
        super().__init__()
        self.network, self.direction, self.T = network, direction, grid.T
        self.parametrisation, self.variance_floor = parametrisation, variance_floor
        skip, gain = coefficients(parametrisation, grid, direction)
        log_beta = torch.cat([torch.zeros(1, dtype=torch.float64), grid.beta[1:].log()])
        for name, value in (("skip", skip), ("gain", gain), ("log_beta", log_beta)):
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def learns_variance(self) -> bool:
        return self.network.heads == 2

    def encode(self, c: Tensor) -> Tensor:
        """The code of encoded observations c (B, *c_shape), to be reused at every step."""
        return self.network.encode(c)

    def forward(self, x: Tensor, k: Tensor, code: Tensor) -> Law:
        """The law of the next state.

        Args:
            x: (B, *z_shape), the state at k (backward) or k − 1 (forward).
            k: LongTensor (B,), or (1,) where the whole batch is at one step; in 1..T.
            code: from :meth:`encode`, (B, …).
        """
        out = self.network(x, k.to(x.dtype) / self.T, code).to(x.dtype)
        mean = expand(self.skip[k], x) * x + expand(self.gain[k], x) * out[:, 0]
        log_beta = expand(self.log_beta[k], x)
        if not self.learns_variance:
            return Law(mean, log_beta.exp().expand_as(mean))
        log_var = log_beta + out[:, 1].clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        return Law(mean, log_var.exp() + self.variance_floor)

    def drift(self, x: Tensor, k: Tensor, code: Tensor) -> Tensor:
        """(mean − x)/β_k, (B, *z_shape): the drift that moves x in one step, the same whatever the parametrisation."""
        return (self(x, k, code).mean - x) * torch.exp(-expand(self.log_beta[k], x))


def gaussian_nll(law: Law, target: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
    """−log N(target; law) for a target known up to a variance that is integrated out; elementwise, (B, *z_shape)."""
    return 0.5 * (((target - law.mean) ** 2 + target_var) / law.var + law.var.log() + math.log(2 * math.pi))
