"""The settings of suites that stand at the top level of their configuration."""

from typing import TypeVar

from csb.errors import CSBError
from csb.schema import Given, Schema

S = TypeVar("S", bound=Schema)


def suite_settings(kind: type[S], given: Given) -> S:
    """What stands beside the group ``suite``. CSBError with one line for the first thing that is wrong."""
    plain = dict(given)
    suite = plain.pop("suite")
    if unknown := [key for key in suite if key != "name"]:
        raise CSBError(f"suite.{unknown[0]} is unknown; settings of suite={suite['name']} stand at the top level")
    return kind.read(plain)
