"""Commands on finished runs: csb evaluate, which scores one, and csb compare, which compares methods on a problem."""

import logging
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pydantic import Field

from csb.evaluation.scores import MetricsSettings, SamplerSettings
from csb.evaluation.table import print_table
from csb.runs.budgets import read
from csb.runs.compare import Work
from csb.runs.evaluate import compare_run, evaluate
from csb.runs.folder import check_writable, write_provenance, writing
from csb.runs.load import load_run
from csb.runs.recipe import BaselineSettings
from csb.schema import Given, Place, Schema, Whole


class EvaluateSettings(Schema):
    """What is scored, and what it is compared with."""

    run: Place = Field(description="the folder of a finished run")
    others: list[Place] = []
    """Folders of more runs on the same problem, e.g. at another T, to compare with."""
    tables: bool = True
    """Score every iteration of the bridge; false: only the comparison with other samplers."""
    seed: Whole = Field(default=0, description="of all samples")
    sampler: SamplerSettings = Field(description="how samples are drawn")
    metrics: MetricsSettings = Field(description="how much is drawn")
    baselines: BaselineSettings = Field(description="what is compared with")


def prepare(given: Given) -> Callable[[], None]:
    """The evaluation of one run. CSBError where a value is wrong or a run is not there."""
    read = EvaluateSettings.read(given)
    for folder in (read.run, *read.others):
        load_run(folder).bridge.timesteps(read.sampler.refine, read.sampler.sample_steps)
    return partial(_evaluate, read, given)


def _evaluate(read: EvaluateSettings, given: Given) -> None:
    with writing(Path(read.run)):  # the bridge is read, and its results written, while no other process trains it
        run, others = load_run(read.run), [load_run(folder) for folder in read.others]
        if read.tables:
            evaluate(run, read.sampler, read.metrics, read.seed)
        command = shlex.join(["csb", "evaluate", *sys.argv[1:]])
        compare_run(run, others, read.baselines, read.sampler, read.metrics, read.seed, command)
        where, precision = run.bridge.device, run.bridge.precision
        write_provenance(run.folder, "evaluate", run.problem, where, precision, read.seed, given)


logger = logging.getLogger(__name__)


def prepare_comparison(given: Given) -> Callable[[], None]:
    """The comparison. CSBError where a value is wrong, a folder is missing, or no method works."""
    work = Work(read(given))
    check_writable(Path(work.comparison.settings.out))
    return partial(_compare, work, given)


def _compare(work: Work, given: Given) -> None:
    """Runs what is not finished, prints the tables and writes them."""
    own, out = work.comparison.settings, Path(work.comparison.settings.out)
    with writing(out):
        tables, notes = work.run(shlex.join(["csb", "compare", *sys.argv[1:]]))
        for title, table in tables.items():
            print_table(table, title=title)
        for note in notes:
            print(note)
        write_provenance(
            out, "compare", work.comparison.problem, torch.device(work.sources.device), None, own.seed, given
        )
        logger.info("tables: %s", out / "compare.md")
