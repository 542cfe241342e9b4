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
    """What is compared, and at which cost."""

    run: Place | None = None
    """The folder of a run on this problem: its bridge, score, flow and denoiser, whichever are there."""
    others: Annotated[list[Place], Distinct] = []
    """Folders of more runs on it, e.g. of a bridge at another T."""
    prior: Place | None = None
    """A folder whose denoiser guides, e.g. of a run on other observations of the same digits; null: that of run."""
    methods: Annotated[list[Annotated[str, OneOf(METHODS)]], Distinct, Field(min_length=1)] | None = None
    """Which are compared; null: all that the problem and the runs admit."""
    calls: Annotated[list[Count], Distinct] = [10, 100]
    """Budgets of network passes a sample, forward and backward alike; a table each."""
    seconds: Annotated[list[Positive], Distinct] | None = None
    """Budgets of seconds a sample, on this machine; a table each; null: 0.01, 0.1 and 1 for images, 0.0001 and 0.001
    for vectors."""
    steps: int = Field(default=1000, ge=1, le=MOST_STEPS, description="the most of any method")
    observations: _Several | None = Field(default=None, description="of the test split; null: 100 images, 20 vectors")
    samples: _Several | None = Field(default=None, description="of each; null: 16 images, 1000 vectors")
    c2st_samples: Annotated[int, Field(ge=0, le=MOST_DRAWS)] = 0
    """Of each law, for C2ST to the exact posterior, on the first three observations; 0 leaves it out."""
    schedule: dict[str, Any] | None = None
    """Of the guided samplers, e.g. {name: cosine, alpha_bar_end: 1e-3, offset: 0.008}; null: that of run, else
    linear."""
    seed: Whole = Field(default=0, description="of all samples")
    out: Place = "outputs/compare/${problem.name}"
    """The folder of compare.json, compare.md and compare.png."""

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
