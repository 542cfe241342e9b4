"""Times a run's sampling, and prints what its cache took: python scripts/benchmark.py run=outputs/mnist_inpaint."""

from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from csb.errors import require_int
from csb.evaluation.speed import sampling_overhead
from csb.evaluation.tables import print_table
from csb.run import cli
from csb.run.load import Run, load_run, run_folder


def _read(config: DictConfig) -> tuple[Run, dict[str, Any]]:
    plain: Any = OmegaConf.to_container(config)
    for name in ("observations", "samples", "repeats"):
        require_int(name, plain[name], 1)
    return load_run(run_folder(config)), plain


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
@cli.told
def main(config: DictConfig) -> None:
    """Prints the tables of one run."""
    run, plain = _read(config)
    y = run.problem.pairs("test", plain["observations"]).y
    row = sampling_overhead(run.bridge, y, plain["samples"], plain["repeats"])
    print_table([row], title="Bridge.sample against its T bare network calls (medians)")
    rows = [{key: row[key] for key in ("half_step", "fill_share", "cache_mib")} for row in run.history]
    print_table(rows, title="cache filling as a share of each half-step's time, and the cache's size")


if __name__ == "__main__":
    cli.run(main, "benchmark", lambda config, sweep: _read(config), "nothing was changed")
