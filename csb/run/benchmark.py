"""The benchmarks by the name of their suite: what checks their config before any work, and what does the work."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from csb.errors import CSBError, is_one_of
from csb.run import filtering, memory, mixture, overheads, speed, suite, target

SUITES: dict[str, tuple[Callable[[DictConfig], Any], Callable[[DictConfig], None]]] = {
    "overheads": (overheads.check, overheads.overheads),
    "mixture": (mixture.read, mixture.mixture),
    "filtering": (filtering.read, filtering.filtering),
    "memory": (memory.read, memory.memory),
    "sbi": (suite.check, suite.suite),
    "speed": (speed.check, speed.speed),
    "target": (target.check, target.target),
}


def _of(config: DictConfig) -> tuple[Callable[[DictConfig], Any], Callable[[DictConfig], None]]:
    name = config.suite.get("name") if isinstance(config.suite, DictConfig) else None
    if not is_one_of(name, SUITES):
        raise CSBError(f"suite={name!r} is unknown; choose one of {', '.join(SUITES)}")
    return SUITES[name]


def validate(config: DictConfig, sweep: bool = False) -> Any:
    """CSBError for a config that is wrong; else what is to be checked later, or None."""
    return _of(config)[0](config)


def main(config: DictConfig) -> None:
    """Runs the chosen one."""
    _of(config)[1](config)
