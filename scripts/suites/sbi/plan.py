"""The jobs of a suite. Each is known by everything that its training depends on; that is also in its folder's name."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import csb
from csb.cli import compose as cli
from csb.errors import CSBError
from csb.files import digest, model_file, read_json
from csb.runs.config import RunConfig, read
from suites.sbi.methods import METHODS, Trainable
from suites.sbi.settings import SuiteSettings


@dataclass(frozen=True)
class Job:
    """One training, or none, and the scores of all samplers that it gives.

    Attributes:
        name: for people.
        folder: of the training and the scores.
        method: a name of METHODS.
        overrides: of train.py, without the folder.
        task: plain data that the scores depend on; they are kept with it.
    """

    name: str
    folder: Path
    method: str
    overrides: tuple[str, ...] = field(repr=False)
    task: dict[str, Any] = field(repr=False)

    @property
    def is_trained(self) -> bool:
        """Whether there is nothing to train, any more or at all."""
        done = METHODS[self.method].done
        return not done or (self.folder / done).exists() or model_file(self.folder, done).exists()

    def rows(self) -> list[dict[str, Any]] | None:
        """The job's results under exactly these settings; None where there are none."""
        try:
            found = read_json(self.folder / "job.json")
        except CSBError:
            return None
        if not isinstance(rows := found.pop("rows", None), list):
            return None
        return rows if found == json.loads(json.dumps(self.task)) else None


@cache
def training_config(overrides: tuple[str, ...]) -> RunConfig:
    """The checked configuration of train.py with these overrides. CSBError where it is wrong.

    Kept, for Hydra composes no other configuration while a command runs: what is checked before is known then.
    """
    return read(cli.composed("train", overrides))


def _identity(run: RunConfig, method: Trainable) -> dict[str, Any]:
    """Everything that a training depends on."""
    return run.fingerprint() | {group: run.plain[group] for group in method.groups}


def _job(settings: SuiteSettings, name: str, problem: str, pairs: int | None, T: int | None, seed: int | None) -> Job:
    """The job of a method on a problem; None for what has no meaning for it."""
    method = METHODS[name]
    own = {"problem.n_train": pairs, "T": T, "L": None if method.trains == "never" else settings.L, "seed": seed}
    given = [f"{key}={value}" for key, value in own.items() if value is not None]
    overrides = (f"experiment={problem}", *settings.train, *given, *method.overrides)
    run = training_config(overrides)
    if not run.problem.has_exact_posterior:
        raise CSBError(f"{problem} has no exact posterior to score against; leave it out of suite.problems")
    steps = {"each T": [T], "once": settings.T, "never": [0]}[method.trains]
    training = _identity(run, method) if method.done else run.problem.spec()
    task = {
        "method": name, "problem": problem, "spec": run.problem.spec(), "pairs": pairs, "T": steps, "seed": seed,
        "iterations": settings.iterations if method.trains == "each T" else None,
        "training": digest(training), "score": vars(settings.score), "csb": csb.__version__,
    }  # fmt: skip
    parts = {"n": pairs, "T": T, "s": seed}
    short = "_".join([name, *(f"{key}{value}" for key, value in parts.items() if value is not None)])
    reported = {"pairs": pairs, "T": T, "seed": seed}
    text = ", ".join([name, problem, *(f"{key} = {value}" for key, value in reported.items() if value is not None)])
    return Job(text, Path(settings.out) / problem / f"{short}-{task['training'][:10]}", name, overrides, task)


def plan(settings: SuiteSettings) -> list[Job]:
    """All jobs, problem by problem. CSBError for the first whose training's configuration is wrong."""
    jobs = []
    for problem in settings.problems:
        for name in settings.methods:
            trains = METHODS[name].trains
            pairs = settings.pairs if trains != "never" else [None]
            T = settings.T if trains == "each T" else [None]
            seeds = settings.seeds if trains != "never" else [None]
            jobs += [_job(settings, name, problem, n, t, seed) for n in pairs for t in T for seed in seeds]
    return jobs
