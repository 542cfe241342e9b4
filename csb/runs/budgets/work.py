"""The work of a comparison: steps that fit each budget, sweeps, draws and scores, each kept as soon as it is done."""

import dataclasses
import logging
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

import csb
from csb.errors import CSBError
from csb.evaluation.budgets import Budget, Row
from csb.evaluation.chunks import pairs_at_once
from csb.evaluation.comparison import Drawn, Method, against_exact, draw, image_result, point_result
from csb.evaluation.held_out import held_out
from csb.evaluation.report import MethodResult
from csb.problems import Pairs
from csb.runs.budgets.field import Field, without_places
from csb.runs.budgets.methods import Contender
from csb.runs.budgets.settings import Comparison
from csb.runs.budgets.store import Store

_TIMED = 64  # states of an image's timing run, or a little less
_FAR = 5  # steps of the longer of two timing runs
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Seconds a sample: ``fixed`` + ``each``·(passes, or steps of a method without any)."""

    fixed: float
    each: float


@dataclass(frozen=True)
class Fit:
    """A contender at the steps that fit a budget: its row, or why there is none."""

    budget: Budget
    contender: Contender
    row: Row | None
    reason: str = ""
    at_most: bool = False  # more steps would fit, and steps= forbids them


class Work:
    """Compares contenders.

    Args:
        comparison: the settings.
        field: what the contenders were made from.
        store: of finished parts.
    """

    def __init__(self, comparison: Comparison, field: Field, store: Store) -> None:
        self.comparison, self.field, self.store = comparison, field, store
        spec = without_places(comparison.problem.spec())
        self._common = {
            "problem": spec, "seed": comparison.settings.seed, "csb": csb.__version__, "device": field.device,
            "threads": torch.get_num_threads(),
        }  # fmt: skip

    @cached_property
    def test(self) -> Pairs:
        """The frozen test pairs."""
        return held_out(self.comparison.problem, self.comparison.observations)

    def fit(self, contender: Contender, budget: Budget) -> Fit:
        """The contender's row at a budget, from the store where it is finished."""
        try:
            T = self._steps(contender, budget)
            if T is None:
                return Fit(budget, contender, None)
            limited = contender.steps is None and self.comparison.settings.steps == T
            return Fit(budget, contender, self._row(contender, T), at_most=limited)
        except CSBError as error:
            return Fit(budget, contender, None, str(error))

    def _steps(self, contender: Contender, budget: Budget) -> int | None:
        """The most steps that fit; None where none do."""
        if contender.reference:
            return 0

        def effort(T: int) -> int:
            return contender.passes(T) or T

        pace = Pace(0.0, 1.0) if budget.unit == "passes" else self._pace(contender, effort)

        def cost(T: int) -> float:
            return contender.passes(T) if budget.unit == "passes" else pace.fixed + pace.each * effort(T)

        steps = contender.steps or range(1, self.comparison.settings.steps + 1)
        fitting = bisect_right(steps, budget.amount, key=cost)  # more steps never cost less
        return steps[fitting - 1] if fitting else None

    def _pace(self, contender: Contender, effort: Any) -> Pace:
        """From short runs of few and of more steps, the quicker of two each after one that warms up."""
        n = self.comparison.samples
        key = {"kind": "pace", **self._common, "about": contender.about, "trial": contender.trial, "samples": n}
        if (found := self.store.load(key)) is not None:
            return Pace(**found)
        problem = self.comparison.problem
        B = 1 if self.comparison.kind == "exact" else max(1, min(_TIMED, self.comparison.observations * n) // n)
        y = problem.pairs("val", B).y
        ends = (1, _FAR) if contender.steps is None else (contender.steps[0], contender.steps[-1])
        times = []
        for T in ends:
            method = Method(contender.name, contender.label, contender.make(T, **contender.trial))
            seconds = [draw(method, y, n, 0, B).result.seconds or 0.0 for _ in range(3)]
            times.append(min(seconds[1:]) / (B * n))
        low, high = map(effort, ends)
        each = (times[1] - times[0]) / (high - low) if high > low else 0.0
        each = each if each > 0 else times[1] / high
        pace = Pace(max(times[0] - each * low, 0.0), each)
        logger.info("%s: %.3g s a pass and sample, %.3g s beside", contender.label, pace.each, pace.fixed)
        self.store.save(key, vars(pace))
        return pace

    def _choose(self, contender: Contender, T: int) -> dict[str, Any]:
        """{"options", "text", "sweep"} of the values that validation observations choose at T steps."""
        if contender.sweep is None:
            return {"options": {}, "text": "", "sweep": None}
        baselines = self.comparison.baselines
        sizes = {"observations": baselines.sweep_observations, "samples": baselines.sweep_samples}
        key = {"kind": "sweep", **self._common, "about": contender.about, "T": T, "values": contender.values, **sizes}
        found = self.store.load(key)
        if found is None:
            chosen = contender.sweep(T, self.comparison.settings.seed)
            found = {**vars(chosen), "sweep": dataclasses.asdict(chosen.sweep)}
            self.store.save(key, found)
        return found

    def _row(self, contender: Contender, T: int) -> Row:
        chosen, settings = self._choose(contender, T), self.comparison.settings
        sizes = {"observations": len(self.test.y), "samples": self.comparison.samples, "c2st": settings.c2st_samples}
        key = {
            "kind": "row", **self._common, "about": contender.about, "T": T, "options": chosen["options"], **sizes
        }  # fmt: skip
        label = f"{contender.label}, {chosen['text']}" if chosen["text"] else contender.label
        found = self.store.load(key)
        if found is None:
            logger.info("%s, T = %d: %d observations × %d samples", label, T, sizes["observations"], sizes["samples"])
            found = self._draw(contender, T, label, chosen["options"])
            self.store.save(key, found)
        if "error" in found:
            raise CSBError(found["error"])
        return Row(
            contender.name, contender.label, T or None, reference=contender.reference, choice=chosen["text"], **found
        )

    def _draw(self, contender: Contender, T: int, label: str, options: dict[str, Any]) -> dict[str, Any]:
        """Costs and scores, as plain data; {"error"} where the method diverges."""
        n, exact = self.comparison.samples, self.comparison.kind == "exact"
        method = Method(contender.name, label, contender.make(T, **options))
        try:
            drawn = draw(method, self.test.y, n, self.comparison.settings.seed, 1 if exact else pairs_at_once(n))
        except CSBError as error:
            return {"error": str(error)}
        result = self._score(drawn)
        return {
            "passes": result.evaluations,
            "seconds": (result.seconds or 0.0) / (len(self.test.y) * n),
            "metrics": result.metrics,
            "standard_errors": result.standard_errors,
        }

    def _score(self, drawn: Drawn) -> MethodResult:
        comparison, test, seed = self.comparison, self.test, self.comparison.settings.seed
        if comparison.kind == "exact":
            metrics, errors = against_exact(comparison.problem, drawn, test.y, seed, comparison.metrics)
            return dataclasses.replace(drawn.result, metrics=metrics, standard_errors=errors)
        if comparison.kind == "images":
            return image_result(drawn, test, None, self.field.transform.unknown(test.y), seed)
        return point_result(drawn, test, seed, self.field.transform.x_scale())
