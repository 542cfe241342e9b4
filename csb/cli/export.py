"""csb export: a trained bridge into a folder to share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from csb.runs.export import check_out, export
from csb.schema import Given, Place, Schema


class ExportSettings(Schema):
    """What is exported, and where to."""

    run: Place = Field(description="the folder of a finished run, one of its files, or an exported folder")
    out: Place = Field(description="the folder to write")
    overwrite: bool = Field(default=False, description="replace an earlier export there")
    licence: Any = Field(default=None, description="of the weights, e.g. mit or cc-by-4.0; stated in the card")


def prepare(given: Given) -> Callable[[], None]:
    """The export. CSBError where a value is wrong, or the folder is there already."""
    own = ExportSettings.read(given)
    check_out(own.run, Path(own.out), own.overwrite, own.licence)

    def run() -> None:
        export(own.run, Path(own.out), own.overwrite, own.licence)
        print(f"{own.out}: the bridge of {own.run}; load it with csb.load({own.out!r})")

    return run
