r"""A y-conditioned family of kernels: one network, T steps, one direction.

The mean is read from the network's output by an affine map, mean = skip_k·x + gain_k·output, so that all choices of it,
the *parametrisations*, convert exactly. Of the backward kernel of step k they are as below; the forward kernel of step
k is the backward one of step T − k + 1 on the mirrored grid, where "x0" predicts the noise end x_T.

- drift   mean = x_k + β_k·output
- x0      mean = that of the pinned law X_{k−1} | X_k, X_0 = output
- eps     as x0, with x_0 = (x_k − √(1−ᾱ_k)·output)/√ᾱ_k                (Ho et al. 2020)
- v       as x0, with x_0 = √ᾱ_k x_k − √(1−ᾱ_k)·output                  (Salimans & Ho 2022)

With output 0, "v" is the reference step √(1−β_k) x, in both directions.

Here and in the bridge x_k is the state at k, in the transform's units, in which networks compute; data units do not
enter. A *jump* from k to x_0 (:mod:`csb.bridge.student`) is the one backward step of the grid (1, ᾱ_k), with 1−ᾱ_k for
β_k.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from csb.bridge.transitions import DiagonalGaussian, FullGaussian, LowRankGaussian, MixtureOfGaussians, Transition
from csb.dtypes import Float32Module
from csb.errors import CSBError
from csb.networks import Network
from csb.process import Grid, Reference
from csb.schema import OneOf, Schema, Share

Direction = Literal["backward", "forward"]
LOG_VARIANCE_LIMIT = 12.0  # log-variances stay within ±12 of log β_k: e^±12 changes a standard deviation 400-fold
PARAMETRISATIONS = ("drift", "x0", "eps", "v")
COVARIANCES = ("fixed", "diagonal", "low_rank", "full", "mixture")
FEW = 4  # coordinates, up to which pairs lie dense enough for mixtures: in more dimensions they overfit
MOST = 4096  # Gaussians, or directions of a low-rank covariance
MAX_FULL = 64  # coordinates; a full covariance costs d² outputs and d³ operations a state
Parametrisation = Annotated[str, OneOf(PARAMETRISATIONS)]
Some = Annotated[int, Field(ge=1, le=MOST)]  # directions, Gaussians or channels


class Coefficients(NamedTuple):
    """mean = skip_k·x + gain_k·output; (T + 1,) float64 each, 0 at the unused index 0."""

    skip: Tensor
    gain: Tensor


def _affine(name: str, grid: Grid, k: Tensor) -> tuple[Tensor, Tensor]:
    alpha_bar, (near, far, _) = grid.alpha_bar[k], Reference(grid).pinned_start(k)
    return {
        "drift": (torch.ones_like(near), grid.beta[k]),
        "x0": (near, far),
        "eps": (near + far / alpha_bar.sqrt(), -far * ((1 - alpha_bar) / alpha_bar).sqrt()),
        "v": (near + far * alpha_bar.sqrt(), -far * (1 - alpha_bar).sqrt()),
    }[name]


def coefficients(name: str, grid: Grid, direction: Direction) -> Coefficients:
    """Return the coefficients of a parametrisation by name, for steps k = 1..T of a direction."""
    steps, zero = torch.arange(1, grid.T + 1), torch.zeros(1, dtype=torch.float64)
    if direction == "backward":
        return Coefficients(*(torch.cat([zero, part]) for part in _affine(name, grid, steps)))
    return Coefficients(*(torch.cat([zero, part.flip(0)]) for part in _affine(name, grid.mirror(), steps)))


def jump_coefficients(name: str, grid: Grid) -> Coefficients:
    """Return those of the jumps from k = 1..T to x_0; the mean of x_0 is read from the output."""
    found = [_affine(name, grid.keep(0, k), torch.tensor([1])) for k in range(1, grid.T + 1)]
    return Coefficients(*(torch.cat([torch.zeros(1, dtype=torch.float64), *part]) for part in zip(*found)))


class KernelSpec(Schema):
    """One direction's kernels."""

    group = "kernel"

    network: dict[str, Any]  # {"name": one of csb.networks.NETWORKS, **options}
    parametrisation: Parametrisation = "v"  # how the mean is read from the network
    covariance: Annotated[str, OneOf(COVARIANCES)] = "diagonal"
    rank: Some = 8  # directions of covariance="low_rank"; unused otherwise
    variance_floor: Share = 1e-6  # see :class:`Kernel`
    components: Some = 8  # Gaussians of covariance="mixture"; unused otherwise


def automatic_covariance(z_shape: tuple[int, ...]) -> str:
    """Return what suits states of this shape: "mixture" to 4 coordinates, "full" to 64, "low_rank" beyond."""
    d = math.prod(z_shape)
    return "mixture" if d <= FEW else "full" if d <= MAX_FULL else "low_rank"


def heads(covariance: str, z_shape: tuple[int, ...], rank: int, components: int) -> int:
    """Count the heads of the state's shape that a kernel needs: the means, then what covariance and weights take."""
    d = math.prod(z_shape)
    if covariance in ("full", "mixture") and d > MAX_FULL:
        raise CSBError(f"covariance={covariance} is meant for at most {MAX_FULL} coordinates, not {d}; choose diagonal")
    if covariance == "low_rank" and not 1 <= rank <= d:
        raise CSBError(f"rank={rank!r} is not possible for states of {d} coordinates; choose one in 1..{d}")
    mixture = components * (1 + d) + math.ceil(components / d)
    return {"fixed": 1, "diagonal": 2, "low_rank": 2 + rank, "full": 1 + d, "mixture": mixture}[covariance]


def _columns(M: int, d: int) -> Tensor:
    """Where the outputs of each Gaussian of a mixture lie, (M, d + d²): those of its mean, then of its root."""
    each = torch.arange(M)[:, None]
    return torch.cat([each * d + torch.arange(d), (M + each * d) * d + torch.arange(d * d)], dim=1)


class Kernel(Float32Module):
    """backward: x_k ↦ law of x_{k−1}; forward: x_{k−1} ↦ law of x_k; both given the observation.

    Args:
        network: one output head for the mean, then those of the covariance (see :func:`heads`).
        grid: of T steps.
        direction: "backward" or "forward".
        parametrisation: how the mean is read from the output.
        covariance: "fixed" β_k I; "diagonal", log-variances learned; "low_rank", a diagonal and directions learned in
            units of a v-output's effect on the mean; "full", a learned root of the precision; or "mixture", several
            Gaussians with a mean and a full covariance each. With output 0 all of them
            are β_k I, learned ones with the floor added.
        variance_floor: added to a learned (conditional) variance, in units of the state's variance; keeps the
            likelihood bounded where a coordinate is (nearly) known.
        components: Gaussians of a mixture.
        jump: the next state is x_0 from every k, not x_{k−1}; backward kernels only. Where β_k stands here, read 1−ᾱ_k.

    Attributes:
        replayed: whether the network is a CUDA graph that is replayed.
        table: (5, T + 1), by k the time k/T, skip and gain of the mean, log β_k, and the reach of the low-rank part.
        columns: (components, d + d²), the outputs that make each Gaussian of a mixture, else None.
        inflation: factor on the low-rank part of the covariance, 1 while kernels are fitted; saved with the weights.
    """

    table: Tensor
    columns: Tensor
    inflation: Tensor

    def __init__(
        self,
        network: Network,
        grid: Grid,
        direction: Direction,
        parametrisation: str,
        covariance: str = "diagonal",
        variance_floor: float = 1e-6,
        components: int = 1,
        jump: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.direction, self.T = network, direction, grid.T
        self.parametrisation, self.covariance = parametrisation, covariance
        self.variance_floor, self.components = variance_floor, components
        self.replayed = False
        of = partial(jump_coefficients, grid=grid) if jump else partial(coefficients, grid=grid, direction=direction)
        with torch.device(grid.alpha_bar.device):
            skip, gain = of(parametrisation)
            beta = 1 - grid.alpha_bar[1:] if jump else grid.beta[1:]
            log_beta = torch.cat([torch.zeros(1, dtype=torch.float64), beta.log()])
            reach = of("v").gain.abs()  # of the uncertainty that a step leaves, as k varies
            columns = _columns(components, math.prod(network.z_shape)) if covariance == "mixture" else None
            time = torch.arange(self.T + 1, dtype=torch.float64) / self.T
            table = torch.stack([time, skip, gain, log_beta, reach]).float()  # one look-up a call
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("inflation", torch.ones((), dtype=torch.float32))

    def encode(self, c: Tensor) -> Tensor:
        """Return the context of encoded observations c (B, *c_shape), to be reused at every step."""
        return self.network.context(c)

    def forward(self, x: Tensor, k: Tensor, context: Tensor) -> Transition:
        """Return the law of the state after x (B, *z_shape), which is at k (backward) or k − 1 (forward).

        k in 1..T is a LongTensor (B,), or (1,) for the whole batch; the context (B, …) is from :meth:`encode`.
        """
        of_k = self.table.index_select(1, k).to(x.dtype)
        out = self.network(x, of_k[0], context).to(x.dtype)
        if self.replayed:
            out = out.clone()  # the law outlives the next replay, which overwrites this one's output
        skip, gain, log_beta, reach = of_k[1:].reshape(4, -1, *(1,) * (x.ndim - 1)).unbind(0)
        carried = skip * x
        if self.covariance == "mixture":
            return self._mixture(out, partial(self._full, carried, gain, log_beta))
        if self.covariance == "full":
            return self._full(carried, gain, log_beta, out[:, :1], out[:, 1:].flatten(2)[:, None])
        mean, rest = carried + gain * out[:, 0], out[:, 1:]
        if self.covariance == "fixed":
            return DiagonalGaussian(mean, log_beta.exp().expand_as(mean))
        if self.covariance == "diagonal":
            return DiagonalGaussian(mean, self._variance(rest[:, 0], log_beta))
        scale = self.inflation.sqrt().to(x.dtype) * reach.flatten()
        low = scale[:, None, None] * rest[:, 1:].flatten(2).mT
        return LowRankGaussian(mean, self._variance(rest[:, 0], log_beta), low)

    def _full(self, carried: Tensor, gain: Tensor, log_beta: Tensor, raw: Tensor, rows: Tensor) -> FullGaussian:
        """B·m Gaussians with means carried + gain·raw, from raw (B, m, *z_shape) and rows (B, m, d, d).

        The diagonal of ``rows`` holds log-variances; what is above it goes unused.
        """
        mean = torch.addcmul(carried[:, None], gain[:, None], raw)
        var = self._variance(rows.diagonal(dim1=2, dim2=3), log_beta.flatten(1)[:, None])
        return FullGaussian(mean.flatten(0, 1), rows.flatten(0, 1), var.flatten(0, 1))

    def _mixture(self, out: Tensor, full: Callable[[Tensor, Tensor], FullGaussian]) -> MixtureOfGaussians:
        out, M, d = out.flatten(1), self.components, math.prod(self.network.z_shape)

        def parts(chosen: Tensor | None) -> FullGaussian:
            m = M if chosen is None else 1
            taken = out if chosen is None else out.gather(1, self.columns.index_select(0, chosen))
            raw, rows, _ = taken.split([m * d, m * d * d, taken.shape[1] - m * d * (1 + d)], dim=1)
            return full(raw.reshape(-1, m, *self.network.z_shape), rows.reshape(-1, m, d, d))

        start = M * d * (1 + d)
        return MixtureOfGaussians(out[:, start : start + M], parts)

    def _variance(self, raw: Tensor, log_beta: Tensor) -> Tensor:
        return (log_beta + raw.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)).exp() + self.variance_floor

    @property
    def integrates_targets(self) -> bool:
        """Whether the likelihood can integrate a target's variance out; a mixture's has no closed form."""
        return self.covariance != "mixture"

    @property
    def noise_size(self) -> int:
        """How many standard normal numbers one draw takes."""
        extra = {"low_rank": self.network.heads - 2, "mixture": 1}.get(self.covariance, 0)
        return math.prod(self.network.z_shape) + extra
