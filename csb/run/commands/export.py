"""csb export: a trained bridge into a folder to share."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import Field

from csb.run.export import check_out, export
from csb.run.load import load_any
from csb.run.recipe import command_settings
from csb.schema import Place, Schema


class ExportSettings(Schema):
    """See conf/export.yaml."""

    run: Place = Field(description="the folder of a finished run, a file bridge.pt, or an exported folder")
    out: Place = Field(description="the folder to write")
    overwrite: bool = Field(description="replace an earlier export there")
    licence: Any = Field(description="of the weights, e.g. mit or cc-by-4.0; stated in the card")


def _read(config: DictConfig) -> ExportSettings:
    own = command_settings(ExportSettings, config)
    check_out(own.run, Path(own.out), own.overwrite, own.licence)
    return own


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError where a value is wrong, the bridge cannot be read, or the folder is there already."""
    load_any(_read(config).run, "cpu")


def main(config: DictConfig) -> None:
    """Writes the folder."""
    own = _read(config)
    export(own.run, Path(own.out), own.overwrite, own.licence)
    print(f"{own.out}: the bridge of {own.run}; load it with csb.load({own.out!r})")
