"""A run's folder: one writer at a time, nothing of another run is lost, and a record of what results were made with.

``provenance.json`` stands beside the results: versions, commit, device, seed, data and configuration. It holds an entry
for each job that wrote into the folder, by its name: a stage of the training ("bridge", "denoiser", …), "evaluate" or
"compare".
"""

import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import lightning
import numpy
import scipy
import torch
from filelock import FileLock, Timeout

import csb
from csb.errors import CSBError, in_one_line
from csb.files import CONTEXTS, OLD_SUFFIX, SUFFIX, checksum, model_file, read_json, remove_leftovers, write_json
from csb.networks.diffusion import CONDITIONAL
from csb.problems import FilePairs, Problem
from csb.problems.pixels import PixelProblem
from csb.runs.config import RunConfig
from csb.runs.logs import Logs
from csb.runs.recipe import DISTIL, STAGES
from csb.training.distil import NAME
from csb.training.stage import Setup

_LOCK = ".writing"  # it stays when it is released: to remove it would race with the next writer


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Inside, no other process writes results into the folder, which is made. A process may nest it.

    The operating system releases the lock however the process ends.

    Raises:
        CSBError: another process writes into the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder.resolve() / _LOCK), is_singleton=True)
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
    name = CONDITIONAL[stage].file if stage in CONDITIONAL else NAME if stage == DISTIL else stage
    return model_file(folder, name), model_file(folder, "state" if stage == "bridge" else f"{name}_state")


def check_folder(run: RunConfig) -> None:
    """Makes the folder. CSBError where it cannot be written, or holds a model of the stage that would be lost."""
    path, state = stage_files(run.folder, run.stage)
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
    others = [folder / name for name in (CONTEXTS, "config.json", "history.json", "reproduced.json", PROVENANCE)]
    for path in (folder / "result.json", *files, *others, *figures):
        path.unlink(missing_ok=True)
    for name in ("half_steps", "pictures"):
        shutil.rmtree(folder / name, ignore_errors=True)


PROVENANCE = "provenance.json"
PAIRS = 1000  # training pairs that the checksum is of
_SHOWN = 32  # numbers of the first pair that are kept, to tell other data from other rounding


def versions() -> dict[str, str]:
    """The versions of csb, Python and the packages that numbers depend on."""
    packages = {"torch": torch, "lightning": lightning, "numpy": numpy, "scipy": scipy}
    found = {name: str(module.__version__) for name, module in packages.items()}
    return {"csb": csb.__version__, "python": platform.python_version(), **found}


@cache
def git() -> dict[str, Any] | None:
    """{"commit", "dirty"} of the checkout that csb runs from; None where it is no checkout, or git is not there.

    "dirty" is whether a file under version control differs from the commit. Asked once a process: code is loaded once.
    """
    here = Path(csb.__file__).parent

    def ask(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may lie in a checkout of something else
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def device_of(where: torch.device, precision: str | None) -> dict[str, Any]:
    """The device, its name, the precision (None: of each model its own), and what rounding on a CPU depends on."""
    on_gpu = where.type == "cuda"
    return {
        "device": where.type,
        "name": torch.cuda.get_device_name(where) if on_gpu else _processor(),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def data_of(problem: Problem) -> dict[str, Any]:
    """Checksums of a prepared problem's data, as plain data.

    Returns:
        "pairs" and "sha256": how many training pairs come first, and the SHA-256 of their x and y as float32;
        "first": up to 32 numbers of the first of them; "files": of data from files their checksums by name, SHA-256
        of a file of pairs and MD5 of those of images, which are compared when they are loaded.
    """
    found = problem.first("train", PAIRS)
    parts = [part.detach().cpu().float().contiguous() for part in (found.x, found.y)]
    total = hashlib.sha256()
    for part in parts:
        total.update(part.numpy().tobytes())
    first = torch.cat([part[0].flatten()[:_SHOWN] for part in parts]).tolist()
    reported: dict[str, Any] = {"pairs": len(found.x), "sha256": total.hexdigest(), "first": first, "files": {}}
    if isinstance(problem, FilePairs):
        paths = [Path(name) for name in ((problem.path,) if problem.path else (problem.x, problem.y)) if name]
        reported["files"] = {path.name: checksum(path) for path in paths if path.is_file()}  # a torch Dataset has none
    if isinstance(problem, PixelProblem):
        reported["files"] = dict(problem.files(problem.root).md5)
    return reported


def environment(where: torch.device, precision: str | None) -> dict[str, Any]:
    """Versions, commit and device, as they are now."""
    return {"versions": versions(), "git": git(), "device": device_of(where, precision)}


def write_provenance(
    folder: Path,
    job: str,
    problem: Problem,
    where: torch.device,
    precision: str | None,
    seed: int,
    config: Mapping[str, Any],
    resumed: bool = False,
    **more: Any,
) -> None:
    """Writes a job's entry into the folder's ``provenance.json``; those of other jobs stay.

    A resumed job keeps the entry it began with, and tells in "resumed" where it went on.

    Args:
        folder: of the results.
        job: a stage, "evaluate" or "compare".
        problem: prepared.
        where, precision, seed: of the computation.
        config, more: plain data.
        resumed: whether the job goes on from a state.

    CSBError where the file cannot be written.
    """
    path = folder / PROVENANCE
    remove_leftovers(folder, PROVENANCE)
    try:
        before = read_provenance(folder)
    except CSBError:
        before = {}  # damaged, or of another kind: what is known now is written again
    now = environment(where, precision)
    if resumed and isinstance(begun := before.get(job), dict):
        entry = {**begun, "resumed": [*begun.get("resumed", []), now]}
    else:
        entry = {**now, "data": data_of(problem), "seed": seed, "config": config, **more}
    write_json(path, {**before, job: entry})


def read_provenance(folder: Path) -> dict[str, Any]:
    """The entries of a folder by job; none where it has no file. CSBError where the file is damaged."""
    path = folder / PROVENANCE
    return read_json(path) if path.exists() else {}


def record(run: RunConfig, resumed: bool, **more: Any) -> None:
    """Write what the run's stage is made with beside its results; see :func:`write_provenance`."""
    where, precision = run.device.where, run.device.precision
    write_provenance(run.folder, run.stage, run.problem, where, precision, run.seed, run.plain, resumed=resumed, **more)


def setup_of(run: RunConfig, fingerprint: dict[str, Any], logs: Logs, **more: Any) -> Setup:
    """What :mod:`csb.training` is given of a run; ``more`` goes with the trained model."""
    about = {"problem": run.problem.record(), "config": run.plain, "versions": versions(), **more}
    return Setup(run.folder, run.optimizer, run.device, run.seed, fingerprint, about, logs.metrics, run.progress)
