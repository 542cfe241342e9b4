"""The suite from its settings to its table: python scripts/benchmark.py suite=sbi."""

import logging
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from csb.evaluation.plots import draw_curves
from csb.evaluation.table import markdown_table, print_table
from csb.files import write_json, write_text
from csb.runs.folder import check_writable
from csb.schema import Given
from suites.machine import machine
from suites.sbi.plan import Job, plan
from suites.sbi.processes import Outcome, run
from suites.sbi.settings import SuiteSettings, read
from suites.scores import PUBLISHED, suite_panels, suite_tables

logger = logging.getLogger(__name__)


def check(given: Given) -> Callable[[], None]:
    """Checks the suite's own settings. Returns the check of every job's training and of the folder."""
    settings = read(given)

    def later() -> None:
        plan(settings)
        check_writable(Path(settings.out))

    return later


def suite(given: Given) -> None:
    """Runs what is not done yet, and collects everything after each job. Exit code 1 where a job failed."""
    settings = read(given)
    jobs = plan(settings)
    waiting = [job for job in jobs if job.rows() is None]
    logger.info("%d jobs in %s, %d of them finished", len(jobs), settings.out, len(jobs) - len(waiting))
    failures: dict[str, str] = {}
    with closing(run(waiting, settings)) as outcomes:
        for i, outcome in enumerate(outcomes, start=1):
            logger.info("[%d/%d] %s", i, len(waiting), _told(outcome))
            if outcome.failure:
                failures[outcome.job.name] = outcome.failure
            collect(jobs, settings, failures)
    for title, rows in collect(jobs, settings, failures).items():
        print_table(rows, title=title)
    logger.info("tables: %s", Path(settings.out) / "suite.md")
    if failures:
        print(f"error: {len(failures)} of {len(jobs)} jobs failed; fix the cause and run again:", file=sys.stderr)
        for name, failure in failures.items():
            print(f"  {name}: {failure}", file=sys.stderr)
        raise SystemExit(1)


def _told(outcome: Outcome) -> str:
    if outcome.failure:
        return f"{outcome.job.name}: failed: {outcome.failure}"
    return f"{outcome.job.name}: trained in {outcome.training:.0f} s, scored in {outcome.scoring:.0f} s"


def collect(jobs: list[Job], settings: SuiteSettings, failures: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """``suite.json``, ``suite.md`` and ``suite.png`` of the jobs that are finished under these settings; the tables."""
    found = [(job, job.rows()) for job in jobs]
    rows = [row for _, of_job in found if of_job is not None for row in of_job]
    missing = [job.name for job, of_job in found if of_job is None]
    out = Path(settings.out)
    tables = suite_tables(rows, PUBLISHED)
    picture = draw_curves(out / "suite.png", suite_panels(rows, PUBLISHED))
    own = [one._asdict() for one in PUBLISHED if one.problem in settings.problems]
    about = {"settings": settings, "machine": machine(torch.device("cpu")), "rows": rows, "published": own}
    write_json(out / "suite.json", {**about, "missing": missing, "failures": failures})
    text = _head(settings)
    if missing:
        text += "Not finished: " + "; ".join(missing) + ".\n\n"
    text += "".join(f"## {title}\n\n{markdown_table(table)}\n" for title, table in tables.items())
    write_text(out / "suite.md", text + ("![C2ST against network calls](suite.png)\n" if picture else ""))
    return tables


def _head(settings: SuiteSettings) -> str:
    """What the tables hold, in words."""
    score = settings.score
    return (
        f"# Suite {settings.name}\n\n"
        f"Against the exact posterior, on {score.observations} test observations × {score.samples} samples. C2ST: mean "
        f"± standard error over the first {score.c2st_observations} of them × {score.c2st_samples} samples; ½ is best. "
        f"Sliced W: W_1 over {score.projections} directions; its floor is that of exact against exact samples. The "
        f"columns are numbers of training pairs; several seeds are averaged. Training seconds of L iterations are "
        f"those until the end of the L-th backward half-step.\n\n"
    )
