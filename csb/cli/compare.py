"""csb compare: all methods on one problem at equal network passes and at equal seconds."""

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from csb.evaluation.budgets import KEYS, Budget, Row, budget_table, draw_budgets
from csb.evaluation.report import metric
from csb.evaluation.report.table import escape_markdown
from csb.evaluation.tables import markdown_table, print_table, write_text
from csb.runs import provenance
from csb.runs.budgets.field import Field
from csb.runs.budgets.methods import Contender, contenders
from csb.runs.budgets.settings import Comparison, read
from csb.runs.budgets.store import Store
from csb.runs.budgets.work import Fit, Work
from csb.runs.guided import horizon_warnings
from csb.runs.lock import writing
from csb.runs.train import check_writable
from csb.samplers.registry import GUIDED
from csb.schema import Given

logger = logging.getLogger(__name__)


Opened = tuple[Work, list[Contender], list[str]]


def _open(comparison: Comparison) -> Opened:
    """What is compared, ready to start, and notes on what is not. CSBError for what cannot work."""
    own = comparison.settings
    folders = tuple(Path(folder) for folder in ([own.run] if own.run else []) + own.others)
    source = None if own.prior is None else Path(own.prior)
    field = Field(comparison.problem, folders, source, comparison.baselines, comparison.schedule)
    comparison.problem.prepare()
    found, reasons = contenders(field, comparison.methods)
    store = Store(Path(own.out) / "compare.json")
    notes = [f"{', '.join(names)}: {reason}" for reason, names in _together(reasons).items()]
    if any(one.about["method"] in GUIDED for one in found):
        notes += horizon_warnings(field.guide)
    return Work(comparison, field, store), found, notes


def _together(reasons: dict[str, str]) -> dict[str, list[str]]:
    """Names by reason."""
    by: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by.setdefault(reason, []).append(name)
    return by


def prepare(given: Given) -> Callable[[], None]:
    """The comparison. CSBError where a value is wrong, a folder is missing, or no method works."""
    comparison = read(given)
    opened = _open(comparison)
    check_writable(Path(comparison.settings.out))
    return partial(_run, comparison, opened, given)


def _title(budget: Budget) -> str:
    return f"at most {budget.text} a sample"


def _remarks(budget: Budget, fits: Sequence[Fit], most: int) -> list[str]:
    """What did not fit one budget, and what could have taken more."""
    reported = []
    for text, chosen in (
        ("not even one step fits", [f for f in fits if f.row is None and not f.reason]),
        (f"held back by steps={most}", [f for f in fits if f.row is not None and f.at_most]),
    ):
        if chosen:
            reported.append(f"{budget.text}: {text}: {', '.join(fit.contender.label for fit in chosen)}")
    return reported + [f"{budget.text}: {fit.contender.label} is left out: {fit.reason}" for fit in fits if fit.reason]


def _write(comparison: Comparison, work: Work, fits: list[Fit], notes: list[str], command: str) -> None:
    """compare.json, compare.md and compare.png."""
    folder, kind = Path(comparison.settings.out), comparison.kind
    by = {budget: [fit for fit in fits if fit.budget == budget] for budget in comparison.budgets}
    rows = {b: [fit.row for fit in of if fit.row is not None] for b, of in by.items()}
    unique = list({(row.method, row.T): row for of in rows.values() for row in of}.values())
    picture = draw_budgets(folder / "compare.png", unique, kind, comparison.problem.name)
    tables = {_title(b): [vars(row) for row in of] for b, of in rows.items() if of}
    work.store.write({"command": command, "notes": notes, "tables": tables})
    text = _head(comparison)
    for budget, of in rows.items():
        if of:
            table = [
                {k: escape_markdown(v) if k == "method" else v for k, v in r.items()} for r in budget_table(of, kind)
            ]
            text += f"## {_title(budget).capitalize()}\n\n{markdown_table(table)}\n"
    text += "".join(f"- {escape_markdown(note)}\n" for note in notes) + "\n" if notes else ""
    text += "![accuracy against passes and seconds](compare.png)\n\n" if picture else ""
    write_text(folder / "compare.md", f"{text}```bash\n{command}\n```\n")


def _head(comparison: Comparison) -> str:
    key = KEYS[comparison.kind][0]
    return (
        f"# {comparison.problem.name}: methods at equal cost\n\n"
        f"{comparison.observations} test observations × {comparison.samples} samples, seed {comparison.settings.seed}, "
        f"sorted by {metric(key).label}. T: the most steps that fit; passes: through the network, forward and "
        f"backward, a sample; seconds: measured, a sample. Bold: the best, and what differs from it by no more than "
        f"the standard error of the difference.\n\n"
    )


def _run(comparison: Comparison, opened: Opened, given: Given) -> None:
    """Runs what is not finished, prints the tables and writes them."""
    with writing(Path(comparison.settings.out)):
        _compare(comparison, opened, given)


def _compare(comparison: Comparison, opened: Opened, given: Given) -> None:
    command = shlex.join(["csb", "compare", *sys.argv[1:]])
    work, found, notes = opened
    fits: list[Fit] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    for i, contender in enumerate(found, start=1):
        logger.info("[%d/%d] %s", i, len(found), contender.label)
        fits += [work.fit(contender, budget) for budget in comparison.budgets]
    for budget in comparison.budgets:
        of = [fit for fit in fits if fit.budget == budget]
        notes = [*notes, *_remarks(budget, of, comparison.settings.steps)]
        rows: list[Row] = [fit.row for fit in of if fit.row is not None]
        if rows:
            title = f"{comparison.problem.name}, {_title(budget)} (* best within a standard error)"
            tables[title] = budget_table(rows, comparison.kind, ("", " *"))
    _write(comparison, work, fits, notes, command)
    for title, table in tables.items():
        print_table(table, title=title)
    for note in notes:
        print(note)
    own, where = comparison.settings, torch.device(work.field.device)
    provenance.record(Path(own.out), "compare", comparison.problem, where, None, own.seed, given)
    logger.info("tables: %s", Path(comparison.settings.out) / "compare.md")
