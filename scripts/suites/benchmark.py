"""The benchmarks by the name of their suite: what checks their config before any work, and what does the work."""

from collections.abc import Callable
from functools import partial
from typing import Any

from csb.errors import CSBError, is_one_of
from csb.schema import Given
from suites import filtering, memory, mixture, overheads, sbi, speed, target

SUITES: dict[str, tuple[Callable[[Given], Any], Callable[[Given], None]]] = {
    "overheads": (overheads.check, overheads.overheads),
    "mixture": (mixture.read, mixture.mixture),
    "filtering": (filtering.read, filtering.filtering),
    "memory": (memory.read, memory.memory),
    "sbi": (sbi.check, sbi.suite),
    "speed": (speed.check, speed.speed),
    "target": (target.check, target.target),
}


def prepare(given: Given) -> Callable[[], None]:
    """The chosen suite, its settings checked."""
    group = given.get("suite")
    name = group.get("name") if isinstance(group, dict) else None
    if not is_one_of(name, SUITES):
        raise CSBError(f"suite={name!r} is unknown; choose one of {', '.join(SUITES)}")
    check, run = SUITES[name]
    if callable(later := check(given)):
        later()
    return partial(run, given)
