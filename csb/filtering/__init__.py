"""Sequential filtering: state-space models, filters behind one protocol, and the cycles that score them."""

from typing import Any

from csb.filtering.base import Analysis, Filter
from csb.filtering.bootstrap import Bootstrap
from csb.filtering.bridge import BridgeFilter
from csb.filtering.cycle import Track, track
from csb.filtering.enkf import EnKF
from csb.filtering.ensf import EnSF
from csb.filtering.linear_gaussian import Gaussian, LinearGaussianModel
from csb.filtering.lorenz63 import Lorenz63
from csb.filtering.lorenz96 import Lorenz96
from csb.filtering.model import StateSpace, Twin, twin

MODELS: dict[str, type[StateSpace]] = {"lorenz63": Lorenz63, "lorenz96": Lorenz96}
FILTERS: dict[str, Any] = {"bridge": BridgeFilter, "enkf": EnKF, "bootstrap": Bootstrap, "ensf": EnSF}
