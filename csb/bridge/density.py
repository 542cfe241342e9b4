r"""The density of a bridge's samples, by importance sampling.

The sampler draws x_T ~ N(0, I) and x_{k−1} ~ B_k(· | x_k, y). Its density at a state x_0 is an integral over paths, and
for any law F_k(x_k | x_{k−1}, y) of paths that start at x_0

    p_B(x_0 | y) = ∫ N(x_T; 0, I) ∏ B_k(x_{k−1} | x_k, y) dx_{1:T} = E_F[w],
    w = N(x_T; 0, I) ∏ B_k(x_{k−1} | x_k, y)/F_k(x_k | x_{k−1}, y).

The mean of n weights is unbiased for p_B, so that its logarithm is in expectation a lower bound of log p_B, which rises
with n and tends to it (Burda, Grosse & Salakhutdinov 2016, Theorem 1); the bound is low by about Var(w)/(2 n p_B²),
half the squared ``standard_error``. The best proposal is the law of the sampler's paths given x_0, where w does not
vary. The forward kernels are fitted to that law, and in the first iteration the reference process is near it: backward
kernels that reverse it exactly leave w = p(x_0 | y)·N(x_T; 0, I)/p_T(x_T | y). Forward kernels that were never fitted,
which training leaves out with L = 1 and training.last_forward=false, are recognised by their networks' output for
the mean, 0 everywhere before the first optimiser step; the reference process takes their place.

With x = f(z) for the bridge's state z, p(x | y) = Σ_z p_B(z | y) |det dz/dx| over the states that decode to x
(:meth:`csb.problems.transform.Transform.lift`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from csb.bridge.kernel import Kernel
from csb.bridge.samples import as_floats
from csb.bridge.transitions import DiagonalGaussian, Transition
from csb.errors import CSBError
from csb.numbers import Numbers, require_present
from csb.problems.transform import Transform
from csb.process import Grid, Noise, Reference, expand

if TYPE_CHECKING:
    from csb.bridge.bridge import Bridge


@dataclass(frozen=True)
class DensityInfo:
    """How good an estimate of log-densities is, and what it cost.

    Attributes:
        ess: effective sample size (Σw)²/Σw² of the n weights, of the log-densities' shape; n where x lies outside the
            support and the density is 0.
        standard_error: of the log-densities, √((n/ess − 1)/(n − 1)), the delta method; of their shape. NaN for n = 1.
            A proposal that misses part of the paths altogether goes unnoticed; twice the n tells more.
        proposal: "forward" kernels or "reference" process.
        forward_evaluations: network evaluations for one path.
        seconds, peak_memory: as in :class:`csb.bridge.samples.SampleInfo`.
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
    uniform = noise.uniform(m * n, *bridge.transform.z_shape)
    z, log_scale = bridge.transform.lift(copies, uniform)
    c = bridge.transform.encode_y(y)
    log_w, proposal = _log_weights(bridge, z, c, m * n, noise, batch)
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
    """Whether a kernel's network ever took an optimiser step: the output for the mean is 0 everywhere until then.

    ``context`` is one observation's, (1, …).
    """
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
