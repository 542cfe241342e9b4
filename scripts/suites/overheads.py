"""What a run's sampling costs beyond its network calls, and what its cache took."""

from pydantic import Field

from csb.evaluation.table import print_table
from csb.runs.load import load_run
from csb.schema import Count, Given, Place, Schema
from suites.settings import suite_settings
from suites.timing import sampling_overhead


class OverheadSettings(Schema):
    """See conf/suite/overheads.yaml."""

    run: Place = Field(description="the folder of a finished run")
    observations: Count = Field(description="of the test split")
    samples: Count = Field(description="of each")
    repeats: Count = Field(description="of each timing")


def check(given: Given) -> None:
    """CSBError where a number is wrong or the run is not there."""
    load_run(suite_settings(OverheadSettings, given).run)


def overheads(given: Given) -> None:
    """Prints the tables of one run."""
    own = suite_settings(OverheadSettings, given)
    run = load_run(own.run)
    y = run.problem.pairs("test", own.observations).y
    row = sampling_overhead(run.bridge, y, own.samples, own.repeats)
    print_table([row], title="Bridge.sample against its T bare network calls (medians)")
    rows = [{key: row[key] for key in ("half_step", "fill_share", "cache_mib")} for row in run.history]
    print_table(rows, title="cache filling as a share of each half-step's time, and the cache's size")
