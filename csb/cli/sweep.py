"""A sweep: its jobs, each in a folder of its own, and at its end tables and heat maps over them."""

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from csb import files
from csb.cli.commands import Imports
from csb.cli.ends import explain
from csb.cli.launch import is_requeued, take_gpu
from csb.errors import CSBError
from csb.evaluation.sweep import Job, cell_rows, cells, draw_sweep, is_swept, job_rows, main_score
from csb.evaluation.table import markdown_table, print_table
from csb.files import write_json, write_text
from csb.renamed import scores_of_today
from csb.runs.config import read
from csb.runs.load import finished
from csb.runs.train import train
from csb.training.ranks import PEER_FAILED, Ranks, init, peer_failed, reports_first

MARKER = "job.json"  # written when a job begins, so that one that is killed shows in the table
UNFINISHED = "did not finish"
_APART = ("L", "T", "seed")
_LONGEST = 150  # bytes of the name of a job's folder; file systems allow 255
_PLAIN = "defaults"  # the folder of a job without overrides
logger = logging.getLogger(__name__)


def write_marker(
    folder: Path, overrides: list[str], L: int, T: int, seed: int, job_id: str, left_out: list[str]
) -> None:
    """Notes in the job's folder what it is, but for the keys ``left_out``; ``job_id`` is the launcher's."""
    pairs = (text.lstrip("+~").partition("=") for text in overrides)
    settings = {key: value for key, _, value in pairs if key not in (*_APART, *left_out)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARKER, {"id": job_id, "L": L, "T": T, "seed": seed, "settings": settings})


def read_json(path: Path) -> dict[str, Any] | None:
    """None where the file is not there; an error as its content where it is damaged."""
    try:
        return files.read_json(path) if path.exists() else None
    except CSBError:
        return {"error": f"{path.name} is damaged"}


def collect(folder: Path) -> list[Job]:
    """The jobs found in the folder of a sweep, by name."""
    jobs = []
    for path in sorted(folder.glob("*/")):
        begun, result = read_json(path / MARKER), scores_of_today(read_json(path / "result.json"))
        if begun is None and result is None:
            continue
        begun, result = begun or {}, {"error": UNFINISHED} if result is None else dict(result)
        error, known = result.pop("error", None), {**result, **begun}
        L, T, seed = (known.get(key) for key in _APART)
        jobs.append(Job(path.name, L, T, seed, begun.get("settings", {}), {} if error else result, error))
    return jobs


def report(folder: Path) -> bool:
    """Prints the tables of a sweep, over L × T and one row a job, and writes them and the heat map into its folder.

    ``table.md``, ``table.json`` and ``heatmap.png``; the heat map and the table over L × T where one of them is swept.
    False where the folder holds no job. CSBError where it cannot be written.
    """
    jobs = collect(folder)
    if not jobs:
        return False
    found, score, rows = cells(jobs), main_score(jobs), job_rows(jobs)
    failed = sum(job.error is not None for job in jobs)
    title = f"{len(jobs)} jobs in {folder}" + (f", {failed} of them failed" if failed else "")
    text, table = "", []
    if is_swept(found):
        table = cell_rows(found)
        name = f"L × T: {score.key}, {score.label} ({score.sense})" if score else "L × T"
        print_table(table, title=name)
        text = f"## {name}\n\n{markdown_table(table)}\n## Jobs\n\n"
    print_table([{k: v for k, v in row.items() if k != "job"} for row in rows], title=title)  # the names are long
    write_text(folder / "table.md", text + markdown_table(rows))
    about = {"key": score.key, "label": score.label, "better": score.direction} if score else None
    write_json(folder / "table.json", {"score": about, "cells": table, "jobs": rows})
    if draw_sweep(folder / "heatmap.png", found, score):
        print(f"heat map: {folder / 'heatmap.png'}")
    return True


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


def job_folder(overrides: str) -> str:
    """A folder's name from a job's overrides: one folder deep, and shortened, with a hash, where it is too long."""
    name = overrides.replace("/", "_") or _PLAIN
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}-{hashlib.sha256(overrides.encode()).hexdigest()[:10]}"


# For hydra.sweep.subdir of conf/train.yaml, also in the worker processes of a launcher, which import this module with
# the job before they name its folder.
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


# For hydra.run.dir: a student goes into the folder of its bridge, or one of its own.
OmegaConf.register_new_resolver("run_folder", lambda own, run, out: str(out or run or own), replace=True)
