"""Objectives by name: how the kernels of a half-step are fitted."""

from csb.bridge.objectives.base import Objective, Target
from csb.bridge.objectives.bridge_matching import BridgeMatching, bridged
from csb.bridge.objectives.likelihood import Likelihood
from csb.bridge.objectives.mean_matching import MeanMatching
from csb.errors import CSBError, is_one_of

OBJECTIVES: dict[str, type[Objective]] = {o.name: o for o in (Likelihood, MeanMatching, BridgeMatching)}


def build_objective(name: str) -> Objective:
    """The objective of a name. Raises CSBError for an unknown one."""
    if not is_one_of(name, OBJECTIVES):
        raise CSBError(f"objective {name!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]()


__all__ = [
    "OBJECTIVES",
    "BridgeMatching",
    "Likelihood",
    "MeanMatching",
    "Objective",
    "Target",
    "bridged",
    "build_objective",
]
