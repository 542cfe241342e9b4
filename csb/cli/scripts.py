"""Commands whose work is no part of the package: it stands in the scripts of a checkout."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import csb
from csb.errors import CSBError


def of_checkout(module: str, command: str) -> Any:
    """A module of ``scripts/``, for one of csb's commands. CSBError without a checkout."""
    scripts = Path(csb.__file__).resolve().parents[1] / "scripts"
    if not (scripts / module.partition(".")[0]).is_dir():
        raise CSBError(f"csb {command} runs the scripts of a checkout; clone csb's repository and pip install -e .")
    if str(scripts) not in sys.path:
        sys.path.append(str(scripts))
    return import_module(module)
