"""csb inspect: what a trained bridge is."""

from omegaconf import DictConfig
from pydantic import Field

from csb.evaluation.tables import json_text
from csb.run.inspection import inspect, print_inspection
from csb.run.recipe import command_settings
from csb.schema import Place, Schema


class InspectSettings(Schema):
    """See conf/inspect.yaml."""

    run: Place = Field(description="the folder of a finished run, a file bridge.pt, or an exported folder")
    as_json: bool = Field(alias="json", description="print JSON, for programs")


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError where a value is wrong, or nothing can be read there."""
    inspect(command_settings(InspectSettings, config).run)


def main(config: DictConfig) -> None:
    """Prints it."""
    own = command_settings(InspectSettings, config)
    found = inspect(own.run)
    if own.as_json:
        print(json_text(found))
    else:
        print_inspection(found)
