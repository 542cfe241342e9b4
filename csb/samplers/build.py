"""The guided samplers of one problem by name, from checked settings."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from csb.errors import LARGEST, MOST_DRAWS, CSBError, is_number, is_one_of, require_int
from csb.networks.denoiser import Denoiser
from csb.problems import Problem
from csb.process import Grid
from csb.process.grid import MOST_STEPS
from csb.samplers.copaint import CoPaint
from csb.samplers.ddrm import DDRM
from csb.samplers.diffusion import DiffusionSampler
from csb.samplers.dps import DPS
from csb.samplers.guidance import ClassifierGuidance
from csb.samplers.ilvr import ILVR
from csb.samplers.mmps import MMPS
from csb.samplers.pigdm import PiGDM
from csb.samplers.repaint import RePaint
from csb.samplers.replacement import Replacement
from csb.samplers.resampling import RESAMPLING
from csb.samplers.sda import SDA
from csb.samplers.smc import TDS, BootstrapSMC, ParticleSampler
from csb.samplers.tmpd import TMPD
from csb.samplers.twist import Twist

GUIDED: dict[str, type[DiffusionSampler]] = {
    s.name: s
    for s in (
        TDS, BootstrapSMC, DPS, Replacement, RePaint, ILVR, CoPaint, PiGDM, DDRM, TMPD, MMPS, SDA, ClassifierGuidance
    )
}  # fmt: skip
_OWN = frozenset({"particles", "resampling", "ess_threshold"})  # arguments that settings of their own give


def arguments(name: str) -> list[str]:
    """The arguments of a method's own, as in its class, that :attr:`BaselineSettings.options` may hold."""
    parameters = inspect.signature(GUIDED[name].__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _OWN]


@dataclass(frozen=True)
class BaselineSettings:
    """The guided samplers of a comparison.

    Attributes:
        methods: names in :data:`GUIDED`.
        T: steps of their grid, on the bridge's schedule family.
        alpha_bar_end: its horizon, in (0, 1). None: one that suits the data, see
            :func:`csb.samplers.diffusion.horizon`.
        batch_size: states a network call.
        particles: of TDS, one method each; the bootstrap filter takes the last. None: 1, 4 and 16 for images, and for
            vectors one run of all samples.
        resampling, ess_threshold: see :class:`csb.samplers.smc.ParticleSampler`.
        min_std: see :class:`csb.samplers.likelihood.Likelihood`.
        sweeps: by method, the values of its ``swept`` argument, tried on ``sweep_observations`` validation
            observations × ``sweep_samples``; the best energy score is taken.
        options: by method, further arguments of its class.
    """

    methods: list[str]
    T: int
    alpha_bar_end: float | None
    batch_size: int
    particles: list[int] | None
    resampling: str
    ess_threshold: float
    min_std: float
    sweeps: dict[str, list[float]]
    options: dict[str, dict[str, Any]]
    sweep_observations: int
    sweep_samples: int

    def __post_init__(self) -> None:
        self._check_lists()
        self._check_methods()
        for name, low, high in (
            ("T", 1, MOST_STEPS), ("batch_size", 1, LARGEST), ("sweep_observations", 1, MOST_DRAWS),
            ("sweep_samples", 2, MOST_DRAWS),
        ):  # fmt: skip
            require_int(f"baselines.{name}", getattr(self, name), low, high)
        if not is_one_of(self.resampling, RESAMPLING):
            choices = ", ".join(RESAMPLING)
            raise CSBError(f"baselines.resampling={self.resampling!r} is unknown; choose one of {choices}")
        if not is_number(self.ess_threshold) or not 0 <= self.ess_threshold <= 1:
            raise CSBError(f"baselines.ess_threshold={self.ess_threshold!r} is not possible; give a number in [0, 1]")
        if self.alpha_bar_end is not None and (not is_number(self.alpha_bar_end) or not 0 < self.alpha_bar_end < 1):
            raise CSBError(
                f"baselines.alpha_bar_end={self.alpha_bar_end!r} is no horizon; give a number in (0, 1), or null"
            )
        swept = ((f"sweeps.{method}", value) for method, values in self.sweeps.items() for value in values)
        for name, value in (*swept, ("min_std", self.min_std)):
            if not is_number(value) or not 0 < value < math.inf:
                raise CSBError(f"baselines.{name} has {value!r}; give a finite number above 0")

    def _check_lists(self) -> None:
        """CSBError unless methods and particles are lists of what they must hold."""
        for name in ("methods", "particles"):
            value = getattr(self, name)
            if not isinstance(value, list) and not (name == "particles" and value is None):
                raise CSBError(f"baselines.{name}={value!r} is not a list; give [value, …]")
        for method in self.methods:
            if not is_one_of(method, GUIDED):
                raise CSBError(f"baselines.methods has {method!r}; choose among {', '.join(GUIDED)}")
        if self.particles == []:
            raise CSBError("baselines.particles is empty; give at least one number, or null")
        for count in self.particles or []:
            require_int("each of baselines.particles", count, 1, MOST_DRAWS)

    def _check_methods(self) -> None:
        """CSBError unless sweeps and options are tables of what their methods have."""
        for group in ("sweeps", "options"):
            if not isinstance(getattr(self, group), dict):
                raise CSBError(f"baselines.{group}={getattr(self, group)!r} is not a table; give {{method: …}}")
        for name in self.methods:
            if (swept := GUIDED[name].swept) and name not in self.sweeps:
                raise CSBError(f"baselines.sweeps.{name} is missing; give a list of values of {swept[0]}")
        for name, values in self.sweeps.items():
            _check_sweep(name, values)
        for name, given in self.options.items():
            _check_options(name, given)


def _check_sweep(name: str, values: Any) -> None:
    if not is_one_of(name, GUIDED) or GUIDED[name].swept is None:
        choices = ", ".join(name for name, made in GUIDED.items() if made.swept)
        raise CSBError(f"baselines.sweeps has {name!r}, which is not swept; choose among {choices}")
    if not isinstance(values, list) or not values:
        raise CSBError(f"baselines.sweeps.{name}={values!r} is not a list of values; give [value, …]")


def _check_options(name: str, given: Any) -> None:
    if not is_one_of(name, GUIDED):
        raise CSBError(f"baselines.options has {name!r}; choose among {', '.join(GUIDED)}")
    if not isinstance(given, dict):
        raise CSBError(f"baselines.options.{name}={given!r} is not a table; give {{argument: value}}")
    for key in given:
        if key not in arguments(name):
            choices = ", ".join(arguments(name)) or "none"
            raise CSBError(f"baselines.options.{name} has {key!r}; arguments of {name}: {choices}")


@dataclass(frozen=True)
class Guide:
    """What the guided samplers of one problem share."""

    problem: Problem
    denoiser: Denoiser
    likelihood: Twist
    grid: Grid
    settings: BaselineSettings
    precision: str = "32-true"

    def make(self, name: str, **options: Any) -> DiffusionSampler:
        """A sampler by name. CSBError where the problem does not admit it."""
        s = self.settings
        shared: dict[str, Any] = {"batch_size": s.batch_size, "precision": self.precision}
        if issubclass(GUIDED[name], ParticleSampler):
            shared |= {"resampling": s.resampling, "ess_threshold": s.ess_threshold}
        make: Callable[..., DiffusionSampler] = GUIDED[name]
        given = s.options.get(name, {}) | options
        return make(self.problem, self.denoiser, self.likelihood, self.grid, **shared, **given)
