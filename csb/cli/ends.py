"""What ends a command: its errors in one line each, signals, and an output that nobody reads any more."""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from csb.errors import ENDING, CSBError, Terminated, ended_by
from csb.training.ranks import PEER_FAILED, peer_failed, reports_first

PARENT = "CSB_PARENT"  # the environment's variable that names the process of csb which started this one
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain(error: Exception) -> str | None:
    """The line that tells of an error which is no mistake of this program; None for one that is."""
    if peer_failed(error):
        return PEER_FAILED
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
    """Whether Python, torch's CPU allocator or a GPU has no memory left."""
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or on_cpu or no_memory


def fail(message: str | None, code: int = 2) -> NoReturn:
    """Print the line and end with the exit code. What a terminal would take for a command is shown as �.

    None, and what another process of the same training has said already, is not printed.
    """
    if message is not None and reports_first():
        message = "".join(c if c.isprintable() else "�" for c in message)
        with contextlib.suppress(OSError, ValueError):  # of a closed stderr
            print(f"error: {message}", file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):  # a closed output: the interpreter's last flush of it goes nowhere
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(code)


@contextlib.contextmanager
def ending(hint: str) -> Iterator[None]:
    """Inside, an error ends the process with one line and exit code 2, SIGTERM with 143, SIGHUP with 129.

    ``hint`` says what to do after a signal. What is a mistake of this program is raised as it is.
    """
    shown = logging.raiseExceptions
    logging.raiseExceptions = False  # a log line that cannot be written, e.g. to a closed pipe, ends nothing
    try:
        with terminable():
            yield
            if sys.stdout is not None:
                sys.stdout.flush()  # a closed pipe shows here and not, as noise, when the interpreter ends
    except KeyboardInterrupt:
        fail(f"interrupted; {hint}")
    except Terminated as end:
        fail(f"terminated by {signal.Signals(end.number).name}; {hint}", 128 + end.number)  # as shells have it
    except Exception as error:
        line = explain(error)
        if line is None:
            reports_first()  # by a traceback; the other processes keep quiet
            raise
        fail(None if line == PEER_FAILED and PARENT in os.environ else line)  # the parent tells who was killed
    finally:
        logging.raiseExceptions = shown


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Terminated, and Ctrl+C KeyboardInterrupt; whatever becomes of it, so does this.

    A fit notes them, and ends after its step (csb.training.fit). A handler that is there already, or that a signal is
    ignored, is left as it is; so is all outside the main thread.
    """
    come: list[int] = []

    def handler(number: int, frame: Any) -> None:
        come.append(number)
        raise ended_by(number)

    free = (signal.SIG_DFL, signal.default_int_handler)
    here = threading.current_thread() is threading.main_thread()
    before = {number: one for number in ENDING if here and (one := signal.getsignal(number)) in free}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    except BaseException as error:
        if not come or isinstance(error, KeyboardInterrupt | Terminated):
            raise
    finally:
        for number, one in before.items():
            signal.signal(number, one)
    if come:
        raise ended_by(come[-1])
