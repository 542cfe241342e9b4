"""csb inspect: what a trained bridge is."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import Field

from csb.evaluation.table import json_text
from csb.runs.inspection import inspect, print_inspection
from csb.schema import Given, Place, Schema


class InspectSettings(Schema):
    """What is looked at."""

    run: Place = Field(description="the folder of a finished run, one of its files, or an exported folder")
    as_json: bool = Field(default=False, alias="json", description="print JSON, for programs")


def prepare(given: Given) -> Callable[[], None]:
    """The print of what is found. CSBError where a value is wrong, or nothing can be read there."""
    own = InspectSettings.read(given)
    return partial(_print, inspect(own.run), own.as_json)


def _print(found: Any, as_json: bool) -> None:
    if as_json:
        print(json_text(found))
    else:
        print_inspection(found)
