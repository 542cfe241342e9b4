"""What a comparison at equal cost found: rows, the budgets they fit, and the tables of each budget."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from csb.evaluation.report import MethodResult, best, metric
from csb.evaluation.report.catalogue import show
from csb.evaluation.report.table import amount

KEYS = {  # by kind of problem, the metrics of its tables; the first sorts them
    "exact": ("sliced_w", "sliced_w_floor", "c2st", "mean_error", "cov_error"),
    "images": ("crps", "energy_score", "psnr_mean_per_image", "spread_skill_fair"),
    "vectors": ("energy_score", "crps", "spread_skill_fair"),
}

_ONE = {"passes": "pass", "seconds": "second"}


class Budget(NamedTuple):
    """So much of one cost a sample.

    Attributes:
        unit: "passes" through the network, forward and backward, or "seconds".
        amount: above 0.
    """

    unit: str
    amount: float

    @property
    def text(self) -> str:
        """E.g. "10 passes" or "0.1 seconds"."""
        return f"{self.amount:g} {_ONE[self.unit] if self.amount == 1 else self.unit}"


@dataclass(frozen=True)
class Row:
    """One method at one number of steps.

    Attributes:
        method: stable id, the same at every number of steps.
        label: what the reader sees.
        T: steps; None where that has no meaning.
        passes: through the network, forward and backward, for one sample.
        seconds: measured, for one sample.
        metrics, standard_errors: as in :class:`csb.evaluation.report.MethodResult`.
        reference: the exact posterior: shown, not ranked.
        choice: the value that a sweep chose, e.g. "ζ = 0.3", or "".
    """

    method: str
    label: str
    T: int | None
    passes: float
    seconds: float
    metrics: dict[str, float | None] = field(default_factory=dict)
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    reference: bool = False
    choice: str = ""

    @property
    def text(self) -> str:
        """The label with the choice."""
        return f"{self.label}, {self.choice}" if self.choice else self.label

    @property
    def result(self) -> MethodResult:
        """For :func:`csb.evaluation.report.best`."""
        name = f"{self.method}, {self.T}"
        return MethodResult(
            name, self.label, metrics=self.metrics, standard_errors=self.standard_errors, reference=self.reference
        )


def ranked(rows: Iterable[Row], key: str) -> list[Row]:
    """Rows from the best value of a metric to the worst, those without one behind them, and references last."""
    of = metric(key)

    def place(row: Row) -> tuple[bool, bool, float]:
        value = row.metrics.get(key)
        return row.reference, value is None, 0.0 if value is None else of.cost(value)

    return sorted(rows, key=place)


def budget_table(rows: Sequence[Row], kind: str, marks: tuple[str, str] = ("**", "**")) -> list[dict[str, Any]]:
    """The rows of one budget as a table, sorted by accuracy; text only, so that digits stay as they are.

    Args:
        rows: at most one a method and number of steps.
        kind: a key of KEYS.
        marks: put around the best value of a metric and around what differs from it by no more than the standard error
            of the difference.
    """
    keys = [key for key in KEYS[kind] if any(row.metrics.get(key) is not None for row in rows)]
    results = [row.result for row in rows]
    winners = {key: best(metric(key), results) for key in keys}
    table = []
    for row in ranked(rows, KEYS[kind][0]):
        line = {"method": row.text, "T": row.T, "passes": amount(row.passes), "seconds": f"{row.seconds:.2g}"}
        for key in keys:
            error = None if key.endswith("_floor") else row.standard_errors.get(key)
            text = show(row.metrics.get(key)) + ("" if error is None else f" ± {error:.1g}")
            name = metric(key).label + (f" {metric(key).arrow}" if metric(key).arrow else "")
            line[name] = f"{marks[0]}{text}{marks[1]}" if row.result.name in winners[key] else text
        table.append(line)
    return table


__all__ = ["KEYS", "Budget", "Row", "budget_table", "ranked"]
