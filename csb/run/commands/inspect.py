"""csb inspect: what a trained bridge is."""

from omegaconf import DictConfig

from csb.errors import require_flag
from csb.evaluation.tables import json_text
from csb.run.inspection import inspect, print_inspection
from csb.run.load import run_folder


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError where a value is wrong, or nothing can be read there."""
    require_flag("json", config.json)
    inspect(run_folder(config))


def main(config: DictConfig) -> None:
    """Prints it."""
    found = inspect(run_folder(config))
    if config.json:
        print(json_text(found))
    else:
        print_inspection(found)
