"""The one exception that users see, and the commonest checks behind it."""

from typing import Any


class CSBError(ValueError):
    """Bad input, configuration or file.

    The message is one line, complete by itself: it names the value, what was expected, and the remedy. Entry points
    print it without a traceback.
    """


class Terminated(BaseException):
    """SIGTERM has come, as from a scheduler that wants the machine back; a running fit has saved its state first."""


def in_one_line(error: BaseException, most: int = 200) -> str:
    """What an error says, in one line of at most so many characters; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def is_number(value: Any) -> bool:
    """Whether value is an integer or a float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_int(name: str, value: Any, low: int, high: float = float("inf")) -> None:
    """CSBError unless value is an integer in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        limit = f"of at least {low}" if high == float("inf") else f"in {low}..{high:g}"
        raise CSBError(f"{name}={value!r} is not possible; give an integer {limit}")
