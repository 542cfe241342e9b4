"""The box of a prior: the bounds that its support sets on each coordinate of theta."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from csb.errors import CSBError
from csb.runs.volume import support_of

Side = list[float | None]
_UNBOUNDED = (type(constraints.real), type(constraints.real_vector))


def _limits(constraint: constraints.Constraint, dim: int) -> tuple[Tensor, Tensor] | None:
    """The lower and upper bounds, (dim,) each, ±∞ where there is none; None for a support that is no box."""
    if isinstance(constraint, constraints.independent):
        return _limits(constraint.base_constraint, dim)
    if isinstance(constraint, constraints.cat):
        parts = [_limits(part, size) for part, size in zip(constraint.cseq, constraint.lengths)]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return None
        return torch.cat([low for low, _ in whole]), torch.cat([high for _, high in whole])
    if constraint.is_discrete:
        return None
    low, high = (getattr(constraint, f"{side}_bound", None) for side in ("lower", "upper"))
    if low is None and high is None and not isinstance(constraint, _UNBOUNDED):
        return None
    none = (-torch.inf, torch.inf)
    sides = [
        torch.as_tensor(unbounded if v is None else v, dtype=torch.float64) for v, unbounded in zip((low, high), none)
    ]
    low, high = (side.detach().cpu().reshape(-1).expand(dim) for side in sides)
    return low, high


def prior_bounds(prior: Distribution, dim: int) -> tuple[Side, Side] | None:
    """What ``problem.low`` and ``problem.high`` of experiment=pairs are for a prior, or None where it has no bounds.

    Args:
        prior: a torch distribution, such as ``sbi.utils.process_prior`` returns: BoxUniform, Uniform, LogNormal, …, or
            several of them as independent coordinates.
        dim: the number of coordinates of theta.

    Raises:
        CSBError: a support that is neither a box nor all of ℝᵈ (a simplex, whole numbers), or is not known.
    """
    support = support_of(prior)
    limits = None if support is None else _limits(support, dim)
    if limits is None:
        raise CSBError(
            f"the support of the prior {type(prior).__name__} is no box; give bounds=(low, high), one number or None "
            f"for each coordinate, or bounds=None"
        )
    low, high = ([v if abs(v) < torch.inf else None for v in side.tolist()] for side in limits)
    return None if all(v is None for v in low + high) else (low, high)
