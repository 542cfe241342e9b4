"""The settings of a suite, checked when they are set."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from csb.errors import CSBError
from csb.schema import Count, Distinct, Given, OneOf, Place, Schema, Whole
from suites.sbi.methods import METHODS
from suites.scores import ScoreSettings

_OWN = ("experiment", "problem.n_train", "T", "L", "seed", "name", "out", "stage", "resume", "overwrite", "progress")
_SOME = Field(min_length=1)


def _not_own(override: str) -> str:
    if override.lstrip("+~").partition("=")[0] in _OWN:
        raise ValueError("is set by the suite itself; use its settings, or leave it out")
    return override


class SuiteSettings(Schema):
    """What is trained and scored, and how."""

    group = "suite"

    name: str = Field(description="of the suite")
    out: Place = Field(description="the folder of all results; each job has a folder below it")
    problems: Annotated[list[str], Distinct, _SOME]
    """Experiments of conf/experiment whose problems have an exact posterior."""
    pairs: Annotated[list[Count], Distinct] = Field(min_length=1, description="numbers of training pairs")
    T: Annotated[list[Count], Distinct] = Field(min_length=1, description="numbers of steps")
    L: Count = Field(description="iterations of each training")
    iterations: Annotated[list[Count], Distinct, _SOME] | None
    """Which of them are scored, from 1 to L; null for all."""
    seeds: Annotated[list[Whole], Distinct, _SOME]
    """Of the trainings; data and test observations stay the same."""
    methods: Annotated[list[Annotated[str, OneOf(METHODS)]], Distinct, _SOME]
    """What is scored."""
    train: Annotated[list[Annotated[str, AfterValidator(_not_own)]], Distinct]
    """More overrides of every training, as on its command line."""
    jobs: Count = Field(description="side by side")
    threads: Count | None = Field(description="of each process, null for what the libraries choose")
    c2st_processes: Count = Field(description="C2STs side by side within one scoring")
    score: ScoreSettings = Field(description="how much a score takes")

    @model_validator(mode="after")
    def _within(self) -> Self:
        if bad := [i for i in self.iterations or [] if i > self.L]:
            raise CSBError(f"iteration {bad[0]} of suite.iterations is not among 1..{self.L} (suite.L); leave it out")
        return self


def read(given: Given) -> SuiteSettings:
    """The settings of the group ``suite``. CSBError with one line for the first thing that is wrong."""
    return SuiteSettings.read(given["suite"])
