"""A folder has one writer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from csb.errors import CSBError, in_one_line

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
