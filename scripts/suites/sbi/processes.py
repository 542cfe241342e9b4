"""Runs jobs: a process for each training and each scoring, several jobs side by side, output into log files."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from joblib import Parallel, delayed

import csb
from csb.cli.launch import THREADS
from csb.errors import CSBError
from csb.files import write_json
from suites.sbi.plan import Job
from suites.sbi.settings import SuiteSettings

_ROOT = Path(csb.__file__).resolve().parents[1]
_running: set[subprocess.Popen[Any]] = set()
_gate, _stopped = threading.Lock(), threading.Event()  # no process starts after the others were ended


class Outcome(NamedTuple):
    """What became of a job: seconds of its training and its scoring, and why it failed, empty where it did not."""

    job: Job
    training: float = 0.0
    scoring: float = 0.0
    failure: str = ""


def run(jobs: list[Job], settings: SuiteSettings) -> Generator[Outcome, None, None]:
    """The outcome of each job as it ends. A caller that stops early ends the processes that still run."""
    _stopped.clear()
    one = delayed(partial(_outcome, threads=settings.threads, c2st_processes=settings.c2st_processes))
    try:
        side_by_side: Any = Parallel(settings.jobs, backend="threading", return_as="generator_unordered")
        yield from side_by_side(map(one, jobs))
    finally:
        with _gate:
            _stopped.set()
            for process in _running:
                process.terminate()


def _outcome(job: Job, threads: int | None, c2st_processes: int) -> Outcome:
    """Trains, where that is not done, and scores; each process is the only one that writes into the folder."""
    start = trained = time.perf_counter()
    try:
        if not job.is_trained:
            where = (f"out={job.folder.parent}", f"name={job.folder.name}")
            train = ("-m", "csb", "train", *job.overrides, *where, "resume=true", "progress=false")
            process(train, job.folder / "train.log", threads)
        trained = time.perf_counter()
        write_json(job.folder / "task.json", job.task)
        process(("-m", "suites.sbi.work", str(job.folder), str(c2st_processes)), job.folder / "score.log", threads)
    except (CSBError, OSError) as error:
        return Outcome(job, failure=str(error))
    return Outcome(job, trained - start, time.perf_counter() - trained)


def process(arguments: tuple[str, ...], log: Path, threads: int | None) -> None:
    """Runs Python in a process, its output added to ``log``. CSBError with the last line where it fails.

    -P: modules of the current folder do not take the place of others of the same name.
    """
    paths = [str(_ROOT), str(_ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    environment |= {} if threads is None else dict.fromkeys(THREADS, str(threads))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        start = file.tell()
        command = [sys.executable, "-P", *arguments]
        output: Any = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        with _gate:
            if _stopped.is_set():
                raise CSBError("the suite was stopped; run it again")
            running = subprocess.Popen(command, env=environment, **output)
            _running.add(running)
        code = running.wait()
        with _gate:
            _running.discard(running)
    if code:
        text = log.read_bytes()[start:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        ended = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        raise CSBError(f"{lines[-1] if lines else 'no output'} ({ended}; see {log})")
