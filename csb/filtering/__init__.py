"""Sequential filtering: state-space models, filters behind one protocol, and the cycles that score them."""

from typing import Any

from csb.filtering.bridge import BridgeFilter
from csb.filtering.cycle import Track, Twin, track, twin
from csb.filtering.ensf import EnSF
from csb.filtering.filters import Analysis, Bootstrap, EnKF, Filter
from csb.filtering.models import Lorenz63, Lorenz96, StateSpace

MODELS: dict[str, type[StateSpace]] = {"lorenz63": Lorenz63, "lorenz96": Lorenz96}
FILTERS: dict[str, Any] = {"bridge": BridgeFilter, "enkf": EnKF, "bootstrap": Bootstrap, "ensf": EnSF}
