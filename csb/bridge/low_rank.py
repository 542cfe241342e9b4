r"""−log N(x; m, Σ) with Σ = D + V Vᵀ, D = diag(var), and its gradient, in closed form.

By the Woodbury identity and the determinant lemma, with M = I + Vᵀ D⁻¹ V (r × r), a = M⁻¹ Vᵀ D⁻¹ e for e = x − m,

    Σ⁻¹ e = D⁻¹ (e − V a) = q,    eᵀ Σ⁻¹ e = |D^{−1/2}(e − V a)|² + |a|²,    log |Σ| = log |M| + log |D|,
    Σ⁻¹ V = D⁻¹ V M⁻¹ = W,        [Σ⁻¹]_ii = (1 − (W Vᵀ)_ii) / var_i.

A variance τ of x, integrated out, adds ½ τ tr Σ⁻¹. The gradient of the whole by Σ is S = ½ (Σ⁻¹ − q qᵀ − τ Σ⁻²), hence
by V it is 2 S V = W − q aᵀ − τ Σ⁻¹ W, by var the diagonal of S, and by m it is −q; with K = (D⁻¹ V)ᵀ W,

    Σ⁻¹ W = D⁻¹ W − W K,    [Σ⁻²]_ii = (1 − 2 (W Vᵀ)_ii) / var_i² + (W K (D⁻¹ V)ᵀ)_ii.

Four products of d × r × r in all, two where τ = 0: O(d r²). Automatic differentiation keeps and passes each of the
large intermediate arrays, and takes about twice as long (Petersen & Pedersen 2012, The Matrix Cookbook, §2.1, 3.2).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _LowRankNLL(torch.autograd.Function):
    """The gradient is found with the value, which shares all that is expensive."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, var: Tensor, low: Tensor, tau: Tensor | None) -> Tensor:
        # M spans many orders of magnitude where the variance is small, hence double precision. A failure of its
        # factor gives NaN, which the training reports with its place.
        e, precision, V = error.double(), 1 / var.double(), low.double()
        scaled = V * precision[..., None]  # D⁻¹ V
        M = (V.mT @ scaled).add_(torch.eye(V.shape[2], dtype=V.dtype, device=V.device))
        factor = torch.linalg.cholesky_ex(M).L
        W = scaled @ torch.cholesky_inverse(factor)
        a = (W.mT @ e[..., None])[..., 0]
        rest = e - (V @ a[..., None])[..., 0]
        q = precision * rest
        shared = (W * V).sum(2)  # (W Vᵀ)_ii
        spread = precision * (1 - shared)
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1) - precision.log().sum(1)
        square = (rest * q).sum(1) + (a**2).sum(1)
        value = 0.5 * (square + log_det + e.shape[1] * math.log(2 * math.pi))
        if tau is not None:
            value += 0.5 * tau * spread.sum(1)
        if any(ctx.needs_input_grad[:3]):
            by_var = 0.5 * (spread - q**2)
            by_low = torch.baddbmm(W, q[..., None], a[:, None], alpha=-1)
            if tau is not None:
                WK = W @ (scaled.mT @ W)
                twice = precision**2 * (1 - 2 * shared) + (WK * scaled).sum(2)  # [Σ⁻²]_ii
                by_var -= 0.5 * tau[:, None] * twice
                by_low += WK.sub_(precision[..., None] * W).mul_(tau[:, None, None])
            ctx.save_for_backward(q.to(error.dtype), by_var.to(var.dtype), by_low.to(low.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_error, by_var, by_low = ctx.saved_tensors
        g = gradients[0].to(by_error.dtype)
        return g[:, None] * by_error, g[:, None] * by_var, g[:, None, None] * by_low, None


def low_rank_nll(error: Tensor, var: Tensor, low: Tensor, target_var: Tensor | float = 0.0) -> Tensor:
    """The negative log-likelihood of each item, (B,), in double precision; differentiable once.

    From x − m (B, d), the diagonal of D (B, d), positive, V (B, d, r), and τ ≥ 0, a number or one for each item, with B
    elements, which gets no gradient.
    """
    tau = None
    if isinstance(target_var, Tensor) or target_var:
        tau = torch.as_tensor(target_var, dtype=torch.double, device=error.device).detach().reshape(-1)
        tau = tau.expand(len(error))
    return _LowRankNLL.apply(error, var, low, tau)  # type: ignore[no-any-return]
