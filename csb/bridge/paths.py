r"""Paths of a bridge: skips over steps, and the density at the end of them.

Skips. Let π be a path law in the reciprocal class of the reference process: given its two ends, and so given X_0 and
X_k, it is the pinned reference. Then with the pinned step N(near·x_k + far·x_0, β̃ I) of :mod:`csb.process.reference`

    π(x_{k−1} | x_k) = ∫ N(x_{k−1}; near·x_k + far·x_0, β̃ I) π(x_0 | x_k) dx_0,

a law of far·X_0 plus noise that is known. A Gaussian backward kernel N(m, Σ) thereby implies

    E[X_0 | x_k] = (m − near·x_k)/far,    Cov(X_0 | x_k) = (Σ − β̃ I)/far²,

and a mixture of Gaussians a mixture of the same weights, component by component: a law has one Gaussian deconvolution
at most, since characteristic functions of Gaussians vanish nowhere. For any j < k the step pinned at X_0 that leads
from k to j, N(near'·x_k + far'·x_0, β̃' I), gives with g = far'/far

    X_j | x_k:    mean near'·x_k + g (m − near·x_k),    covariance g² (Σ − β̃ I) + β̃' I.

One network call thus reaches any j; j = k−1 returns the kernel. Whether that is π(x_j | x_k) depends on the kernels:

- The first half-step fits the reference pinned at data, which is in the class, whatever the objective.
- Bridge matching fits pinned reference paths between end points: it is in the class by construction, and so is the
  Schrödinger bridge, its fixed point.
- IPF keeps the law given the ends, so exact likelihood fits stay in the class as well; kernels that are not exact leave
  it, a little more with every iteration.
- Mean matching fits no conditional law: its variance is β_k by decree, and nothing can be taken out of it.

Where the kernels are π's exact ones and π is Markov (IPF, the fixed point), a skip is the composition of the steps it
replaces; in bridge matching before the fixed point skips have π's two-time laws and keep its marginals, as its steps
do. A fitted Σ may fall below β̃ I where the data leave little uncertainty: eigenvalues of Σ − β̃ I below 0 count as 0. A
kernel's error grows by g. Forward kernels are backward ones on the mirrored grid, and imply laws of X_T.

Density. The sampler draws x_T ~ N(0, I) and x_{k−1} ~ B_k(· | x_k, y). Its density at a state x_0 is an integral over
paths, and for any law F_k(x_k | x_{k−1}, y) of paths that start at x_0

    p_B(x_0 | y) = ∫ N(x_T; 0, I) ∏ B_k(x_{k−1} | x_k, y) dx_{1:T} = E_F[w],
    w = N(x_T; 0, I) ∏ B_k(x_{k−1} | x_k, y)/F_k(x_k | x_{k−1}, y).

The mean of n weights is unbiased for p_B, so that its logarithm is in expectation a lower bound of log p_B, which rises
with n and tends to it (Burda, Grosse & Salakhutdinov 2016, Theorem 1), low by about Var(w)/(2 n p_B²), half the squared
``standard_error``. The best proposal is the law of the sampler's paths given x_0, to which the forward kernels are
fitted: w does not vary. Where they were never fitted, as with L = 1 and training.last_forward=false, their networks'
output for the mean is 0 everywhere, and the reference process, which is near in the first iteration, takes their place.
With x = f(z) for the bridge's state z, p(x | y) = Σ_z p_B(z | y) |det dz/dx| over the states that decode to x
(:meth:`csb.problems.transform.Transform.lift`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from csb.bridge.kernel import Direction, Kernel
from csb.bridge.samples import as_floats
from csb.bridge.transitions import DiagonalGaussian, Transition
from csb.errors import CSBError, require_int
from csb.numbers import Numbers, require_present
from csb.problems.transform import Transform
from csb.process import Grid, Noise, Reference, expand

if TYPE_CHECKING:
    from csb.bridge.bridge import Bridge


class Skip(NamedTuple):
    """X_j | x_k from the kernel N(m, Σ) of step k: N(scale·x_k + gain·m, gain²·max(Σ − removed·I, 0) + added·I)."""

    scale: float  # near' − g·near
    gain: float  # g
    removed: float  # β̃
    added: float  # β̃'

    def mean(self, x: Tensor, mean: Tensor) -> Tensor:
        return self.scale * x + self.gain * mean

    def factor(self, covariance: Tensor) -> Tensor:
        """F (B, d, d) with F Fᵀ = gain²·max(Σ − removed·I, 0) + added·I; NaN where Σ is not finite.

        A Cholesky factor where Σ − removed·I is positive definite; elsewhere eigenvectors, at ten times the cost.
        """
        identity = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
        rest = covariance - self.removed * identity
        factor, failed = torch.linalg.cholesky_ex(rest)
        factor = self.gain * factor
        if self.added:
            factor, again = torch.linalg.cholesky_ex(factor @ factor.mT + self.added * identity)
            failed = failed + again
        factor = factor.masked_fill((failed != 0)[:, None, None], torch.nan)
        rows = ((failed != 0) & torch.isfinite(rest).all(2).all(1)).nonzero()[:, 0]
        if len(rows):
            values, vectors = torch.linalg.eigh(rest[rows])
            scale = (self.gain**2 * values.clamp_min(0) + self.added).sqrt()
            factor[rows] = vectors * scale[:, None]
        return factor


def moved(law: Transition, x: Tensor, skip: Skip | None, noise: Tensor | None) -> Tensor:
    """Return the next state, (B, *z_shape): a step of the law, the kernel's at x, or a skip; the mean without noise."""
    if noise is None:
        return law.mean if skip is None else skip.mean(x, law.mean)
    return law.draw(noise) if skip is None else law.skip(x, skip, noise)


def timesteps_of(grid: Grid, count: int) -> list[int]:
    """Return the states 0 = k_0 < … < k_count = T that ``count`` steps visit, evenly spaced in k, to the nearest.

    On four problems this was never far from the best of five choices; steps even in the log signal-to-noise ratio
    cross the noisy end in one skip. CSBError where count is not in 1..T.
    """
    require_int("sample_steps", count, 1, grid.T)
    return [(2 * i * grid.T + count) // (2 * count) for i in range(count + 1)]


def planned_calls(
    grid: Grid, direction: Direction, timesteps: list[int] | None = None
) -> list[tuple[int, Skip | None]]:
    """Return the calls of a pass that visits ``timesteps`` (ascending, 0 to T; None: all): step k, and skip if any."""
    timesteps = list(range(grid.T + 1)) if timesteps is None else timesteps
    pairs = list(pairwise(timesteps))
    if direction == "backward":
        return [(high, _skip(grid, high, low)) for low, high in pairs[::-1]]
    T, mirrored = grid.T, grid.mirror()
    return [(low + 1, _skip(mirrored, T - low, T - high)) for low, high in pairs]


def _skip(grid: Grid, k: int, j: int) -> Skip | None:
    if j == k - 1:
        return None
    step = Reference(grid).pinned_start(k)
    kept = (0, j, k) if j else (0, k)  # the grid on which the skip is its last step
    skip = Reference(grid.keep(*kept)).pinned_start(len(kept) - 1)
    gain = skip.far / step.far
    return Skip(float(skip.near - gain * step.near), float(gain), float(step.var), float(skip.var))


def check_skips(direction: str, parametrisation: str, covariance: str, count: int, T: int) -> None:
    """CSBError unless kernels of this kind say what the far end of the path is, or no skip is asked for."""
    if count == T or (parametrisation != "drift" and covariance != "fixed"):
        return
    kind = "parametrisation=drift" if parametrisation == "drift" else "covariance=fixed"
    need = "kernels that predict an end of the path (x0, eps or v) with a learned covariance"
    raise CSBError(
        f"sample_steps={count} needs {need}; the {direction} ones have {kind}; leave sample_steps at T={T} or retrain"
    )


@dataclass(frozen=True)
class DensityInfo:
    """How good an estimate of log-densities is, and what it cost.

    Attributes:
        ess: effective sample size (Σw)²/Σw² of the n weights, of the log-densities' shape; n where the density is 0.
        standard_error: of the log-densities, √((n/ess − 1)/(n − 1)), the delta method; of their shape. NaN for n = 1.
            A proposal that misses part of the paths altogether goes unnoticed; twice the n tells more.
        proposal: "forward" kernels or "reference" process.
        forward_evaluations: of networks, for one path; seconds and peak_memory as in :class:`csb.bridge.SampleInfo`.
    """

    ess: Tensor
    standard_error: Tensor
    proposal: str
    forward_evaluations: int
    seconds: float
    peak_memory: int | None = None


def check_points(
    x: Numbers, transform: Transform, observations: int, single: bool, device: torch.device
) -> tuple[Tensor, tuple[int, ...]]:
    """Return x as (B, m, *x_shape), in its dtype as data, on the device, and the shape of the answer.

    CSBError where x is not made of numbers, does not go with the B observations, is empty or not finite.
    """
    shape = transform.x_shape
    x = as_floats("x", x, shape, device, transform.dtype_of("x"), transform.any_units)
    if shape == (1,) and (tuple(x.shape[-1:]) != shape or (x.ndim == 1 and not single)):
        x = x[..., None]  # points of one coordinate, as bare numbers
    lead = tuple(x.shape[: max(x.ndim - len(shape), 0)])
    begins = lead[:1] == (observations,) if not single else True
    if tuple(x.shape[len(lead) :]) != shape or not begins or len(lead) not in ((0, 1) if single else (1, 2)):
        inner = ", ".join(map(str, shape))
        one = f"{shape} or (m, {inner}) for one observation" if single else ""
        expected = one or f"({observations}, {inner}) or ({observations}, m, {inner}) for {observations} observations"
        raise CSBError(f"x has shape {tuple(x.shape)}; expected {expected}")
    if x.numel() == 0:
        raise CSBError("x holds no point; pass at least one")
    require_present("x", x.reshape(-1, *shape), "pass finite points")
    return x.reshape(observations, -1, *shape), lead


def estimate(
    bridge: "Bridge", x: Tensor, y: Tensor, n: int, noise: Noise, batch: int
) -> tuple[Tensor, Tensor, Tensor, str]:
    """Estimate log-densities of points x (B, m, *x_shape), their ESS and errors, all (B, m); and the proposal."""
    B, m = x.shape[:2]
    copies = x.flatten(0, 1).repeat_interleave(n, 0)
    z, log_scale = bridge.transform.lift(copies, noise.uniform(m * n, *bridge.transform.z_shape), y)
    log_w, proposal = _log_weights(bridge, z, bridge.transform.encode_y(y), m * n, noise, batch)
    log_w = (log_w + log_scale).view(B, m, n)
    value = log_w.logsumexp(2) - math.log(n)
    # Outside the support all weights are 0, which is no estimate: the density is 0.
    share = torch.where(value.isneginf()[..., None], 1 / n, log_w.softmax(2))
    ess = 1 / (share**2).sum(2)
    error = ((n / ess - 1).clamp_min(0) / (n - 1)).sqrt() if n > 1 else torch.full_like(ess, float("nan"))
    return value.float(), ess.float(), error.float(), proposal


def _log_weights(bridge: "Bridge", z: Tensor, c: Tensor, rows: int, noise: Noise, batch: int) -> tuple[Tensor, str]:
    """log w of one path from each state z (B·rows, *z_shape), float64; and the proposal."""
    T, forward, backward = bridge.grid.T, bridge.forward_kernel, bridge.backward_kernel
    contexts, along = bridge.contexts("backward", c, batch), bridge.contexts("forward", c, batch)
    owner = torch.arange(len(c), device=z.device).repeat_interleave(rows)
    fitted = is_fitted(forward, along[:1])
    propose = forward if fitted else _reference_steps(bridge.grid)
    size = forward.noise_size if fitted else math.prod(bridge.transform.z_shape)
    log_w = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for k in range(1, T + 1):
        step, states = torch.tensor([k], device=z.device), []
        numbers = noise.normal(rows, size)
        for index in torch.arange(len(z), device=z.device).split(batch):
            law = propose(z[index], step, along[owner[index]])
            states.append(law.draw(numbers[index]))
            back = backward(states[-1], step, contexts[owner[index]])
            log_w[index] += _total(law.nll(states[-1])) - _total(back.nll(z[index]))
        z = torch.cat(states)
    return log_w - _total(0.5 * (z.double() ** 2 + math.log(2 * math.pi))), "forward" if fitted else "reference"


def _total(terms: Tensor) -> Tensor:
    return terms.flatten(1).double().sum(1)


def is_fitted(kernel: Kernel, context: Tensor) -> bool:
    """Whether a kernel's network ever took an optimiser step, by the context of one observation, (1, …)."""
    time = torch.arange(1, kernel.T + 1, dtype=torch.float32, device=context.device) / kernel.T
    x = torch.ones((kernel.T, *kernel.network.z_shape), dtype=torch.float32, device=context.device)
    return bool((kernel.network(x, time, context.expand(kernel.T, *context.shape[1:]))[:, 0] != 0).any())


def _reference_steps(grid: Grid) -> Callable[[Tensor, Tensor, Tensor], Transition]:
    """X_k | X_{k−1} of the reference process, called as a forward kernel is."""
    reference = Reference(grid)

    def law(x: Tensor, k: Tensor, context: Tensor) -> Transition:
        step = reference.step(k.cpu())
        return DiagonalGaussian(expand(step.scale, x) * x, expand(step.var, x).expand_as(x))

    return law
