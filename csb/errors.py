"""The one exception that users see, and the commonest checks behind it."""

import os
import re
import signal
from collections.abc import Container
from numbers import Integral, Rational, Real
from pathlib import Path
from typing import Any, TypeGuard

LARGEST = 2**63 - 1  # of integers: what torch and csb's files hold
MOST_DRAWS = 1_000_000  # samples or observations that are scored or drawn as one
MOST_ROUNDS = 1000  # repetitions of a part of a step

_LONGEST = 255  # bytes of a name of a file


class CSBError(ValueError):
    """Bad input, configuration or file.

    The message is one line, complete by itself: it names the value, what was expected, and the remedy. Entry points
    print it without a traceback. A value whose text takes several lines, as that of a tensor, is put in one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"\s*\n\s*", " ", message))


# Ctrl+C; a scheduler that wants the machine back; a terminal that went away, which not every system has
ENDING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come; a running fit has saved its state first.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def ended_by(number: int) -> BaseException:
    """What a signal of ENDING is raised as: KeyboardInterrupt, as Python does it, or Terminated."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def in_one_line(error: BaseException, most: int = 200) -> str:
    """What an error says, in one line of at most so many characters; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def is_number(value: Any) -> bool:
    """Whether value is an integer, of at most 64 bits, or a float, numpy's too; True and False are none."""
    if isinstance(value, Integral):
        return is_int(value) and abs(int(value)) <= LARGEST
    return isinstance(value, Real) and not isinstance(value, Rational)


def is_int(value: Any) -> TypeGuard[int]:
    """Whether value is an integer, numpy's too; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_one_of(value: Any, choices: Container[str]) -> TypeGuard[str]:
    """Whether value is one of some names; a list or anything else that is no text is none."""
    return isinstance(value, str) and value in choices


def require_int(name: str, value: Any, low: int, high: int = LARGEST) -> int:
    """value as an int. CSBError unless it is an integer, numpy's too, in low..high, by default one of 64 bits."""
    if not is_int(value) or not low <= value <= high:
        limit = f"of at least {low}" if high == LARGEST else f"in {low}..{high}"
        raise CSBError(f"{name}={value!r} is not possible; give an integer {limit}")
    return int(value)


def place_fault(value: Any) -> str:
    """Why no file can be called value, and what to do; "" where one can."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip() or "\0" in str(value):
        return "names no folder or file; give its path"
    if max((len(os.fsencode(part)) for part in Path(value).parts), default=0) > _LONGEST:
        return "is longer than names of files can be; give a shorter one"
    return ""


def require_place(name: str, value: Any) -> Path:
    """The path that value stands for. CSBError for what no file can be called."""
    if fault := place_fault(value):
        raise CSBError(f"{name}={value!r:.60} {fault}")
    return Path(value)


def require_flag(name: str, value: Any) -> None:
    """CSBError unless value is True or False, or numpy's."""
    if not isinstance(value, bool) and getattr(getattr(value, "dtype", None), "kind", None) != "b":
        raise CSBError(f"{name}={value!r} is neither true nor false; give one of them")
