"""Samplers side by side, from Python: ``csb.compare([run, tds], problem, nfe=[10, 100]).table()``."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from csb.bridge import Bridge
from csb.errors import CSBError, require_int
from csb.evaluation.chunks import pairs_at_once
from csb.evaluation.comparison import Method, against_exact, draw, point_result
from csb.evaluation.held_out import held_out
from csb.evaluation.settings import MetricsSettings
from csb.evaluation.tables import format_value, markdown_table
from csb.problems import Problem
from csb.runs.load import Run
from csb.samplers import BridgeSampler, Sampler
from csb.schema import shown


@dataclass(frozen=True)
class Comparison:
    """A row for each method at each budget: its name, NFE, seconds a sample and scores."""

    rows: list[dict[str, Any]]

    def table(self) -> str:
        """The rows in Markdown."""
        return markdown_table(self.rows)

    __str__ = table

    def _repr_html_(self) -> str:
        names = list(self.rows[0])
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        lines = ("".join(f"<td>{escape(format_value(row.get(name)))}</td>" for name in names) for row in self.rows)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def compare(
    methods: Sequence[Any],
    problem: Problem,
    *,
    nfe: Sequence[int] | None = None,
    observations: int = 10,
    samples: int = 1000,
    seed: int = 0,
) -> Comparison:
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

    Raises:
        CSBError: what is no sampler; images; a budget below 1, or in which nothing fits.
    """
    if problem.is_image:
        raise CSBError("x are images, whose scores are others; use csb compare or run.compare()")
    require_int("observations", observations, 2)
    budgets = [None] if nfe is None else [require_int("nfe", n, 1) for n in nfe]
    test, rows = held_out(problem, observations), []
    for budget, (i, given) in ((budget, one) for budget in budgets for one in enumerate(methods)):
        if (sampler := _sampler(given, budget)) is None:
            continue
        name = getattr(sampler, "label", type(sampler).__name__)
        drawn = draw(Method(f"method_{i}", name, sampler), test.y, samples, seed, pairs_at_once(samples))
        if problem.has_exact_posterior:
            scores, _ = against_exact(problem, drawn, test.y, seed, MetricsSettings())
        else:
            scores = point_result(drawn, test, seed, problem.make_transform(problem.rows("train")).x_scale()).metrics
        own = drawn.result
        cost = {"NFE": int(own.forward_evaluations + own.backward_evaluations)}
        seconds = (own.seconds or 0.0) / (len(test.y) * samples)
        rows.append({"method": name, **cost, **scores, "seconds a sample": seconds})
    if not rows:
        raise CSBError(f"no method fits into nfe={list(nfe or [])}; give a larger budget")
    return Comparison(rows)


def _sampler(given: Any, budget: int | None) -> Sampler | None:
    """What draws within a budget; None where nothing of a method does."""
    if isinstance(given, Run):
        given = given.bridge
    if isinstance(given, Bridge):
        T = given.grid.T
        return BridgeSampler(given, sample_steps=None if budget is None or budget >= T else budget)
    if not isinstance(given, Sampler):
        raise CSBError(f"{shown(given)} is no sampler; give runs, bridges or samplers of csb.samplers")
    passes = getattr(given, "evaluations", 0)
    return given if budget is None or passes <= budget else None
