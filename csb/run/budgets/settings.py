"""The settings of csb compare, checked when they are set."""

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.errors import LARGEST, MOST_DRAWS, CSBError, is_number, require_int, require_place
from csb.evaluation.budgets import Budget
from csb.evaluation.settings import MetricsSettings
from csb.problems import ClassProblem, Problem, build_problem
from csb.process import Schedule
from csb.process.grid import MOST_STEPS
from csb.run.budgets.methods import METHODS
from csb.run.config import schedule_of, settings
from csb.samplers.build import GUIDED, BaselineSettings

_SIZES = {True: (100, 16), False: (20, 1000)}  # observations and samples, for images and for vectors
_SECONDS = {True: (0.01, 0.1, 1.0), False: (1e-4, 1e-3)}
_C2ST = 3  # observations


@dataclass(frozen=True)
class CompareSettings:
    """See conf/compare.yaml.

    Attributes:
        run, others, prior, out: folders.
        methods: of METHODS; None for all.
        calls: network passes a sample, ≥ 1 each.
        seconds: a sample, > 0 each; None: by the kind of problem, as ``observations`` and ``samples`` are.
        steps: the most of any method.
        observations: at least 2, of the test split.
        samples: at least 2 of each.
        c2st_samples: of each law; 0 for none.
        schedule: as in conf/process; None: that of the run.
        seed: of all samples.
    """

    run: str | None
    others: list[str]
    prior: str | None
    methods: list[str] | None
    calls: list[int]
    seconds: list[float] | None
    steps: int
    observations: int | None
    samples: int | None
    c2st_samples: int
    schedule: dict[str, Any] | None
    seed: int
    out: str

    def __post_init__(self) -> None:
        for name in ("run", "prior", "out"):
            if getattr(self, name) is not None or name == "out":
                require_place(name, getattr(self, name))
        _require_list("others", self.others, lambda v: isinstance(v, str), "folders", empty=True)
        _require_list("calls", self.calls, _is_count, "integers of at least 1", empty=True)
        if self.seconds is not None:
            _require_list("seconds", self.seconds, _is_positive, "positive numbers", empty=True)
        if not self.calls and self.seconds == []:
            raise CSBError("calls=[] and seconds=[] leave nothing to compare at; give budgets, e.g. calls=[10,100]")
        self._check_numbers()
        if self.methods is not None:
            _require_list("methods", self.methods, lambda v: isinstance(v, str), "names")
            if unknown := [name for name in self.methods if name not in METHODS]:
                raise CSBError(f"method {unknown[0]!r} is unknown; choose among {', '.join(METHODS)}")
        if self.schedule is not None and not isinstance(self.schedule, dict):
            raise CSBError(f"schedule={self.schedule!r} is none; give {{schedule: …}} as in conf/process, or null")

    def _check_numbers(self) -> None:
        for name, low, high in (("steps", 1, MOST_STEPS), ("c2st_samples", 0, MOST_DRAWS), ("seed", 0, LARGEST)):
            require_int(name, getattr(self, name), low, high)
        for name in ("observations", "samples"):
            if getattr(self, name) is not None:
                require_int(name, getattr(self, name), 2, MOST_DRAWS)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def _require_list(name: str, values: Any, fits: Any, what: str, empty: bool = False) -> None:
    """CSBError unless values is a list of what fits, without repetition, and not empty unless it may be."""
    if not isinstance(values, list) or not all(map(fits, values)) or (not values and not empty):
        raise CSBError(f"{name}={values!r} is not possible; give a list of {what}, {name}=[…]")
    if len(set(map(repr, values))) < len(values):
        raise CSBError(f"{name}={values!r} repeats an entry; give each once")


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


def read(config: DictConfig) -> Comparison:
    """The checked settings. CSBError with one line for the first thing that is wrong."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain["problem"], dict):
        raise CSBError(f"problem={plain['problem']!r} is no problem; choose a file of conf/problem")
    problem, group = build_problem(plain.pop("problem")), plain.pop("baselines")
    if not isinstance(group, dict):
        raise CSBError(f"baselines={group!r} is not a group of settings; choose a file of conf/baselines")
    if isinstance(problem, ClassProblem) and problem.is_digit:
        raise CSBError(
            f"problem={problem.name}: samples of a class are scored by csb evaluate; compare another problem"
        )
    own = settings(CompareSettings, "compare", plain)
    baselines = settings(BaselineSettings, "baselines", group | {"methods": list(GUIDED)})
    schedule = None if own.schedule is None else schedule_of(own.schedule)
    found = Comparison(problem, own, baselines, schedule)
    for K in baselines.particles or []:
        if found.samples % K:
            raise CSBError(
                f"samples={found.samples} is no multiple of {K}, which is among baselines.particles; a run returns all "
                f"its particles"
            )
    return found
