"""Objectives by name: how the kernels of a half-step are fitted."""

from csb.bridge.objectives.base import Objective, Target
from csb.bridge.objectives.bridge_matching import BridgeMatching, bridged
from csb.bridge.objectives.likelihood import Likelihood
from csb.bridge.objectives.mean_matching import MeanMatching

OBJECTIVES: dict[str, type[Objective]] = {o.name: o for o in (Likelihood, MeanMatching, BridgeMatching)}


def build_objective(name: str) -> Objective:
    """The objective of a name."""
    return OBJECTIVES[name]()
