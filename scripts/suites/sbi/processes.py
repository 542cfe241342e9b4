"""Runs jobs: a process for each training and each scoring, several jobs side by side, output into log files."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import csb
from csb.cli.launch import THREADS
from csb.errors import CSBError
from csb.evaluation.table import write_json
from suites.sbi.plan import Job

_ROOT = Path(csb.__file__).resolve().parents[1]


class Outcome(NamedTuple):
    """What became of a job: seconds of its training and its scoring, and why it failed, empty where it did not."""

    job: Job
    training: float = 0.0
    scoring: float = 0.0
    failure: str = ""


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """A lock on the folder, as the descriptor of an open file. CSBError where another process holds it.

    Processes that inherit the descriptor hold it too: a training that outlives the suite is not started again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CSBError(f"{folder} is in use by another process; wait until it ends, or end it") from error
        yield file.fileno()


def _last_line(log: Path, start: int) -> str:
    """The last line of text in a log after byte ``start``."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


class Runner:
    """Runs jobs.

    Args:
        jobs: how many side by side.
        threads: of each process; None leaves them as they are.
        c2st_processes: of each scoring.
    """

    def __init__(self, jobs: int, threads: int | None, c2st_processes: int) -> None:
        self.jobs, self.c2st_processes = jobs, c2st_processes
        paths = [
            str(_ROOT),
            str(_ROOT / "scripts"),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        if threads is not None:
            self.environment |= dict.fromkeys(THREADS, str(threads))
        self._running: set[subprocess.Popen] = set()
        self._gate, self._stopped = threading.Lock(), False

    def run(self, jobs: list[Job]) -> Generator[Outcome, None, None]:
        """The outcome of each job as it ends. A caller that stops early ends the processes that still run."""
        pool = ThreadPoolExecutor(self.jobs)
        try:
            for future in as_completed([pool.submit(self._job, job) for job in jobs]):
                yield future.result()
        finally:
            with self._gate:
                self._stopped = True
                for process in self._running:
                    process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)

    def _job(self, job: Job) -> Outcome:
        """Trains, where that is not done, and scores."""
        start = trained = time.perf_counter()
        try:
            with _locked(job.folder) as lock:
                if not job.is_trained:
                    where = (f"out={job.folder.parent}", f"name={job.folder.name}")
                    train = ("-m", "csb", "train", *job.overrides, *where, "resume=true", "progress=false")
                    self._process(train, job.folder / "train.log", lock)
                trained = time.perf_counter()
                write_json(job.folder / "task.json", job.task)
                score = ("-m", "suites.sbi.work", str(job.folder), str(self.c2st_processes))
                self._process(score, job.folder / "score.log", lock)
        except (CSBError, OSError) as error:
            return Outcome(job, failure=str(error))
        return Outcome(job, trained - start, time.perf_counter() - trained)

    def _process(self, arguments: tuple[str, ...], log: Path, lock: int) -> None:
        """Runs Python in a process, its output added to ``log``. CSBError with the last line where it fails.

        -P: modules of the current folder do not take the place of others of the same name.
        """
        with log.open("ab") as file:
            start = file.tell()
            with self._gate:
                if self._stopped:
                    raise CSBError("the suite was stopped; run it again")
                process = subprocess.Popen(
                    [sys.executable, "-P", *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                    env=self.environment, pass_fds=(lock,),
                )  # fmt: skip
                self._running.add(process)
            code = process.wait()
            with self._gate:
                self._running.discard(process)
        if code:
            ended = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            raise CSBError(f"{_last_line(log, start)} ({ended}; see {log})")
