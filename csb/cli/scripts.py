"""The commands ``csb demo`` and ``csb benchmark``, whose work stands in the scripts of a checkout."""

import importlib.util
import ipaddress
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

import csb
from csb.errors import CSBError
from csb.runs.load import load_any
from csb.schema import Given, Place, Schema


def of_checkout(module: str, command: str) -> Any:
    """A module of ``scripts/``, for one of csb's commands. CSBError without a checkout."""
    scripts = Path(csb.__file__).resolve().parents[1] / "scripts"
    if not (scripts / module.partition(".")[0]).is_dir():
        raise CSBError(f"csb {command} runs the scripts of a checkout; clone csb's repository and pip install -e .")
    if str(scripts) not in sys.path:
        sys.path.append(str(scripts))
    return import_module(module)


def loopback(host: Any) -> str:
    """The host as an address of this machine alone, 127.0.0.1 for localhost. CSBError for any other."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.IPv4Address(host)
        if isinstance(host, str) and address.is_loopback:
            return str(address)
    except ValueError:
        pass
    raise CSBError(f"host={host!r} is not this machine alone; the demo has no password, so leave host at 127.0.0.1")


class DemoSettings(Schema):
    """What is shown, and where."""

    run: Place = Field(description="the folder of a finished run: of digits with a hole, or of vectors x and y")
    host: Annotated[Any, AfterValidator(loopback)] = "127.0.0.1"
    """An address of this machine; no other is possible."""
    port: int = Field(default=7860, ge=0, le=65535, description="0: one that is free")
    root: str | None = None
    """The folder of the data, for the test digits; null: the one that the run was trained with."""


def demo(given: Given) -> Callable[[], None]:
    """The server. CSBError for a value that is wrong, and without a checkout."""
    own = DemoSettings.read(given)
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
        raise CSBError("csb demo needs Starlette and uvicorn; pip install -e '.[demo]'")
    serve = of_checkout("demo.server", "demo").serve
    painter = of_checkout("demo.painter", "demo").painter_of(load_any(own.run), own.run, own.root)
    return partial(serve, painter, own.host, own.port)


def benchmark(given: Given) -> Callable[[], None]:
    """The chosen suite, its settings checked. CSBError without a checkout."""
    return of_checkout("suites.benchmark", "benchmark").prepare(given)
