"""The settings of suites that stand at the top level of their configuration, and those of a training."""

from functools import cache
from typing import TypeVar

from csb.cli import compose as cli
from csb.errors import CSBError
from csb.runs.config import RunConfig, read
from csb.schema import Given, Schema

S = TypeVar("S", bound=Schema)


def suite_settings(kind: type[S], given: Given) -> S:
    """What stands beside the group ``suite``. CSBError with one line for the first thing that is wrong."""
    plain = dict(given)
    suite = plain.pop("suite")
    if unknown := [key for key in suite if key != "name"]:
        raise CSBError(f"suite.{unknown[0]} is unknown; settings of suite={suite['name']} stand at the top level")
    return kind.read(plain)


@cache
def training_config(overrides: tuple[str, ...]) -> RunConfig:
    """The checked configuration of train.py with these overrides. CSBError where it is wrong.

    Kept, for Hydra composes no other configuration while a command runs: what is checked before is known then.
    """
    return read(cli.composed("train", overrides))
