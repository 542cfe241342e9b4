"""The settings of a suite, checked when they are set."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.errors import CSBError, require_int, require_place
from csb.evaluation.suite import ScoreSettings
from csb.run.config import settings
from csb.run.suite.methods import METHODS

_OWN = ("experiment", "problem.n_train", "T", "L", "seed", "name", "out", "stage", "resume", "overwrite", "progress")


@dataclass(frozen=True)
class SuiteSettings:
    """What is trained and scored, and how.

    Attributes:
        name: of the suite.
        out: the folder of all results; each job has a folder below it.
        problems: experiments of conf/experiment whose problems have an exact posterior.
        pairs: numbers of training pairs.
        T: numbers of steps.
        L: iterations of each training.
        iterations: which of them are scored, from 1 to L; None for all.
        seeds: of the trainings; data and test observations stay the same.
        methods: of METHODS.
        train: more overrides of every training, as on the command line of train.py.
        jobs: side by side.
        threads: of each process, None for what the libraries choose.
        c2st_processes: C2STs side by side within one scoring.
        score: how much a score takes.
    """

    name: str
    out: str
    problems: list[str]
    pairs: list[int]
    T: list[int]
    L: int
    iterations: list[int] | None
    seeds: list[int]
    methods: list[str]
    train: list[str]
    jobs: int
    threads: int | None
    c2st_processes: int
    score: ScoreSettings

    def __post_init__(self) -> None:
        require_place("suite.out", self.out)
        for name in ("problems", "methods", "train"):
            _require_list(f"suite.{name}", getattr(self, name), str, "texts", empty=name == "train")
        for name, low in (("pairs", 1), ("T", 1), ("seeds", 0)):
            _require_list(f"suite.{name}", getattr(self, name), int, "integers")
            require_int(f"the smallest of suite.{name}, {name}", min(getattr(self, name)), low)
            require_int(f"the largest of suite.{name}, {name}", max(getattr(self, name)), low)
        for name in ("L", "jobs", "c2st_processes"):
            require_int(f"suite.{name}", getattr(self, name), 1)
        if self.iterations is not None:
            _require_list("suite.iterations", self.iterations, int, "integers")
            if bad := [i for i in self.iterations if not 1 <= i <= self.L]:
                raise CSBError(
                    f"iteration {bad[0]} of suite.iterations is not among 1..{self.L} (suite.L); leave it out"
                )
        if self.threads is not None:
            require_int("suite.threads", self.threads, 1)
        self._check_names()

    def _check_names(self) -> None:
        """CSBError for a method that is unknown, or an override that would undo the suite's own."""
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise CSBError(f"method {unknown[0]!r} of suite.methods is unknown; choose among {', '.join(METHODS)}")
        if own := [one for one in self.train if one.lstrip("+~").partition("=")[0] in _OWN]:
            raise CSBError(f"{own[0]!r} of suite.train is set by the suite itself; use its settings, or leave it out")


def _require_list(name: str, values: Any, kind: type, what: str, empty: bool = False) -> None:
    """CSBError unless values is a list of that type, without repetition, and not empty unless it may be."""
    fits = isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
    if not fits or (not values and not empty):
        raise CSBError(f"{name}={values!r} is not possible; give a list of {what}, {name}=[…]")
    if len(set(values)) < len(values):
        raise CSBError(f"{name}={values!r} repeats an entry; give each once")


def read(config: DictConfig) -> SuiteSettings:
    """The settings of the group ``suite``. CSBError with one line for the first thing that is wrong."""
    plain: Any = OmegaConf.to_container(config.suite, resolve=True)
    score = plain.pop("score", None)
    if not isinstance(score, dict):
        raise CSBError(f"suite.score={score!r} is not a group of settings; see conf/suite")
    return settings(SuiteSettings, "suite", plain | {"score": settings(ScoreSettings, "suite.score", score)})
