"""One job of a sweep of csb train, which Hydra calls, perhaps in a process of its own."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from csb.cli.ends import explain
from csb.cli.folders import job_folder  # noqa: F401 (whose import makes it known to Hydra, also in a worker process)
from csb.cli.launch import is_requeued, take_gpu
from csb.cli.sweep import MARKER, read_json, write_marker
from csb.evaluation.table import write_json
from csb.runs.config import read
from csb.runs.load import finished
from csb.runs.register import Imports
from csb.runs.train import train
from csb.training.ranks import PEER_FAILED, Ranks, init, peer_failed, reports_first

logger = logging.getLogger(__name__)


def with_modules(own: Imports) -> Callable[[DictConfig], dict[str, Any] | None]:
    """:func:`main` after the user's own modules are imported, also in a process of its own that a launcher starts."""

    @functools.wraps(main)
    def job(config: DictConfig) -> dict[str, Any] | None:
        own.load()
        return main(config)

    return job


@contextlib.contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Inside, what is logged goes to ``train.log`` in the folder as well, which jobs side by side do not share."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def main(config: DictConfig) -> dict[str, Any] | None:
    """Trains one run of a sweep, in the job's own folder. Whatever ends it is reported there; the other jobs go on."""
    hydra = HydraConfig.get()
    with _logged(Path(hydra.sweep.dir) / str(hydra.sweep.subdir)):
        return _job(config)


def _job(config: DictConfig) -> dict[str, Any] | None:
    take_gpu()
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir) / str(hydra.sweep.subdir)
    given: Any = OmegaConf.to_container(config, resolve=True)
    given |= {"out": hydra.sweep.dir, "name": hydra.sweep.subdir}
    left_out = list(hydra.job.config.override_dirname.exclude_keys)
    try:
        device = read(given).device
        ranks = init(device) if device.world > 1 else Ranks.of(device)  # check_launch has seen to the tasks
        if ranks.broadcast(is_requeued(hydra, str(hydra.job.id), read_json(folder / MARKER))):
            given |= {"resume": True, "overwrite": False}
        if ranks.is_rank_zero:
            overrides = [str(text) for text in hydra.overrides.task]
            write_marker(folder, overrides, given["L"], given["T"], given["seed"], str(hydra.job.id), left_out)
        return train(read(given))
    except Exception as error:
        message = PEER_FAILED if peer_failed(error) else explain(error)
        if message is None:  # not known to this program: its traceback is printed
            logger.exception("%s", folder)
            message = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if not reports_first():
        return None
    logger.error("%s: %s", folder, message)
    if finished(folder) is None:
        write_json(folder / "result.json", {"L": given["L"], "T": given["T"], "error": message})
    return None
