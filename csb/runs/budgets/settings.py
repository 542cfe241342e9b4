"""The settings of csb compare, checked when they are set."""

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from csb.errors import MOST_DRAWS, CSBError
from csb.evaluation.budgets import Budget
from csb.evaluation.settings import MetricsSettings
from csb.problems import ClassProblem, Problem, build_problem
from csb.process import Schedule
from csb.process.grid import MOST_STEPS
from csb.runs.budgets.methods import METHODS
from csb.runs.config import schedule_of
from csb.samplers.registry import GUIDED, BaselineSettings
from csb.schema import Count, Distinct, Given, OneOf, Place, Positive, Schema, Whole

_SIZES = {True: (100, 16), False: (20, 1000)}  # observations and samples, for images and for vectors
_SECONDS = {True: (0.01, 0.1, 1.0), False: (1e-4, 1e-3)}
_C2ST = 3  # observations


_Several = Annotated[int, Field(ge=2, le=MOST_DRAWS)]


class CompareSettings(Schema):
    """See conf/compare.yaml."""

    run: Place | None = Field(description="folder of a run with some of a bridge, denoiser, score and flow")
    others: Annotated[list[Place], Distinct] = Field(description="folders of more runs on the problem")
    prior: Place | None = Field(description="folder with a denoiser of the prior; null: the run's")
    methods: Annotated[list[Annotated[str, OneOf(METHODS)]], Distinct, Field(min_length=1)] | None
    """Which are compared; null: all that can be."""
    calls: Annotated[list[Count], Distinct] = Field(description="network passes a sample")
    seconds: Annotated[list[Positive], Distinct] | None
    """A sample; null: by the kind of problem, as observations and samples are."""
    steps: int = Field(ge=1, le=MOST_STEPS, description="the most of any method")
    observations: _Several | None = Field(description="of the test split")
    samples: _Several | None = Field(description="of each observation")
    c2st_samples: int = Field(ge=0, le=MOST_DRAWS, description="of each law; 0 for none")
    schedule: dict[str, Any] | None = Field(description="as in conf/process; null: that of the run")
    seed: Whole = Field(description="of all samples")
    out: Place = Field(description="the folder of the results")

    @model_validator(mode="after")
    def _some_budget(self) -> Self:
        if not self.calls and self.seconds == []:
            raise CSBError("calls=[] and seconds=[] leave nothing to compare at; give budgets, e.g. calls=[10,100]")
        return self


@dataclass(frozen=True)
class Comparison:
    """A checked comparison.

    Attributes:
        schedule: of the guided samplers where one was given.
        baselines: of the guided samplers; T and methods are not used.
    """

    problem: Problem
    settings: CompareSettings
    baselines: BaselineSettings
    schedule: Schedule | None

    @property
    def kind(self) -> str:
        """A key of :data:`csb.evaluation.budgets.KEYS`."""
        return "exact" if self.problem.has_exact_posterior else "images" if self.problem.is_digit else "vectors"

    @property
    def observations(self) -> int:
        return self.settings.observations or _SIZES[self.problem.is_image][0]

    @property
    def samples(self) -> int:
        return self.settings.samples or _SIZES[self.problem.is_image][1]

    @property
    def methods(self) -> list[str]:
        return list(METHODS) if self.settings.methods is None else self.settings.methods

    @property
    def budgets(self) -> list[Budget]:
        """In ascending order, passes first."""
        seconds = _SECONDS[self.problem.is_image] if self.settings.seconds is None else self.settings.seconds
        passes = [Budget("passes", n) for n in sorted(self.settings.calls)]
        return passes + [Budget("seconds", float(s)) for s in sorted(seconds)]

    @property
    def metrics(self) -> MetricsSettings:
        """Of the distances to the exact posterior."""
        return MetricsSettings(c2st_samples=self.settings.c2st_samples, c2st_observations=_C2ST)


def read(given: Given) -> Comparison:
    """The checked settings. CSBError with one line for the first thing that is wrong."""
    plain = dict(given)
    if not isinstance(plain["problem"], dict):
        raise CSBError(f"problem={plain['problem']!r} is no problem; choose a file of conf/problem")
    problem, group = build_problem(plain.pop("problem")), plain.pop("baselines")
    baselines = BaselineSettings.read(group | {"methods": list(GUIDED)} if isinstance(group, dict) else group)
    if isinstance(problem, ClassProblem) and problem.is_digit:
        raise CSBError(
            f"problem={problem.name}: samples of a class are scored by csb evaluate; compare another problem"
        )
    own = CompareSettings.read(plain)
    schedule = None if own.schedule is None else schedule_of(own.schedule)
    found = Comparison(problem, own, baselines, schedule)
    for K in baselines.particles or []:
        if found.samples % K:
            raise CSBError(
                f"samples={found.samples} is no multiple of {K}, which is among baselines.particles; a run returns all "
                f"its particles"
            )
    return found
