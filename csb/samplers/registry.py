"""The guided samplers of one problem by name, from checked settings."""

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from csb import samplers
from csb.errors import MOST_DRAWS, CSBError
from csb.networks.diffusion import Denoiser
from csb.problems import Problem
from csb.process import Grid
from csb.process.schedule import Horizon, Steps
from csb.samplers.diffusion import DiffusionSampler
from csb.samplers.likelihood import GuidanceLikelihood
from csb.samplers.resampling import RESAMPLING
from csb.schema import Count, Kept, OneOf, Positive, Schema, Share

_METHODS = (
    samplers.TDS, samplers.BootstrapSMC, samplers.DPS, samplers.Replacement, samplers.RePaint, samplers.ILVR,
    samplers.CoPaint, samplers.PiGDM, samplers.DDRM, samplers.TMPD, samplers.MMPS, samplers.SDA,
    samplers.ClassifierGuidance,
)  # fmt: skip
GUIDED: dict[str, type[DiffusionSampler]] = {method.name: method for method in _METHODS}
_SHARED = ("batch_size", "precision", "particles", "resampling", "ess_threshold")  # given by settings of their own
SWEPT = [name for name, method in GUIDED.items() if method.swept]
Method = Annotated[str, OneOf(GUIDED)]
Draws = Annotated[int, Field(ge=1, le=MOST_DRAWS)]


class BaselineSettings(Schema):
    """The guided samplers of a comparison."""

    group = "baselines"

    methods: list[Method] = Field(description="names of guided samplers")
    T: Steps = Field(default=100, description="steps of their grid, on the bridge's schedule family")
    alpha_bar_end: Horizon | None = None
    """Its horizon; null: one that suits the data, see csb.samplers.diffusion.horizon."""
    batch_size: Count = Field(default=256, description="states a network call")
    particles: Annotated[list[Draws], Field(min_length=1)] | None = None
    """Of TDS, one method each; the bootstrap filter takes the last. null: 1, 4 and 16 for images, and for vectors one
    run of all samples."""
    resampling: Annotated[str, OneOf(RESAMPLING)] = Field(default="systematic", description="of the particle samplers")
    ess_threshold: Share = 0.5
    """Share of the particles below which the effective sample size makes them resample."""
    min_std: Positive = 1.0
    """Stands for the noise of noise-free observations, in units of their spread."""
    sweeps: dict[Annotated[str, OneOf(SWEPT)], Annotated[list[Annotated[Positive, Kept]], Field(min_length=1)]]
    """By method, the values of the argument that is swept, of which the best energy score is taken."""
    options: dict[Method, dict[str, Any]] = Field(default={}, description="by method, further arguments of its class")
    sweep_observations: Draws = Field(default=20, description="validation observations of a sweep")
    sweep_samples: int = Field(default=8, ge=2, le=MOST_DRAWS, description="samples of each")

    @model_validator(mode="after")
    def _of_methods(self) -> Self:
        faults = [
            f"baselines.sweeps.{name} is missing; give a list of values of {swept[0]}"
            for name in self.methods
            if (swept := GUIDED[name].swept) and name not in self.sweeps
        ]
        for name, given in self.options.items():
            own = {key: value for key, value in given.items() if key not in _SHARED}
            shared = sorted(set(given) - set(own))
            faults += [f"baselines.options.{name}.{key} is for all methods; leave it out there" for key in shared]
            GUIDED[name].Settings.read(own, f"baselines.options.{name}")
        if faults:
            raise CSBError(faults[0])
        return self


@dataclass(frozen=True)
class Guide:
    """What the guided samplers of one problem share."""

    problem: Problem
    denoiser: Denoiser
    likelihood: GuidanceLikelihood
    grid: Grid
    settings: BaselineSettings
    precision: str = "32-true"

    def make(self, name: str, **options: Any) -> DiffusionSampler:
        """A sampler by name. CSBError where the problem does not admit it."""
        s = self.settings
        shared: dict[str, Any] = {"batch_size": s.batch_size, "precision": self.precision}
        if issubclass(GUIDED[name], samplers.ParticleSampler):
            shared |= {"resampling": s.resampling, "ess_threshold": s.ess_threshold}
        given = shared | s.options.get(name, {}) | options
        return GUIDED[name](self.denoiser, self.likelihood, self.grid, **given)
