"""The methods of a comparison by name; each gives contenders, which can be made at any number of steps.

A new method is a function of (:class:`Field`, name) and an entry in :data:`METHODS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from csb.errors import CSBError
from csb.files import checksum, model_file
from csb.networks.diffusion import FlowNetwork, ScoreNetwork
from csb.runs.budgets.field import Field
from csb.runs.distil import students_of
from csb.runs.guided import Chosen, particle_counts, sweep
from csb.runs.load import Run
from csb.samplers import (
    FLOW,
    SCORE,
    BridgeSampler,
    DiffusionSampler,
    ExactSampler,
    ParticleSampler,
    Sampler,
    flow_sampler,
    score_sampler,
)
from csb.samplers.registry import GUIDED

_PROBE = 10  # steps that a guided sampler is tried with, to see whether the problem admits it
_SPACED = {"heun": "karras", "dpmpp": "karras"}  # grids of the samplers of higher order; the others: the schedule's


@dataclass(frozen=True, eq=False)
class Contender:
    """One line of a comparison.

    Attributes:
        name: unique, the same at every number of steps.
        label: what the reader sees.
        make: (T, **options) → the sampler.
        passes: T → network passes, forward and backward, for one sample; never less for more steps.
        about: plain data that the samples depend on, beside T and options.
        steps: the numbers of steps that it has, ascending; None: all.
        sweep: (T, seed) → the options that validation observations choose; None: nothing is swept.
        trial: options for timing, where something is swept.
        values: swept, for the store.
        reference: the exact posterior.
    """

    name: str
    label: str
    make: Callable[..., Sampler]
    passes: Callable[[int], int]
    about: Mapping[str, Any]
    steps: tuple[int, ...] | None = None
    sweep: Callable[[int, int], Chosen] | None = None
    trial: dict[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    reference: bool = False


def _named(name: str, label: str, folders: list[Path]) -> list[tuple[str, str]]:
    """Ids and labels of one method of several runs; the runs are reported apart where there are two or more."""
    if len(folders) == 1:
        return [(name, label)]
    return [(f"{name}_{i}", f"{label} ({folder.name})") for i, folder in enumerate(folders, start=1)]


def _bridge(of: Field, name: str) -> list[Contender]:
    """The bridges of the runs at their own T, or with fewer steps where their kernels admit it."""
    if not of.runs:
        raise CSBError("no run= or others= has a bridge")
    names = _named(name, "bridge", [run.folder for run in of.runs])
    return [_of_run(run, own, label) for run, (own, label) in zip(of.runs, names)]


def _of_run(run: Run, name: str, label: str) -> Contender:
    T = run.bridge.grid.T
    try:
        run.bridge.timesteps(0, 1)
        steps = tuple(range(1, T + 1))
    except CSBError:  # these kernels take all steps or none
        steps = (T,)

    def make(S: int) -> Sampler:
        return BridgeSampler(run.bridge, sample_steps=S if S < T else None)

    about = {"method": "bridge", "source": checksum(model_file(run.folder, "bridge"))}
    return Contender(name, f"{label}, T = {T}", make, lambda S: S, about, steps)


def _amortized(of: Field, name: str) -> list[Contender]:
    """A sampler of the conditional scores or flows of the runs."""
    kind, method = name.split("_", 1)
    found = of.models(kind)
    if not found:
        raise CSBError(f"no run= or others= has a {kind} (csb train … stage={kind})")
    labels = _named(name, f"{kind}, {_WORDS[method]}", [path.parent for path, _ in found])
    contenders = []
    for (path, base), (own, label) in zip(found, labels):
        if kind == "score":
            spacing = _SPACED.get(method, "schedule")
            make: Any = partial(score_sampler, cast(ScoreNetwork, base.model), method, spacing=spacing)
        else:
            make = partial(_flow, cast(FlowNetwork, base.model), method)
        about = {"method": name, "source": checksum(path)}
        contenders.append(Contender(own, label, _at(make), cache(lambda T, make=make: make(T=T).evaluations), about))
    return contenders


def _flow(model: FlowNetwork, method: str, T: int) -> Sampler:
    return flow_sampler(model, method, T)


def _at(make: Callable[..., Sampler]) -> Callable[[int], Sampler]:
    return lambda T: make(T=T)


_WORDS = {
    "ddpm": "DDPM",
    "sde": "reverse SDE",
    "ddim": "DDIM",
    "heun": "Heun",
    "dpmpp": "DPM-Solver++",
    "euler": "Euler",
}


def _guided(of: Field, name: str) -> list[Contender]:
    """A guided sampler; particle filters at each number of particles."""
    made = GUIDED[name]
    of.guide.make(name)  # the problem may not admit it
    if not issubclass(made, ParticleSampler):
        return [_contender(of, name, name, made.label, {})]
    found = []
    for K in particle_counts(of.baselines, of.problem, made.guided):
        suffix, label = ("", "") if K is None else (f"_{K}", f", K = {K}")
        found.append(_contender(of, name, name + suffix, made.label + label, {"particles": K}))
    return found


def _contender(of: Field, name: str, own: str, label: str, fixed: dict[str, Any]) -> Contender:
    def make(T: int, **options: float) -> DiffusionSampler:
        return of.guide_at(T).make(name, **fixed, **options)

    def choose(T: int, seed: int) -> Chosen:
        return sweep(of.guide_at(T), name, of.transform, seed, **fixed)

    swept, settings = GUIDED[name].swept, of.baselines
    values = tuple(settings.sweeps[name]) if swept else ()
    particles = {key: getattr(settings, key) for key in ("resampling", "ess_threshold")} if fixed else {}

    @cache
    def passes(T: int) -> int:
        """The most of any value: some, as RePaint's jumps, change the passes, and all are to fit.

        Values that T steps do not admit do not count; CSBError where there are only such.
        """
        counts, refusal = [], None
        for options in [{swept[0]: value} for value in values] if swept else [{}]:
            try:
                counts.append(make(T, **options).evaluations)
            except CSBError as error:
                refusal = error
        if refusal is not None and not counts:
            raise refusal
        return max(counts)

    about = {"method": name, **of.guide_about, **fixed, **particles, "options": settings.options.get(name, {})}
    return Contender(
        own, label, make, passes, about,
        sweep=choose if swept else None, trial={swept[0]: min(values)} if swept else {}, values=values,
    )  # fmt: skip


def _consistency(of: Field, name: str) -> list[Contender]:
    """The samplers distilled from the bridges of the runs, at the numbers of calls that they were trained for."""
    found = [(run, students) for run in of.runs if (students := students_of(run))]
    if not found:
        raise CSBError("no run= or others= has a distilled sampler (csb train … stage=distil)")
    labels = _named(name, "distilled", [run.folder for run, _ in found])
    return [
        Contender(
            own, label, partial(_student, students), lambda T: T,
            {"method": name, "source": checksum(model_file(run.folder, "consistency"))}, tuple(sorted(students)),
        )
        for (run, students), (own, label) in zip(found, labels)
    ]  # fmt: skip


def _student(students: Mapping[int, Sampler], T: int) -> Sampler:
    return students[T]


def _exact(of: Field, name: str) -> list[Contender]:
    """The exact posterior: the floor of every distance."""
    sampler = ExactSampler(of.problem)
    return [Contender(name, "exact posterior", lambda T: sampler, lambda T: 0, {"method": name}, (0,), reference=True)]


METHODS: dict[str, Callable[[Field, str], list[Contender]]] = {
    "bridge": _bridge,
    **{f"score_{method}": _amortized for method in SCORE},
    **{f"flow_{method}": _amortized for method in FLOW},
    "consistency": _consistency,
    **dict.fromkeys(GUIDED, _guided),
    "exact": _exact,
}


def contenders(of: Field, names: list[str]) -> tuple[list[Contender], dict[str, str]]:
    """The contenders of some methods, and why others are not among them, by name.

    CSBError where no contender is left, or a folder holds a model of another problem.
    """
    for kind in ("score", "flow"):
        of.models(kind)
    _ = of.runs
    found, reasons = [], {}
    for name in names:
        try:
            found += METHODS[name](of, name)
        except CSBError as error:
            reasons[name] = str(error)
    if all(one.reference for one in found):
        reported = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise CSBError(
            f"no method can be compared on {of.problem.name} ({reported})" if reported else "no method is compared"
        )
    return found, reasons
