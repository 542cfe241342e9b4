"""Input that nobody meant: values of every kind, the keys that they are put in, and what is asked of the answer."""

import contextlib
import copy
import math
import random
import re
import resource
import signal
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from csb.cli.compose import composed
from csb.errors import CSBError

SECONDS = 30  # that one case may take, on a busy machine
MORE = 6 * 2**30  # bytes that a process may take beside what it has: what is larger fails at once

EDGES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2.5, -0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf, 2**31, 2**63, 10**30,
    10**400, "", " ", "x", "1", "nan", "auto", "ü∀\u202e", "a\nb", "a\x1b[2J", "x" * 300, "a/../..", "~", [], [[]],
    [0], [math.nan], [1, "x"], [None], {}, {"a": {"b": 1}}, {"name": "x"}, [1e300], [-1], [10**30],
)  # fmt: skip


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within, a case that takes too long, or too much memory, fails in place of the machine."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE, before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def answer(call: Callable[[], Any], *names: str) -> str | None:
    """The one line with which a call refuses, or None where it accepts.

    AssertionError for anything else: another exception, a warning, a line that is none, or one that holds none of
    ``names``.
    """
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("error")
            call()
    except CSBError as error:
        message = str(error)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:300]}") from error
    else:
        return None
    assert "\n" not in message, message
    assert 10 < len(message) < 700, message
    assert not names or any(name in message for name in names), f"{message}: none of {names}"
    return message


def shown(value: Any) -> tuple[str, ...]:
    """How a message may show a value: as it is, or its beginning."""
    return tuple(text[:20] for text in (repr(value), str(value)) if text.strip())


def draw(values: Sequence[Any], count: int, name: str) -> list[Any]:
    """``count`` of the values, the same in every run and others for another name."""
    return random.Random(zlib.crc32(name.encode())).sample(values, min(count, len(values)))


def try_values(
    calls: dict[str, Callable[[Any], Any]],
    count: int,
    values: Sequence[Any] = EDGES,
    afterwards: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Calls each of ``calls``, by name, with ``count`` of the values. AssertionError tells all failures.

    What refuses names the value, or a word of the call's name. Returns how many cases were refused and accepted;
    ``afterwards`` is asked after each.
    """
    failures, cases = [], {"refused": 0, "accepted": 0}
    for name, call in calls.items():
        for value in draw(values, count, name):
            try:
                reported = answer(lambda call=call, value=value: call(value), *re.split("[ .(]+", name), *shown(value))
                afterwards()
            except AssertionError as error:
                failures.append(f"{name} of {value!r:.100}: {error}")
            else:
                cases["refused" if reported else "accepted"] += 1
    assert not failures, "\n".join([f"{len(failures)} of {sum(cases.values()) + len(failures)} cases:", *failures])
    return cases


def base(command: str, *overrides: str) -> dict[str, Any]:
    """What a command is given, as plain data."""
    return composed(command, overrides)


def keys(config: dict[str, Any], within: str = "") -> list[str]:
    """The dotted names of all values and groups of a configuration, or those within one group."""
    found: list[str] = []

    def walk(node: dict[str, Any], prefix: str) -> None:
        for key, inner in node.items():
            found.append(f"{prefix}{key}")
            if isinstance(inner, dict):
                walk(inner, f"{prefix}{key}.")

    walk(config[within] if within else config, f"{within}." if within else "")
    return found


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a key, as an override of the command line would put it there."""
    config = inner = copy.deepcopy(config)
    *above, last = key.split(".")
    for name in above:
        inner = inner[name]
    inner[last] = value
    return config
