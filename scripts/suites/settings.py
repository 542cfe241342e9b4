"""The settings of suites that stand at the top level of their configuration."""

from typing import TypeVar

from csb.schema import Given, Schema

S = TypeVar("S", bound=Schema)


def suite_settings(kind: type[S], given: Given) -> S:
    """What stands beside the group ``suite``. CSBError with one line for the first thing that is wrong."""
    return kind.read({key: value for key, value in given.items() if key != "suite"})
