"""What ends a command: its errors in one line each, signals, and an output that nobody reads any more."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from csb.errors import ENDING, CSBError, Terminated, ended_by
from csb.training.ranks import reports_first

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain(error: Exception) -> str | None:
    """The line that tells of an error which is no mistake of this program; None for one that is."""
    if isinstance(error, CSBError):
        return str(error)
    if is_out_of_memory(error):
        return (
            "out of memory; lower training.batch_size, training.cache_bytes or the network's size, or give the job "
            "more memory; what a training has saved is kept, and resume=true goes on from it with the same settings"
        )
    if isinstance(error, BrokenPipeError):
        return "the output was closed before all of it was written; files are not affected"
    if isinstance(error, OSError):
        remedy = "free space" if error.errno in _NO_SPACE else "check the path and its permissions"
        return f"{error.filename or 'a file'}: {error.strerror or error}; {remedy} or choose another folder"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch's CPU allocator or a GPU has no memory left.

    Libraries make other errors of that (``inspect`` a TypeError), so that what an error came of counts as well.
    """
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or on_cpu or no_memory:
        return True
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return before is not None and is_out_of_memory(before)


def fail(message: str | None, code: int = 2) -> NoReturn:
    """Prints the line and ends with the exit code. What a terminal would take for a command is shown as �.

    None, and what another process of the same training has said already, is not printed.
    """
    if message is not None and reports_first():
        message = "".join(c if c.isprintable() else "�" for c in message)
        with contextlib.suppress(OSError, ValueError):  # of a closed stderr
            print(f"error: {message}", file=sys.stderr, flush=True)
    _drop_output()
    raise SystemExit(code)


def flush_output() -> None:
    """Writes what is still buffered, so that a closed pipe shows here and not, as noise, when the interpreter ends."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_output() -> None:
    """Where an output is closed, the interpreter's last flush of it goes nowhere."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Ended:
    """What ends a command by a signal: raised where it comes, and again where nothing came of that.

    A destructor, or a callback of the garbage collector, prints what is raised inside of it and goes on; a library may
    take it for a mistake of its own.
    """

    number = 0
    every = 0.5  # seconds

    def __call__(self, number: int, frame: Any) -> NoReturn:
        self.number = number
        signal.setitimer(signal.ITIMER_REAL, self.every, self.every)
        raise ended_by(self.number)

    def again(self, number: int, frame: Any) -> None:
        handled = sys.exception()
        while handled is not None and not isinstance(handled, KeyboardInterrupt | Terminated):
            handled = handled.__context__
        if handled is None and self.number:
            raise ended_by(self.number)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Terminated, and Ctrl+C KeyboardInterrupt; whatever becomes of it, so does this.

    A fit notes them, and ends after its step (csb.training.fit). A handler that is there already, or that a signal is
    ignored, is left as it is; so is all outside the main thread.
    """
    ended, here = _Ended(), threading.current_thread() is threading.main_thread()
    handlers = {number: ended for number in ENDING}
    free = (signal.SIG_DFL, signal.default_int_handler)
    before = {n: signal.getsignal(n) for n in handlers if here and signal.getsignal(n) in free}
    if before:
        handlers, before = {**handlers, signal.SIGALRM: ended.again}, {**before, signal.SIGALRM: signal.SIG_DFL}
    try:
        for number in before:
            signal.signal(number, handlers[number])
        yield
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException:
        if ended.number:
            raise ended_by(ended.number) from None
        raise
    finally:
        if signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if ended.number:
        raise ended_by(ended.number)


__all__ = ["explain", "fail", "flush_output", "is_out_of_memory", "terminable"]
