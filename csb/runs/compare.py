"""Methods side by side: csb compare at equal cost, and ``csb.compare([run, tds], problem, nfe=[10, 100]).table()``."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import csb
from csb.bridge import Bridge
from csb.errors import CSBError, require_int
from csb.evaluation.catalogue import metric
from csb.evaluation.plots import draw_curves
from csb.evaluation.results import Results, draw, scored, scoring_transform
from csb.evaluation.rows import Row
from csb.evaluation.scores import MetricsSettings, held_out, pairs_at_once
from csb.evaluation.table import Table, escape_markdown, markdown_table
from csb.files import write_text
from csb.problems import Pairs, Problem
from csb.runs.budgets import KEYS, Budget, Comparison, Fit, budget_table, cost_panels
from csb.runs.guided import horizon_warnings
from csb.runs.load import Run
from csb.runs.methods import Method, bridge_method, methods_of
from csb.runs.sources import Sources, without_places
from csb.samplers import GUIDED, BridgeSampler, Sampler
from csb.schema import shown

_TIMED = 64  # states of an image's timing run, or a little less
_FAR = 5  # steps of the longer of two timing runs
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Seconds a sample: ``fixed`` + ``each``·(passes, or steps of a method without any)."""

    fixed: float
    each: float


class Work:
    """A comparison at equal cost: steps that fit each budget, sweeps, draws and scores, each kept once it is done.

    Args:
        comparison: what is compared.

    Attributes:
        methods: that the problem and the runs admit.
        notes: on what is left out, and on what the reader must know.

    Raises:
        CSBError: a folder that is missing or holds a model of another problem; no method works.
    """

    def __init__(self, comparison: Comparison) -> None:
        own, problem = comparison.settings, comparison.problem
        folders = tuple(Path(folder) for folder in ([own.run] if own.run else []) + own.others)
        prior = None if own.prior is None else Path(own.prior)
        self.comparison = comparison
        self.sources = Sources(problem, folders, prior, comparison.baselines, comparison.schedule)
        problem.prepare()
        self.methods, reasons = methods_of(self.sources, comparison.methods)
        self.store = Results(Path(own.out) / "compare.json")
        together: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            together.setdefault(reason, []).append(name)
        self.notes = [f"{', '.join(names)}: {reason}" for reason, names in together.items()]
        if any(one.about["method"] in GUIDED for one in self.methods):
            self.notes += horizon_warnings(self.sources.guide)
        self._common = {
            "problem": without_places(problem.spec()), "seed": own.seed, "csb": csb.__version__,
            "device": self.sources.device, "threads": torch.get_num_threads(),
        }  # fmt: skip
        if not (problem.is_image or problem.has_exact_posterior):
            self._common["unit"] = "spread"  # rows of before were in the unit of x

    @cached_property
    def test(self) -> Pairs:
        """The frozen test pairs."""
        return held_out(self.comparison.problem, self.comparison.observations)

    def fit(self, method: Method, budget: Budget) -> Fit:
        """The method's row at a budget, from the store where it is finished."""
        most = self.comparison.settings.steps
        try:
            T = 0 if method.reference else method.most_steps(budget.amount, self._cost(method, budget), most)
            if T is None:
                return Fit(budget, method)
            row, choice = self._row(method, T)
            return Fit(budget, method, row, T or None, choice, at_most=method.steps is None and most == T)
        except CSBError as error:
            return Fit(budget, method, reason=str(error))

    def _cost(self, method: Method, budget: Budget) -> Callable[[int], float]:
        """T → what a sample costs in the budget's unit."""
        if budget.unit == "passes":
            return method.nfe
        pace = self._pace(method)
        return lambda T: pace.fixed + pace.each * (method.nfe(T) or T)

    def _pace(self, method: Method) -> Pace:
        """From short runs of few and of more steps, the quicker of two each after one that warms up."""
        n = self.comparison.samples
        key = {"kind": "pace", **self._common, "about": method.about, "trial": method.trial, "samples": n}
        if (found := self.store.load(key)) is not None:
            return Pace(**found)
        B = 1 if self.comparison.kind == "exact" else max(1, min(_TIMED, self.comparison.observations * n) // n)
        y = self.comparison.problem.pairs("val", B).y
        ends = (1, _FAR) if method.steps is None else (method.steps[0], method.steps[-1])
        times = []
        for T in ends:
            sampler = method.make(T, **method.trial)
            seconds = [draw(sampler, Row(method.name, method.label), y, n, 0, B).row.seconds or 0.0 for _ in range(3)]
            times.append(min(seconds[1:]) / (B * n))
        low, high = (method.nfe(T) or T for T in ends)
        each = (times[1] - times[0]) / (high - low) if high > low else 0.0
        each = each if each > 0 else times[1] / high
        pace = Pace(max(times[0] - each * low, 0.0), each)
        logger.info("%s: %.3g s a pass and sample, %.3g s beside", method.label, pace.each, pace.fixed)
        self.store.save(key, vars(pace))
        return pace

    def _choose(self, method: Method, T: int) -> dict[str, Any]:
        """{"options", "text", "sweep"} of the values that validation observations choose at T steps."""
        if method.sweep is None:
            return {"options": {}, "text": "", "sweep": None}
        baselines = self.comparison.baselines
        sizes = {"observations": baselines.sweep_observations, "samples": baselines.sweep_samples}
        key = {"kind": "sweep", **self._common, "about": method.about, "T": T, "values": method.values, **sizes}
        found = self.store.load(key)
        if found is None:
            found = asdict(method.sweep(T, self.comparison.settings.seed))
            self.store.save(key, found)
        return found

    def _row(self, method: Method, T: int) -> tuple[Row, str]:
        """The row at T steps, and the value that a sweep chose for it."""
        chosen, settings = self._choose(method, T), self.comparison.settings
        sizes = {"observations": len(self.test.y), "samples": self.comparison.samples, "c2st": settings.c2st_samples}
        key = {"kind": "row", **self._common, "about": method.about, "T": T, "options": chosen["options"], **sizes}
        row = Row(method.name, ", ".join(filter(None, (method.label, chosen["text"]))), reference=method.reference)
        found = self.store.load(key)
        if found is None:
            sizes_text = f"{sizes['observations']} observations × {sizes['samples']} samples"
            logger.info("%s, T = %d: %s", row.label, T, sizes_text)
            found = self._draw(method.make(T, **chosen["options"]), row)
            self.store.save(key, found)
        if "error" in found:
            raise CSBError(found["error"])
        passes = found["passes"]
        scores = {key: found[key] for key in ("seconds", "metrics", "standard_errors")}
        return replace(row, forward_evaluations=passes, **scores), chosen["text"]

    def _draw(self, sampler: Sampler, row: Row) -> dict[str, Any]:
        """Costs and scores, as plain data; {"error"} where the method diverges."""
        comparison, test = self.comparison, self.test
        n, seed = comparison.samples, comparison.settings.seed
        chunk = 1 if comparison.kind == "exact" else pairs_at_once(n)
        try:
            drawn = draw(sampler, row, test.y, n, seed, chunk)
        except CSBError as error:
            return {"error": str(error)}
        row = scored(comparison.problem, self.sources.transform, drawn, test, seed, comparison.metrics)
        return {
            "passes": row.evaluations,
            "seconds": (row.seconds or 0.0) / (len(test.y) * n),
            "metrics": row.metrics,
            "standard_errors": row.standard_errors,
        }

    def run(self, command: str) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Do what is not finished; write compare.json, compare.md and compare.png. Returns tables and notes."""
        budgets, problem, fits = self.comparison.budgets, self.comparison.problem, []
        for i, method in enumerate(self.methods, start=1):
            logger.info("[%d/%d] %s", i, len(self.methods), method.label)
            fits += [self.fit(method, budget) for budget in budgets]
        by = {budget: [fit for fit in fits if fit.budget == budget] for budget in budgets}
        notes = [*self.notes, *(note for budget in budgets for note in self._remarks(by[budget]))]
        shown = {budget: [fit for fit in of if fit.row is not None] for budget, of in by.items()}
        shown = {budget: of for budget, of in shown.items() if of}
        self._write(shown, notes, command)
        kind, title = self.comparison.kind, "{}, at most {} a sample (* best within a standard error)"
        tables = {title.format(problem.name, b.text): budget_table(of, kind, ("", " *")) for b, of in shown.items()}
        return tables, notes

    def _remarks(self, fits: Sequence[Fit]) -> list[str]:
        """What did not fit one budget, and what could have taken more."""
        found, budget = [], fits[0].budget.text if fits else ""
        for text, chosen in (
            ("not even one step fits", [fit for fit in fits if fit.row is None and not fit.reason]),
            (f"held back by steps={self.comparison.settings.steps}", [fit for fit in fits if fit.at_most]),
        ):
            if chosen:
                found.append(f"{budget}: {text}: {', '.join(fit.method.label for fit in chosen)}")
        return found + [f"{budget}: {fit.method.label} is left out: {fit.reason}" for fit in fits if fit.reason]

    def _write(self, shown: dict[Budget, list[Fit]], notes: list[str], command: str) -> None:
        comparison, folder = self.comparison, Path(self.comparison.settings.out)
        every = [fit for of in shown.values() for fit in of]
        picture = draw_curves(folder / "compare.png", cost_panels(every, comparison.kind, comparison.problem.name))
        titles = {budget: f"at most {budget.text} a sample" for budget in shown}
        tables = {titles[budget]: [fit.plain() for fit in of] for budget, of in shown.items()}
        self.store.write({"command": command, "notes": notes, "tables": tables})
        text = (
            f"# {comparison.problem.name}: methods at equal cost\n\n"
            f"{comparison.observations} test observations × {comparison.samples} samples, seed "
            f"{comparison.settings.seed}, sorted by {metric(KEYS[comparison.kind][0]).label}. T: the most steps that "
            f"fit; passes: through the network, forward and backward, a sample; seconds: measured, a sample. Bold: the "
            f"best, and what differs from it by no more than the standard error of the difference.\n\n"
        )
        for budget, of in shown.items():
            rows = [{**row, "method": escape_markdown(row["method"])} for row in budget_table(of, comparison.kind)]
            text += f"## {titles[budget].capitalize()}\n\n{markdown_table(rows)}\n"
        text += "".join(f"- {escape_markdown(note)}\n" for note in notes) + "\n" if notes else ""
        text += "![accuracy against passes and seconds](compare.png)\n\n" if picture else ""
        write_text(folder / "compare.md", f"{text}```bash\n{command}\n```\n")


def compare(
    methods: Sequence[Any],
    problem: Problem,
    *,
    nfe: Sequence[int] | None = None,
    observations: int = 10,
    samples: int = 1000,
    seed: int = 0,
) -> Table:
    """Compare samplers on the same test observations of a problem of vectors.

    Against the exact posterior where it is known (sliced Wasserstein distance with its floor, MMD, errors of mean and
    covariance), else by proper scores and calibration on the held-out truths.

    Args:
        methods: runs, bridges, or samplers of :mod:`csb.samplers`.
        problem: whose test observations are used.
        nfe: budgets of network function evaluations a sample. A bridge takes as many steps, at most its T; any other
            sampler takes part where its own number fits. None: each as it is.
        observations, samples: how many of the test split, and of each.
        seed: of all samples; every observation has numbers of its own.

    Returns:
        A row for each method at each budget: its name, NFE, scores and seconds a sample.

    Raises:
        CSBError: what is no sampler; images; a budget below 1, or in which nothing fits.
    """
    if problem.is_image:
        raise CSBError("x are images, whose scores are others; use csb compare or run.compare()")
    require_int("observations", observations, 2)
    budgets = [math.inf] if nfe is None else [require_int("nfe", n, 1) for n in nfe]
    test, rows = held_out(problem, observations), []
    made = [_method(given) for given in methods]
    transform = scoring_transform(problem)
    for budget, method in ((budget, method) for budget in budgets for method in made):
        if (T := method.most_steps(budget, method.nfe)) is None:
            continue
        sampler = method.make(T)
        drawn = draw(sampler, Row(method.name, method.label), test.y, samples, seed, pairs_at_once(samples))
        row = scored(problem, transform, drawn, test, seed, MetricsSettings())
        seconds = (row.seconds or 0.0) / (len(test.y) * samples)
        rows.append({"method": row.label, "NFE": int(row.evaluations), **row.metrics, "seconds a sample": seconds})
    if not rows:
        raise CSBError(f"no method fits into nfe={list(nfe or [])}; give a larger budget")
    return Table(rows)


def _method(given: Any) -> Method:
    """A run, bridge or sampler as a method: a bridge with 1 to T steps, any other sampler as it is."""
    given = given.bridge if isinstance(given, Run) else given
    if isinstance(given, Bridge):
        return bridge_method(given, "bridge", BridgeSampler.__name__, {}, tuple(range(1, given.grid.T + 1)))
    if not isinstance(given, Sampler):
        raise CSBError(f"{shown(given)} is no sampler; give runs, bridges or samplers of csb.samplers")
    name = getattr(given, "label", type(given).__name__)
    return Method(name, name, lambda steps: given, lambda steps: getattr(given, "evaluations", 0), steps=(1,))
