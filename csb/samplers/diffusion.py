r"""What the samplers that start from an unconditional denoiser share: the DDPM step, and gradients through x̂_0.

The unconditional step is the pinned law with x̂_0 in place of x_0 (Ho et al. 2020, eq. 7): z_{k−1} ~ N(μ_k, β̃_k I),
μ_k = [√ᾱ_{k−1} β_k x̂_0 + √(1−β_k)(1−ᾱ_{k−1}) z_k]/(1−ᾱ_k). At k = 1 β̃_1 = 0: the last step is noiseless and μ_1 = x̂_0.
"""

import copy
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from csb.bridge.bridge import autocast
from csb.errors import CSBError, is_number, require_int
from csb.networks.diffusion import Denoiser
from csb.problems import Problem
from csb.process import Grid, Reference, expand, mix, seeded
from csb.samplers.base import Sampler, check_states
from csb.samplers.guidance_likelihood import GuidanceLikelihood
from csb.samplers.likelihood import Likelihood

LONG = 1e-4  # ᾱ_T of a horizon that is long enough for data of about unit scale
LEFT = 0.03  # standard deviations of the signal that may be left at the horizon, where the noise has 1
Score = Callable[[Tensor, Tensor, float], Tensor]  # (y (N, …), x̂_0 in data units (N, …), ᾱ_k) → (N,)


class Guidance(NamedTuple):
    """At states z: x̂_0 (in z's units), the value of the guiding function (N,), float64, and its gradient in z."""

    z_0: Tensor
    value: Tensor
    gradient: Tensor


class Step(NamedTuple):
    """The unconditional step: a mean (N, *x_shape), a variance and β_k/√(1−β_k), both numbers."""

    mean: Tensor
    var: float
    pull: float


class Standard(Denoiser):
    """E[z_0 | z_k] = √ᾱ_k z_k, exact for z_0 ~ N(0, I): a denoiser's shift and scale without its cost."""

    def __init__(self, of: Denoiser) -> None:
        super().__init__(of.shift, of.scale)

    def forward(self, z: Tensor, alpha_bar: Tensor) -> Tensor:
        return expand(alpha_bar.sqrt(), z) * z


class DiffusionSampler(Sampler):
    """A sampler that guides the unconditional reverse process of a denoiser on a grid.

    Args:
        problem: gives the shapes, and what is known of x for sure (:meth:`csb.problems.Problem.impose`).
        denoiser: of the prior p(x).
        likelihood: see :class:`csb.samplers.likelihood.Likelihood`; any other twist for a method that needs no
            residual y − H(x).
        grid: on which the method runs; it starts from N(0, I), so that ᾱ_T must be small (see :func:`horizon_bias`).
        batch_size: states a network call; bounds the memory of activations.
        precision: "32-true" or "bf16-mixed", of the network calls.

    Attributes:
        label: the method's name in tables.
        swept: the argument that a comparison sweeps on validation observations, and its symbol; None: no argument.
        any_likelihood: whether any differentiable log p̃(y | x̂_0) will do, e.g. that of a class. Otherwise CSBError
            unless the likelihood is one of y = H(x) + noise.
    """

    label: ClassVar[str]
    swept: ClassVar[tuple[str, str] | None] = None
    any_likelihood: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        denoiser: Denoiser,
        likelihood: GuidanceLikelihood,
        grid: Grid,
        batch_size: int = 256,
        precision: str = "32-true",
    ) -> None:
        super().__init__(problem.x_shape, problem.y_shape, denoiser.shift.device)
        require_int("batch_size", batch_size, 1)
        autocast(precision, self.device)  # raises for an unknown one
        self.problem, self.denoiser, self.guidance_likelihood = (
            problem,
            denoiser.eval().requires_grad_(False),
            likelihood,
        )
        if not self.any_likelihood and not isinstance(likelihood, Likelihood):
            raise CSBError(
                f"{problem.name} has no likelihood y = H(x) + noise, whose residuals {self.name} needs; a method that "
                f"needs only a differentiable likelihood is tds, smc or guidance"
            )
        self.grid, self.reference = grid, Reference(grid)
        self.batch_size, self.precision = batch_size, precision

    @property
    def likelihood(self) -> Likelihood:
        """That of y = H(x) + noise."""
        assert isinstance(self.guidance_likelihood, Likelihood)  # checked where the sampler is made
        return self.guidance_likelihood

    @property
    def evaluations(self) -> int:
        """Network passes, forward and backward, for one sample, as :class:`csb.samplers.base.Draws` counts them.

        A dry run counts them, one sample with :class:`Standard` for the denoiser; a method that knows a formula gives
        it instead.
        """
        dry = copy.copy(self)
        dry.denoiser = Standard(self.denoiser).to(self.device)
        y = self.problem.observe(self.denoiser.shift[None], seeded(0, device=self.device))
        info = dry.sample(y, 1, seeded(0, device=self.device)).info
        return info.forward_evaluations + info.backward_evaluations

    def denoise(self, z: Tensor, k: int) -> Tensor:
        """x̂_0 (in z's units) at step k, ``batch_size`` states a network call."""
        alpha_bar = self.grid.alpha_bar[k].to(self.device)
        with torch.no_grad(), autocast(self.precision, self.device):
            return torch.cat([self.denoiser(part, alpha_bar) for part in z.split(self.batch_size)])

    def guide(self, z: Tensor, k: int, y: Tensor, score: Score) -> Guidance:
        """x̂_0, a function of (y, x̂_0) and its gradient in z, through the denoiser; y (N, *y_shape), one for each z."""
        alpha_bar = self.grid.alpha_bar[k].to(self.device)
        parts = []
        for z_part, y_part in zip(z.split(self.batch_size), y.split(self.batch_size)):
            at = z_part.detach().requires_grad_()
            with torch.enable_grad():
                with autocast(self.precision, self.device):
                    z_0 = self.denoiser(at, alpha_bar)
                value = score(y_part, self.denoiser.decode(z_0), float(alpha_bar))
                (gradient,) = torch.autograd.grad(value.sum(), at)
            parts.append(Guidance(z_0.detach(), value.detach().double(), gradient))
        return Guidance(*(torch.cat(part) for part in zip(*parts)))

    def step(self, z: Tensor, z_0: Tensor, k: int) -> Step:
        """The unconditional step from z at k, given x̂_0."""
        law, beta = self.reference.pinned_start(k), float(self.grid.beta[k])
        return Step(mix(law, z, z_0), float(law.var), beta / (1 - beta) ** 0.5)

    def finish(self, z: Tensor, y: Tensor, n: int) -> Tensor:
        """Samples (B, n, *x_shape) in data units from z (B·n, *x_shape), with what y says for sure."""
        check_states(self.name, z, n, "use more steps or weaker guidance")
        return self.problem.impose(self.denoiser.decode(z), y.repeat_interleave(n, 0)).unflatten(0, (len(y), n))


def horizon_bias(grid: Grid, z_std: float) -> float:
    """√ᾱ_T·z_std, the deviation of √ᾱ_T z_0 against the unit noise that the sampler starts with; 0 is unbiased."""
    return float(grid.alpha_bar[-1].sqrt()) * z_std


def horizon(z_std: float, trained: float = 0.0) -> float:
    """ᾱ_T for a sampler that starts from N(0, I): 1e-4, or lower where data of a large scale leave more than LEFT.

    Never below ``trained``, the horizon that the denoiser was trained on: it has not learnt what lies beyond.
    """
    end = LONG if math.sqrt(LONG) * z_std <= LEFT else (LEFT / z_std) ** 2
    return max(end, trained)


def require_eta(eta: float, label: str) -> float:
    """η of DDIM's step as a float. CSBError outside [0, 1]."""
    if not is_number(eta) or not 0 <= eta <= 1:
        raise CSBError(f"eta={eta!r} of {label} is outside [0, 1]; 0 is deterministic, 1 is DDPM")
    return float(eta)


def gaussian_log_ratio(x: Tensor, a: Tensor, b: Tensor, var: float) -> Tensor:
    """log N(x; a, var I) − log N(x; b, var I), (N,), float64."""
    x, a, b = x.double(), a.double(), b.double()
    difference = ((x - b) ** 2 - (x - a) ** 2).flatten(1).sum(1)
    return difference / (2 * var)


__all__ = [
    "DiffusionSampler",
    "Guidance",
    "Score",
    "Step",
    "gaussian_log_ratio",
    "horizon",
    "horizon_bias",
    "require_eta",
]
