"""The methods of a comparison by name; each gives entries that can be made at any number of steps.

A new method is a function of (:class:`Sources`, name) and an entry in :data:`METHODS`.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from csb.bridge import Bridge
from csb.errors import CSBError
from csb.files import checksum, model_file
from csb.networks.diffusion import CONDITIONAL
from csb.problems import Transform
from csb.runs.guided import Chosen, Guide, particle_counts, sweep
from csb.runs.load import Run
from csb.runs.sources import Sources
from csb.runs.stages import students_of
from csb.samplers import (
    FLOW,
    GUIDED,
    SCORE,
    BridgeSampler,
    ExactSampler,
    MeanFlowSampler,
    MultistepConsistency,
    ParticleSampler,
    Sampler,
    flow_sampler,
    score_sampler,
)

_SPACED = {"heun": "karras", "dpmpp": "karras"}  # grids of the samplers of higher order; the others: the schedule's
_WORDS = {
    "ddpm": "DDPM", "sde": "reverse SDE", "ddim": "DDIM", "heun": "Heun", "dpmpp": "DPM-Solver++",
    "meanflow": "mean flow", "consistency_training": "consistency training",
}  # fmt: skip
_IN_ONE_CALL = {method.name: method for method in (MeanFlowSampler, MultistepConsistency)}


@dataclass(frozen=True, eq=False)
class Method:
    """One line of a comparison.

    Attributes:
        name: unique, the same at every number of steps.
        label: what the reader sees.
        make: (T, **options) → the sampler.
        nfe: T → network function evaluations, forward and backward, for one sample; never less for more steps.
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
    nfe: Callable[[int], int]
    about: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] | None = None
    sweep: Callable[[int, int], Chosen] | None = None
    trial: dict[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    reference: bool = False

    def most_steps(self, amount: float, cost: Callable[[int], float], most: int = 1) -> int | None:
        """The most steps that cost at most an amount; None where none do. More steps never cost less.

        ``most``: of a method that has all numbers of steps.
        """
        steps = self.steps or range(1, most + 1)
        fitting = bisect_right(steps, amount, key=cost)
        return steps[fitting - 1] if fitting else None


def _named(name: str, label: str, folders: list[Path]) -> list[tuple[str, str]]:
    """Ids and labels of one method of several runs; the runs are reported apart where there are two or more."""
    if len(folders) == 1:
        return [(name, label)]
    return [(f"{name}_{i}", f"{label} ({folder.name})") for i, folder in enumerate(folders, start=1)]


def _bridge(of: Sources, name: str) -> list[Method]:
    """The bridges of the runs at their own T, or with fewer steps where their kernels admit it."""
    if not of.runs:
        raise CSBError("no run= or others= has a bridge")
    names = _named(name, "bridge", [run.folder for run in of.runs])
    return [_of_run(run, own, label) for run, (own, label) in zip(of.runs, names)]


def _of_run(run: Run, name: str, label: str) -> Method:
    T = run.bridge.grid.T
    try:
        run.bridge.timesteps(0, 1)
        steps = tuple(range(1, T + 1))
    except CSBError:  # these kernels take all steps or none
        steps = (T,)

    about = {"method": "bridge", "source": checksum(model_file(run.folder, "bridge"))}
    return bridge_method(run.bridge, name, f"{label}, T = {T}", about, steps)


def bridge_method(bridge: Bridge, name: str, label: str, about: Mapping[str, Any], steps: tuple[int, ...]) -> Method:
    """A bridge, which takes any of some numbers of steps."""
    T = bridge.grid.T

    def make(S: int) -> Sampler:
        return BridgeSampler(bridge, sample_steps=S if S < T else None)

    return Method(name, label, make, lambda S: S, about, steps)


def _amortized(of: Sources, name: str) -> list[Method]:
    """A sampler of the conditional models of a kind of the runs."""
    kind, _, rule = name.partition("_")
    found = of.models(kind)
    if not found:
        raise CSBError(f"no run= or others= has a {kind} (csb train … stage={kind})")
    label = _WORDS.get(name) or f"{kind}, {_WORDS.get(rule, rule.capitalize())}"
    labels = _named(name, label, [path.parent for path, _ in found])
    methods = []
    for (path, model), (own, label) in zip(found, labels):
        if kind == "score":
            spacing = _SPACED.get(rule, "schedule")
            make: Any = partial(score_sampler, model, rule, spacing=spacing)
        else:
            make = partial(flow_sampler, model, rule) if kind == "flow" else partial(_IN_ONE_CALL[name], model)
        nfe = cache(lambda T, make=make: make(T).evaluations)
        methods.append(Method(own, label, make, nfe, {"method": name, "source": checksum(path)}))
    return methods


def guided(
    name: str, guide: Guide, at: Callable[[int], Guide], transform: Transform, about: Mapping[str, Any]
) -> list[Method]:
    """A guided sampler; particle filters at each number of particles. CSBError where the problem does not admit it.

    Args:
        guide: of some number of steps.
        at: T → the guide at T steps.
        transform: of the problem, for the scores of a sweep.
        about: plain data that the guide depends on, beside T.
    """
    made, settings = GUIDED[name], guide.settings
    guide.make(name)  # the problem may not admit it
    swept = made.swept
    values = tuple(settings.sweeps[name]) if swept else ()

    def method(own: str, label: str, fixed: dict[str, Any]) -> Method:
        def make(T: int, **options: float) -> Any:
            return at(T).make(name, **fixed, **options)

        @cache
        def nfe(T: int) -> int:
            """The most of any value, for all are to fit; values that T steps do not admit do not count."""
            counts, refusal = [], None
            for options in [{swept[0]: value} for value in values] if swept else [{}]:
                try:
                    counts.append(make(T, **options).evaluations)
                except CSBError as error:
                    refusal = error
            if refusal is not None and not counts:
                raise refusal
            return max(counts)

        def choose(T: int, seed: int) -> Chosen:
            return sweep(at(T), name, transform, seed, **fixed)

        shared = {key: getattr(settings, key) for key in ("resampling", "ess_threshold")} if fixed else {}
        plain = {"method": name, **about, **fixed, **shared, "options": settings.options.get(name, {})}
        trial = {swept[0]: min(values)} if swept else {}
        return Method(own, label, make, nfe, plain, sweep=choose if swept else None, trial=trial, values=values)

    if not issubclass(made, ParticleSampler):
        return [method(name, made.label, {})]
    counts = particle_counts(settings, guide.problem, made.guided)
    ends = [("", "") if K is None else (f"_{K}", f", K = {K}") for K in counts]
    return [method(name + end, made.label + text, {"particles": K}) for K, (end, text) in zip(counts, ends)]


def _guided(of: Sources, name: str) -> list[Method]:
    return guided(name, of.guide, of.guide_at, of.transform, of.guide_about)


def _consistency(of: Sources, name: str) -> list[Method]:
    """The samplers distilled from the bridges of the runs, at the numbers of calls that they were trained for."""
    found = [(run, students) for run in of.runs if (students := students_of(run))]
    if not found:
        raise CSBError("no run= or others= has a distilled sampler (csb train … stage=distil)")
    labels = _named(name, "distilled", [run.folder for run, _ in found])
    return [
        Method(
            own, label, students.__getitem__, lambda T: T,
            {"method": name, "source": checksum(model_file(run.folder, "consistency"))}, tuple(sorted(students)),
        )
        for (run, students), (own, label) in zip(found, labels)
    ]  # fmt: skip


def _exact(of: Sources, name: str) -> list[Method]:
    """The exact posterior: the floor of every distance."""
    sampler = ExactSampler(of.problem)
    return [Method(name, "exact posterior", lambda T: sampler, lambda T: 0, {"method": name}, (0,), reference=True)]


METHODS: dict[str, Callable[[Sources, str], list[Method]]] = {
    "bridge": _bridge,
    **{f"score_{rule}": _amortized for rule in SCORE},
    **{f"flow_{rule}": _amortized for rule in FLOW},
    **dict.fromkeys(_IN_ONE_CALL, _amortized),
    "consistency": _consistency,
    **dict.fromkeys(GUIDED, _guided),
    "exact": _exact,
}


def methods_of(of: Sources, names: list[str]) -> tuple[list[Method], dict[str, str]]:
    """The methods by their names, and why others are not among them, by name.

    CSBError where no method is left, or a folder holds a model of another problem.
    """
    for kind in CONDITIONAL:
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
