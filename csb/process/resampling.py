r"""Resampling schemes as plain functions, and the effective sample size.

Each takes log-weights (G, K) of G independent groups of K particles, unnormalised, and uniform numbers u, and returns
ancestors (G, K), int64: E[number of copies of particle i] = K·W_i, W the normalised weights. (Douc & Cappé 2005;
Chopin & Papaspiliopoulos 2020, ch. 9.) Groups do not touch each other.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from csb.errors import CSBError


def normalised(log_weights: Tensor) -> Tensor:
    """Weights W (G, K) of sum 1, float64. CSBError where a group has no weight at all, or NaN."""
    log_weights = log_weights.double()
    top = log_weights.max(dim=1, keepdim=True).values
    if not bool(torch.isfinite(top).all()) or bool(torch.isnan(log_weights).any()):
        raise CSBError(
            "all weights of a group of particles are 0 or one is NaN: the proposals have left the likelihood's support;"
            " use more steps, a larger min_std, or another denoiser"
        )
    return log_weights.softmax(dim=1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """1/Σ W_i², (G,), in [1, K] (Kong 1992)."""
    return 1 / normalised(log_weights).square().sum(1)


def invert(weights: Tensor, points: Tensor) -> Tensor:
    """The particle whose share of the cumulative weights (G, K) holds each point (G, n) in [0, 1), in any order."""
    cumulative = weights.cumsum(1)
    inside = points.clamp_max(1 - 2**-53)  # (K − 1 + u)/K may round to 1, beyond the last particle that has a weight
    return torch.searchsorted(cumulative, inside * cumulative[:, -1:], right=True)


def multinomial(log_weights: Tensor, u: Tensor) -> Tensor:
    """K independent draws; u (G, K)."""
    return invert(normalised(log_weights), u)


def stratified(log_weights: Tensor, u: Tensor) -> Tensor:
    """One point in each of K equal strata; u (G, K)."""
    K = log_weights.shape[1]
    return invert(normalised(log_weights), (torch.arange(K, device=u.device) + u) / K)


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """The same point in each of K equal strata; u (G, K), of which the first column counts."""
    return stratified(log_weights, u[:, :1].expand_as(u))


def residual(log_weights: Tensor, u: Tensor) -> Tensor:
    """⌊K W_i⌋ copies of each particle, the rest multinomial on what is left over; u (G, K)."""
    W = normalised(log_weights)
    K = W.shape[1]
    copies = (K * W + 1e-9).floor().long()  # 1e-9: K·(1/K) must not be floored to 0
    order = torch.arange(K, device=W.device)
    result = []
    for weight, count, points in zip(W, copies, u):
        kept = order.repeat_interleave(count)[:K]
        left = (K * weight - count).clamp_min(0)
        rest = invert(left[None], points[None, : K - len(kept)])[0] if len(kept) < K else kept[:0]
        result.append(torch.cat([kept, rest]))
    return torch.stack(result)


RESAMPLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    scheme.__name__: scheme for scheme in (systematic, stratified, multinomial, residual)
}
