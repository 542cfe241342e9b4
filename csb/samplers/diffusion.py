r"""What samplers of an unconditional denoiser share: the chain, gradients through x̂_0, and linear problems.

The unconditional step is the pinned law with x̂_0 in place of x_0 (Ho et al. 2020, eq. 7): z_{k−1} ~ N(μ_k, β̃_k I),
μ_k = [√ᾱ_{k−1} β_k x̂_0 + √(1−β_k)(1−ᾱ_{k−1}) z_k]/(1−ᾱ_k). At k = 1 β̃_1 = 0: the last step is noiseless and μ_1 = x̂_0.

Time travel, for the methods that have it (Lugmayr et al. 2022, §4.2 and appendix B: jump length j, U resamples; j = 1
is their algorithm 1): from the levels m = 1, 1 + j, 1 + 2j, … ≤ T − j the chain jumps back up to m + j, U − 1 times
each, so that every stretch of j steps is taken U times. A jump is one draw of X_{m+j} | X_m ~ N(√r x, (1−r) I), r =
ᾱ_{m+j}/ᾱ_m, of the reference process. There are T + (U−1)·j·⌊(T−1)/j⌋ downward steps.

Linear problems. In z = (x − shift)/scale an observation y = A x + σε is c = A z_0 + (σ/scale) ε with c = (y − A
shift)/scale. Whatever stands for p(y | z_k), its gradient turns the denoiser's x̂_0 into that of the posterior, by
Tweedie's formula for the marginals of p(z_0 | y):

    E[z_0 | z_k, y] = x̂_0 + (1−ᾱ_k)/√ᾱ_k ∇_{z_k} log p(y | z_k),

and where z_0 | z_k is a Gaussian of covariance C it is (C = (1−ᾱ)/√ᾱ ∇x̂_0, the covariance by Tweedie's second formula)
x̂_0 + C A*(A C A* + σ² I)⁻¹(c − A x̂_0): the methods differ in what they take for C.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from csb.bridge import SampleInfo, Samples, autocast
from csb.bridge.samples import REACH, require_finite
from csb.dtypes import Precision
from csb.errors import CSBError
from csb.networks.diffusion import Denoiser
from csb.problems import SVD
from csb.process import Grid, LinearBeta, Noise, Reference, ddim, expand, mix
from csb.samplers.base import Fresh, Sampler, noised
from csb.samplers.likelihood import GaussianLikelihood, GuidanceLikelihood
from csb.schema import Count, Share

LONG = 1e-4  # ᾱ_T of a horizon that is long enough for data of about unit scale
LEFT = 0.03  # standard deviations of the signal that may be left at the horizon, where the noise has 1
ROUNDING = 10 * torch.finfo(torch.float32).eps  # of the largest singular value: y and the states are float32
Potential = Callable[[Tensor, Tensor, float], Tensor]  # (y (N, …), x̂_0 in data units (N, …), ᾱ_k) → (N,)
Spread = Callable[[Tensor], Tensor]  # C A* v in z's units for v (N, *y_shape)


class Guidance(NamedTuple):
    """States z (N, …), x̂_0 there in z's units, the value of a function of it (N,), float64, and its gradient in z."""

    z: Tensor
    z_0: Tensor
    value: Tensor
    gradient: Tensor


def levels(T: int, jump_length: int = 1, resamples: int = 1) -> list[int]:
    """The levels that are visited, from T to 0. CSBError where a jump does not fit in the T steps (j < T, or j = 1)."""
    if jump_length > max(T - 1, 1):
        raise CSBError(f"jump_length={jump_length} does not fit in T={T} steps; give at most {max(T - 1, 1)}")
    left = {m: resamples - 1 for m in range(1, T - jump_length + 1, jump_length)}
    path, k = [T], T
    while k > 0:
        if left.get(k, 0) > 0:
            left[k] -= 1
            k += jump_length
        else:
            k -= 1
        path.append(k)
    return path


class DiffusionSampler(Sampler):
    """A sampler that guides the unconditional reverse process of a denoiser on a grid.

    Args:
        denoiser: of the prior p(x).
        likelihood: a :class:`csb.GaussianLikelihood`; for some methods any GuidanceLikelihood, else CSBError.
        grid: on which the method runs; it starts from N(0, I), so that ᾱ_T must be small (see :func:`horizon_bias`).
            None: that of T steps of the linear schedule, with the :func:`horizon` of the data and the denoiser.
        T: the steps, where no grid is given.
        **settings: those of the method's ``Settings``.

    Attributes:
        label: the method's name in tables.
        swept: the argument that a comparison sweeps on validation observations, and its symbol.
        any_likelihood: whether any differentiable log p̃(y | x̂_0) will do, e.g. that of a class.
        guided: whether a step takes a gradient through the denoiser.
        path: the levels that the chain visits, T first.
    """

    batch_size: Count = 256
    """States a network call; bounds the memory of activations."""
    precision: Precision = "32-true"
    """Of the network calls."""
    label: ClassVar[str]
    swept: ClassVar[tuple[str, str] | None] = None
    any_likelihood: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    jump_length = resamples = 1  # j and U of the methods that have no time travel
    likelihood: Any

    def __init__(
        self,
        denoiser: Denoiser,
        likelihood: GuidanceLikelihood,
        grid: Grid | None = None,
        *,
        T: int = 100,
        **settings: Any,
    ) -> None:
        if not (isinstance(denoiser, Denoiser) and isinstance(likelihood, GuidanceLikelihood)):
            given = f"a {type(denoiser).__name__} and a {type(likelihood).__name__}"
            raise CSBError(f"{self.name} takes a csb.Denoiser and a likelihood as csb.GaussianLikelihood, not {given}")
        if not self.any_likelihood and not isinstance(likelihood, GaussianLikelihood):
            raise CSBError(
                f"{likelihood.name} has no likelihood y = H(x) + noise, whose residuals {self.name} needs; a method "
                f"that needs only a differentiable likelihood is tds, smc or guidance"
            )
        self.denoiser, self.likelihood = denoiser.eval().requires_grad_(False), likelihood.bound(denoiser)
        super().__init__(denoiser.x_shape, self.likelihood.y_shape, denoiser.shift.device, **settings)
        if grid is None:
            end = horizon(self.likelihood.z_variance**0.5, denoiser.alpha_bar_end)
            grid = Grid.from_schedule(LinearBeta(alpha_bar_end=end), T)
        self.grid, self.reference = grid, Reference(grid)
        self.path = levels(grid.T, self.jump_length, self.resamples)

    @property
    def step_passes(self) -> tuple[int, int]:
        """Network passes of one step down, forward and backward."""
        return 1, int(self.guided)

    @property
    def passes(self) -> tuple[int, int]:
        """Network passes for one sample, forward and backward, as :class:`csb.bridge.SampleInfo` counts them."""
        (forward, backward), down = self.step_passes, sum(to < k for k, to in pairwise(self.path))
        return forward * down, backward * down

    @property
    def evaluations(self) -> int:
        return sum(self.passes)

    def observed(self, y: Tensor) -> Tensor:
        """What the steps take for y (B, *y_shape): y itself, or what a method makes of it once."""
        return y

    def start(self, y: Tensor, fresh: Fresh) -> Tensor:
        """z_T (N, *x_shape), for y (N, …) from :meth:`observed`, one for each state."""
        return fresh()

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        """z_{k−1} (N, *x_shape), from z at k and y as in :meth:`start`."""
        raise NotImplementedError  # of a method that has no chain of its own to follow

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        each, fresh = self.observed(y).repeat_interleave(n, 0), partial(noise.normal, n, *self.x_shape)
        z = self.start(each, fresh)
        for k, to in pairwise(self.path):
            if to > k:
                r = self.grid.alpha_bar[to] / self.grid.alpha_bar[k]
                z = noised(expand(r.sqrt(), z) * z, 1 - r, fresh)
            else:
                z = self.move(z, k, each, fresh)
        return Samples(self.finish(z, y, n), SampleInfo(*self.passes))

    def denoise(self, z: Tensor, k: int) -> Tensor:
        """x̂_0 (in z's units) at step k, ``batch_size`` states a network call."""
        alpha_bar = self.grid.alpha_bar[k].to(self.device)
        with torch.no_grad(), autocast(self.precision, self.device):
            return torch.cat([self.denoiser(part, alpha_bar) for part in z.split(self.batch_size)])

    def tracked(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The states z and x̂_0 there, for gradients of the second in the first."""
        at = z.detach().requires_grad_()
        with torch.enable_grad(), autocast(self.precision, self.device):
            return at, self.denoiser(at, self.grid.alpha_bar[k].to(self.device))

    def guide(
        self, z: Tensor, k: int, y: Tensor, potential: Potential | None = None, gradient: bool = True
    ) -> Guidance:
        """A function of (y, x̂_0), by default log p̃_k(y | z), and its gradient in z through the denoiser, as it is.

        y is (N, *y_shape), one for each z. Without ``gradient`` that is 0 at no cost, as at k = 0, where x̂_0 = z.
        """
        function = potential or self.likelihood.log_prob
        alpha_bar = float(self.grid.alpha_bar[k])
        if k == 0 or not gradient:
            z_0 = self.denoise(z, k) if k > 0 else z
            value = function(y, self.denoiser.decode(z_0), alpha_bar)
            return Guidance(z, z_0, value.double(), torch.zeros_like(z))
        parts = []
        for z_part, y_part in zip(z.split(self.batch_size), y.split(self.batch_size)):
            leaf, z_0 = self.tracked(z_part, k)
            with torch.enable_grad():
                value = function(y_part, self.denoiser.decode(z_0), alpha_bar)
                if not value.requires_grad:
                    raise CSBError(f"{self.name} takes gradients and the likelihood has none in x; smc needs none")
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            parts.append(Guidance(z_part, z_0.detach(), value.detach().double(), slope))
        return Guidance(*(torch.cat(part) for part in zip(*parts)))

    def unconditional(self, z: Tensor, z_0: Tensor, k: int) -> tuple[Tensor, float]:
        """μ_k (N, *x_shape) and β̃_k from z at k, given x̂_0."""
        law = self.reference.pinned_start(k)
        return mix(law, z, z_0), float(law.var)

    def finish(self, z: Tensor, y: Tensor, n: int) -> Tensor:
        """Samples (B, n, *x_shape) in data units from z (B·n, *x_shape), with what y says for sure."""
        require_finite(self.name, z.unflatten(0, (len(y), n)), "use more steps or weaker guidance", REACH)
        return self.likelihood.impose(self.denoiser.decode(z), y.repeat_interleave(n, 0)).unflatten(0, (len(y), n))


class LinearSampler(DiffusionSampler):
    """A sampler for y = A x + σε. CSBError for a likelihood without an operator.

    Attributes:
        operator: A.
        std: σ in z's units, ≥ 0.
        svd: that of A, of a method that ``needs_svd``. Where y has no noise, of what float32 tells from rounding alone:
            errors are divided by s there.
    """

    needs_svd: ClassVar[bool] = False
    svd: SVD

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        if self.likelihood.operator is None:
            raise CSBError(
                f"{self.likelihood.name} has no linear operator; {self.label} needs y = A x + noise, A a matrix or a "
                f"csb.problems.Operator; tds, smc, dps, copaint, sda and guidance take any differentiable function"
            )
        self.operator, self.std = self.likelihood.operator, self.likelihood.noise_std / self.denoiser.scale
        if self.needs_svd:
            self.svd = self.operator.svd if self.std > 0 else self.operator.svd.above(ROUNDING)

    def observed(self, y: Tensor) -> Tensor:
        """c (B, *y_shape)."""
        return (y - self.operator(self.denoiser.shift[None])) / self.denoiser.scale


class MomentSampler(LinearSampler):
    """A linear sampler that takes z_0 | z_k for a Gaussian, by the Jacobian of the denoiser."""

    guided = True
    eta: Share = 1.0
    """η of DDIM's step; 1 is the ancestral step."""

    @abstractmethod
    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        """E[z_0 | z_k, y] − x̂_0, (N, *x_shape), from c − A x̂_0; ``spread`` is called once a backward pass of a step."""

    def posterior_mean(self, z: Tensor, k: int, c: Tensor) -> Tensor:
        """E[z_0 | z_k, y] for states z (N, *x_shape), c (N, *y_shape), ``batch_size`` states a network call."""
        alpha_bar = self.grid.alpha_bar[k]
        ratio, size = float((1 - alpha_bar) / alpha_bar.sqrt()), self.batch_size
        parts = []
        for z_part, c_part in zip(z.split(size), c.split(size)):
            at, z_0 = self.tracked(z_part, k)

            def spread(v: Tensor, z_0: Tensor = z_0, at: Tensor = at) -> Tensor:
                (found,) = torch.autograd.grad(z_0, at, self.operator.adjoint(v), retain_graph=True)
                return ratio * found

            guess = z_0.detach()
            parts.append(guess + self.correction(c_part - self.operator(guess), spread, float(alpha_bar)))
        return torch.cat(parts)

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        law = ddim(self.grid, k, self.eta)
        return noised(mix(law, z, self.posterior_mean(z, k, y)), law.var, fresh)


def horizon_bias(grid: Grid, z_std: float) -> float:
    """√ᾱ_T·z_std, the deviation of √ᾱ_T z_0 against the unit noise that the sampler starts with; 0 is unbiased."""
    return float(grid.alpha_bar[-1].sqrt()) * z_std


def horizon(z_std: float, trained: float = 0.0) -> float:
    """ᾱ_T for a sampler that starts from N(0, I): 1e-4, or lower where data of a large scale leave more than LEFT.

    Never below ``trained``, the horizon that the denoiser was trained on: it has not learnt what lies beyond.
    """
    end = LONG if math.sqrt(LONG) * z_std <= LEFT else (LEFT / z_std) ** 2
    return max(end, trained)
