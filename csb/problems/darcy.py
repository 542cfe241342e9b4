r"""Flow through porous ground: the logarithm of the permeability from pressures at sensors, a nonlinear problem.

x = u on 32 × 32 cells of the unit square is a random field of unit variance (:mod:`csb.problems.fields`). The pressure
p solves Darcy's law with a source of 1 everywhere and p = 0 on the boundary,

    −∇·(e^u ∇p) = 1,

by finite volumes: between two cells flows T (p_i − p_j), T the harmonic mean of their permeabilities κ = e^u, and
across a face of the boundary 2κ_i p_i. What is seen is p at 8 × 8 cells, with noise σ = .05 of the spread there of 256
draws of the prior. The matrix A(u) of the cells' balance is banded and positive definite. Its solution has the gradient
∂(λᵀ p)/∂u = −∂(aᵀ A(u) p)/∂u with a = A⁻¹ λ, one more solution.
"""

from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from csb.problems.base import BLOCK, PROBLEMS, AdditiveNoise, Pairs, Request, Simulated, in_blocks
from csb.problems.fields import RandomField
from csb.process import Stream, noise_like, seeded
from csb.schema import Positive, Spread

_SIDE, _APART = 32, 4
_DRAWS = 256


def balance(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """aᵀ A(u) b of fields (B, side, side), (B,)."""
    k = u.exp()
    total = torch.zeros(len(u), dtype=u.dtype, device=u.device)
    for dim in (1, 2):
        one, other = (k.narrow(dim, start, k.shape[dim] - 1) for start in (0, 1))
        flow = 2 * one * other / (one + other) * b.diff(dim=dim)
        total = total + (flow * a.diff(dim=dim)).flatten(1).sum(1)
        for edge in (0, k.shape[dim] - 1):
            total = total + 2 * (k * a * b).select(dim, edge).sum(1)
    return total


def bands(u: np.ndarray) -> np.ndarray:
    """The lower bands of A(u) for one field (side, side), as scipy.linalg.solveh_banded takes them."""
    side, k = len(u), np.exp(u)
    found = np.zeros((side + 1, side * side))
    diagonal = np.zeros((side, side))
    for axis, below in ((1, 1), (0, side)):
        one, other = (k.take(range(start, start + side - 1), axis) for start in (0, 1))
        T = np.zeros((side, side))
        first = (slice(None), slice(0, -1)) if axis else (slice(0, -1), slice(None))
        second = (slice(None), slice(1, None)) if axis else (slice(1, None), slice(None))
        T[first] = 2 * one * other / (one + other)
        diagonal += T
        diagonal[second] += T[first]
        found[below] = -T.ravel()
        for edge in (0, -1):
            at = (slice(None), edge) if axis else (edge, slice(None))
            diagonal[at] += 2 * k[at]
    found[0] = diagonal.ravel()
    return found


def solved(u: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A(u)⁻¹ right, of fields (B, side, side)."""
    from scipy.linalg import solveh_banded  # a while to import, for this problem only

    each = [solveh_banded(bands(one), r.ravel(), lower=True, check_finite=False) for one, r in zip(u, right)]
    return np.stack(each).reshape(right.shape) if each else np.zeros_like(right)


class _Pressure(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        side = u.shape[1]
        source = np.full(u.shape, 1 / side**2)
        p = torch.from_numpy(solved(u.detach().double().cpu().numpy(), source)).to(u.device)
        ctx.save_for_backward(u, p)
        return p.to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        u, p = ctx.saved_tensors
        a = torch.from_numpy(solved(u.double().cpu().numpy(), slopes[0].double().cpu().numpy())).to(u.device)
        with torch.enable_grad():
            at = u.detach().double().requires_grad_()
            (found,) = torch.autograd.grad(-balance(at, a, p).sum(), at)
        return found.to(u.dtype)


def pressure(u: Tensor) -> Tensor:
    """p of log-permeabilities u (B, side, side), differentiable, computed in float64 on the CPU."""
    return _Pressure.apply(u)  # type: ignore[no-any-return]


@PROBLEMS.register
class Darcy(Simulated, AdditiveNoise):
    """x (1, 32, 32), y (64,), as the module's docstring says."""

    smoothness: Annotated[Positive, Field(description="ν of the field")] = 1.5
    length: Annotated[Positive, Field(description="ℓ of the field, of a torus of side 1")] = 0.2
    noise: Annotated[Spread, Field(description="share of the spread of what is seen")] = 0.05

    name = "darcy"
    x_shape = (1, _SIDE, _SIDE)
    y_shape = ((_SIDE // _APART) ** 2,)

    @cached_property
    def field(self) -> RandomField:
        """The prior."""
        return RandomField(side=_SIDE, smoothness=self.smoothness, length=self.length)

    @cached_property
    def noise_std(self) -> float:
        """σ."""
        return self.noise * float(self.forward(self.prior(_DRAWS, seeded(0, Stream.PROBLEM))).std(0).mean())

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.field.prior(n, generator)

    def forward(self, x: Tensor) -> Tensor:
        return pressure(x[:, 0])[:, _APART // 2 :: _APART, _APART // 2 :: _APART].flatten(1)

    @cached_property
    def _solved(self) -> dict[str, Tensor]:
        """By split, what is seen without noise of as many fields as were asked for so far."""
        return {}

    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """As in :class:`Problem`; no field is solved twice."""
        n = self.sizes[split] if (n := Request(split=split, n=n).n) is None else n

        def block(start: int, generator: torch.Generator) -> Pairs:
            x = self.prior(BLOCK, generator)
            return Pairs(x, noise_like(x.new_empty(BLOCK, *self.y_shape), generator))

        x, noise, _ = in_blocks(self.seed, split, n, block)
        seen = self._solved.get(split, noise[:0])[:n]
        if len(seen) < n:
            self._solved[split] = seen = torch.cat([seen, self.forward(x[len(seen) :])])
        return Pairs(x, seen + self.noise_std * noise)
