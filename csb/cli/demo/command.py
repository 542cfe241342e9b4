"""The demo's config, checked, and the demo itself."""

import importlib.util
import ipaddress
import signal
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from csb.cli.demo.painter import Painter
from csb.errors import CSBError
from csb.runs.load import load_any
from csb.schema import Given, Place, Schema


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

    run: Place = Field(description="the folder of a finished run of mnist_inpaint_anywhere or mnist_inpaint")
    host: Annotated[Any, AfterValidator(loopback)] = "127.0.0.1"
    """An address of this machine; no other is possible."""
    port: int = Field(default=7860, ge=0, le=65535, description="0: one that is free")
    root: str | None = None
    """The folder of the data, for the test digits; null: the one that the run was trained with."""


def prepare(given: Given) -> Callable[[], None]:
    """The server. CSBError for a value that is wrong."""
    own = DemoSettings.read(given)
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
        raise CSBError("csb demo needs Starlette and uvicorn; pip install -e '.[demo]'")
    return partial(_serve, Painter.of(load_any(own.run), own.run, own.root), own.host, own.port)


def _serve(painter: Painter, host: str, port: int) -> None:
    """Serves the page until Ctrl+C or SIGTERM."""
    from csb.cli.demo.server import Server  # here: it takes what an extra brings

    painter.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = Server(painter, host, port)
    print(f"{painter.title}: open {server.url} in a browser; Ctrl+C stops", flush=True)
    try:
        server.run()
    except KeyboardInterrupt:
        print("stopped", flush=True)
