"""What a prior's support says: whether the prior has a density, and the bounds of each coordinate.

A bridge's samples fill a volume. Where the prior's support has none (a simplex, whole numbers), no sample ever lies in
it: drawing again never ends, and the posterior has no density either.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from csb.errors import CSBError

Side = list[float | None]
_UNBOUNDED = (type(constraints.real), type(constraints.real_vector))
_FEWEST, _MOST_DIM = 1000, 2000  # draws that are looked at; coordinates up to which their span is
_WHOLE = "add uniform noise from [0, 1) in the prior and round down in the simulator"
_SIMPLEX = "draw its stick-breaking fractions, which are free, in the prior and compute the rest in the simulator"


def support_of(prior: Any) -> constraints.Constraint | None:
    """The support of a prior, or None where it is not known."""
    try:
        return prior.support  # a property that torch leaves unimplemented where it is not known
    except (NotImplementedError, AttributeError):
        return None


def draws_needed(dim: int) -> int:
    """How many draws of d coordinates :func:`require_volume` takes."""
    return max(_FEWEST, 4 * dim)


def require_volume(prior: Any, draws: Tensor | None = None) -> None:
    """CSBError, with what to do, for a prior whose draws lie in a set without volume.

    Args:
        prior: a torch distribution, such as ``sbi.utils.process_prior`` returns. Its support tells, where it is known.
        draws: (N, d) of it, N as :func:`draws_needed`: what a wrapper of the prior hides shows in them, but for a
            curved surface.
    """
    found = None if draws is None else _of_columns(draws)
    if found is None and (support := support_of(prior)) is not None:
        found = _of_support(support)
    if found is None and draws is not None:
        found = _of_span(draws)
    if found is not None:
        raise CSBError(f"the prior {_name(prior)} has no density: {found}")


def _name(prior: Any) -> str:
    """Of its class, out of sbi's wrappers."""
    inner = getattr(prior, "prior", None) or getattr(prior, "custom_prior", None)
    return type(prior).__name__ if inner is None else _name(inner)


def _of_support(support: constraints.Constraint) -> str | None:
    """What is wrong with a support, and the remedy; None where nothing is known to be."""
    inner = getattr(support, "base_constraint", None)
    for part in getattr(support, "cseq", [] if inner is None else [inner]):
        if (found := _of_support(part)) is not None:
            return found
    if isinstance(support, type(constraints.simplex)):
        return f"draws lie on a simplex; {_SIMPLEX}"
    return f"draws are whole numbers; {_WHOLE}" if support.is_discrete else None


def _of_columns(draws: Tensor) -> str | None:
    """The same for coordinates that are constant, whole numbers or one of a few values in all draws (N, d)."""
    for column, values in enumerate(draws.double().T):
        if bool((values == values[0]).all()):
            return f"coordinate {column} of its draws is always {float(values[0]):g}; leave it to the simulator"
        size = values.abs()
        whole = bool((values == values.round()).all()) and float(size.median()) < 2**22  # floats above 2^23 are whole
        if whole:
            return f"coordinate {column} of its draws takes whole numbers only; {_WHOLE}"
        spacing = torch.finfo(torch.float32).eps * float(size.max())
        if len(values.unique()) <= len(values) // 20 and spacing <= 1e-3 * float(values.std()):
            return f"coordinate {column} of its draws takes a few values only; number them, then {_WHOLE}"
    return None


def _of_span(draws: Tensor) -> str | None:
    """The same for draws (N, d) that span fewer than d dimensions, to the digits of float32."""
    values = draws.double()
    std, (n, d) = values.std(0), values.shape
    if d > _MOST_DIM or not bool(torch.isfinite(values).all()):
        return None
    rounding = torch.finfo(torch.float32).eps * float((values.abs().amax(0) / std).max())
    spread = torch.linalg.svdvals((values - values.mean(0)) / std) / n**0.5
    free = int((spread > 4 * d**0.5 * rounding).sum())
    if free == d:
        return None
    rest = "compute the others in the simulator"
    return f"its draws span {free} of {d} dimensions; give it {free} free coordinates and {rest}"


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
