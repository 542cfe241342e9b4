"""What a run's sampling costs beyond its network calls, and what its cache took."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.errors import require_int
from csb.evaluation.speed import sampling_overhead
from csb.evaluation.tables import print_table
from csb.run.load import Run, load_run, run_folder


def _read(config: DictConfig) -> tuple[Run, dict[str, Any]]:
    plain: Any = OmegaConf.to_container(config)
    for name in ("observations", "samples", "repeats"):
        require_int(name, plain[name], 1)
    return load_run(run_folder(config)), plain


def check(config: DictConfig) -> None:
    """CSBError where a number is wrong or the run is not there."""
    _read(config)


def overheads(config: DictConfig) -> None:
    """Prints the tables of one run."""
    run, plain = _read(config)
    y = run.problem.pairs("test", plain["observations"]).y
    row = sampling_overhead(run.bridge, y, plain["samples"], plain["repeats"])
    print_table([row], title="Bridge.sample against its T bare network calls (medians)")
    rows = [{key: row[key] for key in ("half_step", "fill_share", "cache_mib")} for row in run.history]
    print_table(rows, title="cache filling as a share of each half-step's time, and the cache's size")
