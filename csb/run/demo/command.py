"""The demo's config, checked, and the demo itself."""

import ipaddress
import signal
from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.errors import CSBError, require_int
from csb.run.demo.painter import Painter
from csb.run.demo.server import Server
from csb.run.load import load_any, run_folder


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


def _read(config: DictConfig) -> tuple[Painter, str, int]:
    plain: Any = OmegaConf.to_container(config)
    host = loopback(plain["host"])
    require_int("port", plain["port"], 0, 65535)
    if plain["root"] is not None and not isinstance(plain["root"], str):
        raise CSBError(f"root={plain['root']!r} is not a folder; give that of the data, or null for the run's own")
    source = run_folder(config)
    return Painter.of(load_any(source), source, plain["root"]), host, plain["port"]


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError for a config that is wrong."""
    _read(config)


def main(config: DictConfig) -> None:
    """Serves the page until Ctrl+C or SIGTERM."""
    painter, host, port = _read(config)
    painter.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Server(painter, host, port) as server:
        print(f"{painter.title}: open {server.url} in a browser; Ctrl+C stops", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", flush=True)
