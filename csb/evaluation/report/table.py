"""The table of all methods: costs first, then metrics by group, the best ranked values marked."""

from collections.abc import Callable
from typing import NamedTuple

from csb.evaluation.report.catalogue import GROUPS, Metric, best, metrics_of, show
from csb.evaluation.report.model import Report, Row
from csb.evaluation.table import MISSING, markdown_table

MIB = 2**20


class Column(NamedTuple):
    """A column: its group, label, unit or direction below it, whether the glossary explains it, and its cells."""

    group: str
    label: str
    note: str
    key: str
    cells: list["Cell"]


class Cell(NamedTuple):
    """A value as text; whether it is the best; its standard error as text or ""."""

    text: str
    best: bool = False
    error: str = ""


def amount(value: float | None) -> str:
    """A cost: three significant digits, thousands with separators, never an exponent."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{float(f'{value:.3g}'):.6g}"


_COSTS: tuple[tuple[str, str, str, str, Callable[[Row], float | None]], ...] = (
    ("Cost of one sample", "Forward", "network passes", "forward", lambda m: m.forward_evaluations),
    ("Cost of one sample", "Backward", "network passes", "backward", lambda m: m.backward_evaluations),
    ("Cost of the call", "Time", "s", "seconds", lambda m: m.seconds),
    ("Cost of the call", "Peak memory", "MiB", "memory", lambda m: m.peak_memory and m.peak_memory / MIB),
    ("Particles", "ESS", "mean", "ess", lambda m: m.ess and m.ess[0]),
    ("Particles", "ESS", "smallest", "ess", lambda m: m.ess and m.ess[1]),
    ("Particles", "Ancestors", "unique", "ancestors", lambda m: m.unique_ancestors),
)


def columns(report: Report) -> list[Column]:
    """The columns that hold a value, grouped; cells in the order of the methods."""
    found = []
    for group, label, note, key, get in _COSTS:
        values = [get(m) for m in report.methods]
        if any(v is not None for v in values):
            found.append(Column(group, label, note, key, [Cell(amount(v)) for v in values]))
    metrics = [m for m in metrics_of(report) if any(r.value(m.key) is not None for r in report.methods)]
    for group in GROUPS:
        found += [_metric_column(report, m) for m in metrics if m.group == group]
    return found


def _metric_column(report: Report, of: Metric) -> Column:
    winners = best(of, report.methods)
    cells = []
    for m in report.methods:
        error = m.error(of.key)
        cells.append(Cell(show(m.value(of.key)), m.name in winners, "" if error is None else f"± {error:.1g}"))
    note = " ".join(part for part in (of.unit, of.arrow) if part)
    return Column(of.group, of.label, note, of.key, cells)


def groups(of: list[Column]) -> list[tuple[str, int]]:
    """Runs of columns of one group: name and length."""
    runs: list[tuple[str, int]] = []
    for column in of:
        if runs and runs[-1][0] == column.group:
            runs[-1] = (column.group, runs[-1][1] + 1)
        else:
            runs.append((column.group, 1))
    return runs


def findings(report: Report, keys: list[str]) -> list[tuple[Metric, list[Row]]]:
    """For each ranked metric among the keys that has a winner: the metric and the methods with the best value."""
    found = []
    for of in (m for m in metrics_of(report) if m.key in keys):
        winners = best(of, report.methods)
        if winners:
            found.append((of, [m for m in report.methods if m.name in winners]))
    return found


def markdown(report: Report) -> str:
    """The same table for a text file; bold marks the best."""
    rows = [{"method": _text(m.label), "schedule": _text(m.schedule) or MISSING} for m in report.methods]
    for column in columns(report):
        head = _text(f"{column.label} ({column.note})" if column.note else column.label)
        head = head if all(head not in row for row in rows) else f"{head} [{_text(column.key)}]"
        for row, cell in zip(rows, column.cells):
            text = f"{cell.text} {cell.error}".strip()
            row[head] = f"**{text}**" if cell.best else text
    return markdown_table(rows)


def _text(value: str) -> str:
    """Text that neither HTML nor emphasis gets into."""
    for character in "\\`*_[]":
        value = value.replace(character, f"\\{character}")
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


escape_markdown = _text
