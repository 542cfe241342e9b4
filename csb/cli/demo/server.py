"""The web server behind the page: three files and three questions, for this machine alone.

A page of another site must not reach it either: requests carry this server's own name as their host (which a name that
was pointed at 127.0.0.1 does not), posts come from its own page and are JSON, and the page itself may load nothing from
elsewhere.
"""

import json
import logging
import os
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from socketserver import TCPServer
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from csb.cli.demo.painter import Busy, Painter, Request
from csb.errors import CSBError

BODY = 16 * 1024  # bytes of a request; a digit is at most 4 KiB
SECONDS = 10  # for a client to send its request
PAGES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Listens from the start; ``serve_forever`` answers. CSBError where the port cannot be had."""

    daemon_threads = True
    server_address: tuple[str, int]

    def __init__(self, painter: Painter, host: str, port: int) -> None:
        self.painter = painter
        self.files = {
            path: (files("csb.cli.demo").joinpath(name).read_bytes(), kind) for path, (name, kind) in PAGES.items()
        }
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise CSBError(
                f"port={port} of {host} cannot be used ({os.strerror(error.errno or 0)}); give another"
            ) from error

    def server_bind(self) -> None:
        """Without asking a name server for this machine's name, as the parent does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away while it was answered is no news."""
        logger.debug("a connection ended early", exc_info=True)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}/"

    @property
    def names(self) -> set[str]:
        """What a request may call this server."""
        return {f"{host}:{self.server_port}" for host in (self.server_address[0], "localhost")}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "csb", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, work: Any) -> None:
        """Runs the work for a request; every error becomes one line of JSON."""
        try:
            self._check_host()
            body, kind = work(self._url())
        except TimeoutError:
            self.close_connection = True
        except Refused as error:
            self._refuse(error.status, str(error))
        except Busy as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except CSBError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except Exception:
            logger.exception("%s failed", self.path)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; see what it printed")
        else:
            self._send(HTTPStatus.OK, body, kind)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send(status, _json({"error": message}), "application/json")

    def _url(self) -> SplitResult:
        try:
            return urlsplit(self.path)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the address is not one ({error})") from error

    def _check_host(self) -> None:
        if self.headers.get("Host") not in self.server.names:
            raise Refused(HTTPStatus.FORBIDDEN, f"this server is {self.server.url} and answers to no other name")

    def _get(self, url: SplitResult) -> tuple[bytes, str]:
        if url.path in self.server.files:
            return self.server.files[url.path]
        if url.path == "/api/info":
            return _json(self.server.painter.info()), "application/json"
        if url.path == "/api/digit":
            return _json(self.server.painter.digit(parse_qs(url.query).get("index", [None])[-1])), "application/json"
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, url: SplitResult) -> tuple[bytes, str]:
        if url.path != "/api/sample":
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        if self.headers.get("Origin", self.server.url[:-1]).removeprefix("http://") not in self.server.names:
            raise Refused(HTTPStatus.FORBIDDEN, "requests come from this server's own page only")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with the content type application/json")
        return _json(self.server.painter.sample(Request.of(_parse(self._body())))), "application/json"

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if length is None or self.headers.get("Transfer-Encoding") is not None:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "send the body's length, and the body in one piece")
        if not (length.isascii() and length.isdigit()):
            raise Refused(HTTPStatus.BAD_REQUEST, "the body's length is no number")
        if len(length) > 9 or int(length) > BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is too long; send at most {BODY} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(HTTPStatus.BAD_REQUEST, "the body ended early")
        return body

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status != HTTPStatus.OK:  # what is left of the request may be unread
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from error
