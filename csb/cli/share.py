"""Commands on a trained bridge: csb inspect, which says what it is, and csb export, which writes it to share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from csb.files import json_text
from csb.runs.export import check_out, export
from csb.runs.inspection import inspect, print_inspection
from csb.schema import Given, Place, Schema


class ExportSettings(Schema):
    """What is exported, and where to."""

    run: Place = Field(description="the folder of a finished run, one of its files, or an exported folder")
    out: Place = Field(description="the folder to write")
    overwrite: bool = Field(default=False, description="replace an earlier export there")
    licence: Any = Field(default=None, description="of the weights, e.g. mit or cc-by-4.0; stated in the card")


def prepare_export(given: Given) -> Callable[[], None]:
    """The export. CSBError where a value is wrong, or the folder is there already."""
    own = ExportSettings.read(given)
    check_out(own.run, Path(own.out), own.overwrite, own.licence)

    def run() -> None:
        export(own.run, Path(own.out), own.overwrite, own.licence)
        print(f"{own.out}: the bridge of {own.run}; load it with csb.load({own.out!r})")

    return run


class InspectSettings(Schema):
    """What is looked at."""

    run: Place = Field(description="the folder of a finished run, one of its files, or an exported folder")
    as_json: bool = Field(default=False, alias="json", description="print JSON, for programs")


def prepare_inspect(given: Given) -> Callable[[], None]:
    """The print of what is found. CSBError where a value is wrong, or nothing can be read there."""
    own = InspectSettings.read(given)
    found = inspect(own.run)
    return lambda: print(json_text(found)) if own.as_json else print_inspection(found)
