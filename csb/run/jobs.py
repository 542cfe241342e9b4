"""What a job of train.py does, alone or in a sweep."""

import logging
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from csb.errors import CSBError
from csb.evaluation.tables import print_table, write_json
from csb.run.config import read
from csb.run.train import check_folder, train

logger = logging.getLogger(__name__)


def validate(config: DictConfig, sweep: bool = False) -> None:
    """The whole check of one job's config; of its folder too, unless Hydra has yet to name it (in a sweep)."""
    run = read(config)
    if not sweep:
        check_folder(run)


def job(config: DictConfig) -> dict[str, Any] | None:
    """Trains one run. In a sweep the folder is the job's own, and an error is told in its row of the table."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        result = train(read(config))
        rows = [{"figure": key, "value": value} for key, value in result.items()]
        print_table(rows, title=f"{config.out}/{config.name}")
        return result
    with open_dict(config):
        config.out, config.name = hydra.sweep.dir, hydra.sweep.subdir
    run = read(config)
    try:
        check_folder(run)
        return train(run)
    except CSBError as error:
        logger.error("%s: %s", run.folder, error)
        if not (run.folder / "state.pt").exists():
            write_json(run.folder / "result.json", {"L": run.ipf.L, "T": run.grid.T, "error": str(error)})
        return None
