"""What results were made with: versions, commit, device, seed, data and configuration, in ``provenance.json``.

The file stands beside the results and holds an entry for each job that wrote into the folder, by its name: a stage of
the training ("bridge", "denoiser", …), "evaluate" or "compare".
"""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import lightning
import numpy
import scipy
import torch

import csb
from csb.errors import CSBError
from csb.evaluation.table import write_json
from csb.files import checksum, read_json, remove_leftovers
from csb.problems import FilePairs, Problem
from csb.problems.tasks import mnist
from csb.problems.tasks.mnist_problem import MnistProblem

FILE = "provenance.json"
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
        of a file of pairs and MD5 of those of MNIST, which are compared when they are loaded.
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
    if isinstance(problem, MnistProblem):
        reported["files"] = dict(mnist.MD5)
    return reported


def environment(where: torch.device, precision: str | None) -> dict[str, Any]:
    """Versions, commit and device, as they are now."""
    return {"versions": versions(), "git": git(), "device": device_of(where, precision)}


def record(
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
    path = folder / FILE
    remove_leftovers(folder, FILE)
    try:
        before = read(folder)
    except CSBError:
        before = {}  # damaged, or of another kind: what is known now is written again
    now = environment(where, precision)
    if resumed and isinstance(begun := before.get(job), dict):
        entry = {**begun, "resumed": [*begun.get("resumed", []), now]}
    else:
        entry = {**now, "data": data_of(problem), "seed": seed, "config": config, **more}
    write_json(path, {**before, job: entry})


def forget(folder: Path, job: str) -> None:
    """Takes a job's entry out, where there is one: its results are no more."""
    try:
        entries = read(folder)
    except CSBError:
        return
    if entries.pop(job, None) is not None:
        write_json(folder / FILE, entries)


def read(folder: Path) -> dict[str, Any]:
    """The entries of a folder by job; none where it has no file. CSBError where the file is damaged."""
    path = folder / FILE
    return read_json(path) if path.exists() else {}
