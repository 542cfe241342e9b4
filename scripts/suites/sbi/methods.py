"""The methods of a suite: what is trained, and which samplers a training gives.

A new method is a function of (folder, T, problem) and an entry in :data:`METHODS`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from csb.files import model_file
from csb.problems import Problem
from csb.runs.evaluate import iterations
from csb.runs.load import load_run
from csb.runs.stages import load_stage
from csb.samplers import BridgeSampler, ExactSampler, Sampler, flow_sampler, score_sampler


class Candidate(NamedTuple):
    """One sampler to score.

    Attributes:
        label: of the method in tables, without T and L.
        sampler: made for the problem.
        source: the file whose content its samples depend on; None for none.
        train_seconds: what its training took; None where that is not known.
        L: iterations of IPF behind it; None where that has no meaning.
    """

    label: str
    sampler: Sampler
    source: Path | None = None
    train_seconds: float | None = None
    L: int | None = None


@dataclass(frozen=True)
class Trainable:
    """How a method is trained and sampled.

    Attributes:
        candidates: (folder of the training, T, problem) → samplers of T network calls; T is 0 for what is not trained.
        trains: "each T": a training for every T; "once": one for all of them; "never".
        done: the file of the folder that a finished training leaves last, of a model without its suffix.
        overrides: of train.py, e.g. ("stage=score",).
        groups: of conf/, beside those that every training depends on, whose settings belong to its training.
    """

    candidates: Callable[[Path, int, Problem], list[Candidate]]
    trains: Literal["each T", "once", "never"]
    done: str = ""
    overrides: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def _exact(folder: Path, T: int, problem: Problem) -> list[Candidate]:
    """The exact posterior against itself: the floor of every distance."""
    return [Candidate("exact", ExactSampler(problem))]


def _bridge(folder: Path, T: int, problem: Problem) -> list[Candidate]:
    """The bridge after each iteration of one training, whose time is that until the end of the iteration."""
    run = load_run(folder)
    seconds = {row["half_step"]: row.get("seconds") for row in run.history}
    names = [name for name, _ in run.half_steps if re.fullmatch(r"\d+_backward", name)]
    return [
        Candidate("bridge", BridgeSampler(bridge), model_file(folder, f"half_steps/{name}"), seconds.get(name), L)
        for name, (L, bridge) in zip(names, iterations(run))
    ]


def _score(folder: Path, T: int, problem: Problem) -> list[Candidate]:
    """The conditional score on T steps of a network call each: DDPM's, and DPM-Solver++ on the grid of Karras et al."""
    model = load_stage(folder, "score")
    about = model_file(folder, "score"), model.about["seconds"]
    return [
        Candidate("score, DDPM", score_sampler(model, "ddpm", T), *about),
        Candidate("score, DPM-Solver++", score_sampler(model, "dpmpp", T, spacing="karras"), *about),
    ]


def _flow(folder: Path, T: int, problem: Problem) -> list[Candidate]:
    """The flow at T network calls: Euler's rule on T steps, and Heun's on half as many where T is even."""
    model = load_stage(folder, "flow")
    about = model_file(folder, "flow"), model.about["seconds"]
    found = [Candidate("flow, Euler", flow_sampler(model, "euler", T), *about)]
    return found if T % 2 else [*found, Candidate("flow, Heun", flow_sampler(model, "heun", T // 2), *about)]


METHODS: dict[str, Trainable] = {
    "exact": Trainable(_exact, "never"),
    "bridge": Trainable(_bridge, "each T", done="result.json", overrides=("stage=bridge",)),
    "score": Trainable(_score, "once", done="score", overrides=("stage=score",), groups=("conditional",)),
    "flow": Trainable(_flow, "once", done="flow", overrides=("stage=flow",), groups=("conditional",)),
}
