"""``csb benchmark``: what only measures csb is no part of it, but of the scripts of a checkout."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import csb
from csb.errors import CSBError
from csb.schema import Given


def prepare(given: Given) -> Callable[[], None]:
    """The chosen suite, its settings checked. CSBError without a checkout."""
    scripts = Path(csb.__file__).resolve().parents[1] / "scripts"
    if not (scripts / "suites").is_dir():
        raise CSBError("csb benchmark runs the scripts of a checkout; clone csb's repository and pip install -e .")
    if str(scripts) not in sys.path:
        sys.path.append(str(scripts))
    return import_module("suites.benchmark").prepare(given)
