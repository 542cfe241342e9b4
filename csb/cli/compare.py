"""csb compare: all methods on one problem at equal network passes and at equal seconds."""

import logging
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from csb.evaluation.table import print_table
from csb.runs import provenance
from csb.runs.budgets import read
from csb.runs.compare import Work
from csb.runs.folder import check_writable, writing
from csb.schema import Given

logger = logging.getLogger(__name__)


def prepare(given: Given) -> Callable[[], None]:
    """The comparison. CSBError where a value is wrong, a folder is missing, or no method works."""
    work = Work(read(given))
    check_writable(Path(work.comparison.settings.out))
    return partial(_run, work, given)


def _run(work: Work, given: Given) -> None:
    """Runs what is not finished, prints the tables and writes them."""
    own, out = work.comparison.settings, Path(work.comparison.settings.out)
    with writing(out):
        tables, notes = work.run(shlex.join(["csb", "compare", *sys.argv[1:]]))
        for title, table in tables.items():
            print_table(table, title=title)
        for note in notes:
            print(note)
        provenance.record(
            out, "compare", work.comparison.problem, torch.device(work.sources.device), None, own.seed, given
        )
        logger.info("tables: %s", out / "compare.md")
