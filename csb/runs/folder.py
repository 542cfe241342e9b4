"""A run's folder while results are written: one writer at a time, and nothing of another run is lost."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from csb.errors import CSBError, in_one_line
from csb.files import OLD_SUFFIX, SUFFIX, model_file
from csb.problems import Problem
from csb.runs import provenance
from csb.runs.config import RunConfig
from csb.runs.recipe import DISTIL, STAGES
from csb.training.distil import NAME

FILE = ".writing"  # it stays when it is released: to remove it would race with the next writer


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Inside, no other process writes results into the folder, which is made. A process may nest it.

    The operating system releases the lock however the process ends.

    Raises:
        CSBError: another process writes into the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder.resolve() / FILE), is_singleton=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CSBError(
            f"another process writes into {folder}; wait until it ends, or choose another folder with name=… or out=…"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise CSBError(f"cannot lock {folder} ({in_one_line(error)}); choose another folder with out=…") from error
    try:
        yield
    finally:
        lock.release()


def stage_files(folder: Path, stage: str) -> tuple[Path, Path]:
    """The file of a stage's model, and that of the state of its training."""
    name = NAME if stage == DISTIL else stage
    return model_file(folder, name), model_file(folder, "state" if stage == "bridge" else f"{name}_state")


def check_folder(run: RunConfig) -> None:
    """Makes the folder. CSBError where it cannot be written, or holds a model of the stage that would be lost."""
    path, state = stage_files(run.folder, run.stage)
    if run.folder.is_file():
        raise CSBError(f"{run.folder} is a file; remove it or choose another name=…")
    if path.exists() and not state.exists() and run.resume:
        raise CSBError(f"{path} is there, and no {state.name} to resume from; choose overwrite=true or another name=…")
    if (path.exists() or state.exists()) and not (run.resume or run.overwrite):
        what = f"{run.folder} already holds a run" if run.stage == "bridge" else f"{path} is there already, or begun"
        raise CSBError(f"{what}; continue it with resume=true, or choose overwrite=true or another name=…")
    check_writable(run.folder)


def check_writable(folder: Path, remedy: str = "out=…") -> None:
    """Makes the folder. CSBError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CSBError(f"cannot write to {folder}: {error.strerror}; choose another folder with {remedy}") from error


def require_same_pairs(folder: Path, of: dict[str, Any], problem: Problem) -> None:
    """CSBError where own pairs are not those that the bridge of a folder was trained on, of which ``of`` tells."""
    then, now = of.get("problem", {}).get("digest"), problem.record().get("digest")
    if None not in (then, now) and then != now:
        where = problem.spec()["path"] or "the files of now"
        raise CSBError(f"{folder} holds a bridge of other pairs than {where}; restore them, or choose another name=…")


def clean(folder: Path) -> None:
    """Removes all that csb wrote beside an earlier bridge (overwrite=true); what it did not write stays.

    The order is such that a kill leaves the old run or none to resume.
    """
    models, states = zip(*(stage_files(folder, stage) for stage in STAGES))
    files = [path.with_suffix(suffix) for path in (*models, *states) for suffix in (SUFFIX, OLD_SUFFIX)]
    figures = [folder / f"{name}.{end}" for name in ("evaluation", "report") for end in ("json", "md", "png", "html")]
    others = [folder / name for name in ("config.json", "history.json", "reproduced.json", provenance.FILE)]
    for path in (folder / "result.json", *files, *others, *figures):
        path.unlink(missing_ok=True)
    for name in ("half_steps", "pictures"):
        shutil.rmtree(folder / name, ignore_errors=True)
