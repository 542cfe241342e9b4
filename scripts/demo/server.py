"""The web server behind a page, on Starlette and uvicorn: four files and three questions, for this machine alone.

A page of another site must not reach it either: requests carry a name of this machine as their host (which a name that
was pointed at 127.0.0.1 does not), posts come from its own page and are JSON, and the page itself may load nothing from
elsewhere.
"""

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from csb.errors import CSBError
from demo.painter import Busy, Painter

BODY = 16 * 1024  # bytes of a request; a digit is at most 4 KiB
SECONDS = 10  # for a client to send its request
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SAID = {404: "there is no such page", 405: "this page is asked in another way"}


class Server:
    """Listens from the start; ``run`` answers until a signal or ``stop``. CSBError where the port cannot be had."""

    def __init__(self, painter: Painter, host: str, port: int) -> None:
        self.painter = painter
        try:
            self.socket = socket.create_server((host, port), backlog=1024)
        except OSError as error:
            raise CSBError(
                f"port={port} of {host} cannot be used ({os.strerror(error.errno or 0)}); give another"
            ) from error
        self.host, self.port = self.socket.getsockname()
        config = uvicorn.Config(
            self._application(), log_level="error", access_log=False, server_header=False, lifespan="off",
            timeout_keep_alive=SECONDS,
        )  # fmt: skip
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def run(self) -> None:
        """Ends after what is being answered is; a signal is raised again then."""
        self._server.run(sockets=[self.socket])

    def stop(self) -> None:
        """Has :meth:`run` end."""
        self._server.should_exit = True

    def _application(self) -> Starlette:
        painter = self.painter

        async def info(_: Asked) -> Response:
            return _json(painter.info())

        async def pick(asked: Asked) -> Response:
            return _json(painter.picked(asked.query_params.get("index")))

        async def sample(asked: Asked) -> Response:
            names = {f"http://{name}:{self.port}" for name in (self.host, "localhost")}
            if asked.headers.get("Origin", self.url[:-1]) not in names:
                raise HTTPException(403, "requests come from this server's own page only")
            return _json(await run_in_threadpool(painter.sample, painter.request.read(await _parsed(asked), "request")))

        return Starlette(
            routes=[
                _page("/", f"{painter.page}.html", "text/html"),
                _page("/page.css", "page.css", "text/css"),
                _page("/page.js", "page.js", "text/javascript"),
                _page(f"/{painter.page}.js", f"{painter.page}.js", "text/javascript"),
                Route("/api/info", info),
                Route("/api/pick", pick),
                Route("/api/sample", sample, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[self.host, "localhost"])],
            exception_handlers={HTTPException: _refused, Busy: _refused, CSBError: _refused, Exception: _refused},
        )


def _page(path: str, name: str, kind: str) -> Route:
    content = (Path(__file__).parent / name).read_bytes()

    async def page(_: Asked) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return Route(path, page)


def _json(data: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(data, status, headers=_HEADERS)


async def _refused(_: Asked, error: Exception) -> Response:
    """Every error as one line of JSON."""
    if isinstance(error, HTTPException):
        return _json({"error": _SAID.get(error.status_code, error.detail)}, error.status_code)
    if isinstance(error, CSBError):
        return _json({"error": str(error)}, 503 if isinstance(error, Busy) else 400)
    return _json({"error": "the server failed; see what it printed"}, 500)


async def _parsed(asked: Asked) -> Any:
    """The JSON of a request's body."""
    if asked.headers.get("Content-Type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "send JSON, with the content type application/json")
    body = b""
    try:
        async with asyncio.timeout(SECONDS):
            async for part in asked.stream():
                body += part
                if len(body) > BODY:
                    raise HTTPException(413, f"the body is too long; send at most {BODY} bytes")
        return json.loads(body)
    except (TimeoutError, ClientDisconnect) as error:
        raise HTTPException(408, f"the body did not come within {SECONDS} seconds") from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is not JSON") from error


def serve(painter: Painter, host: str, port: int) -> None:
    """Serve the page until Ctrl+C or SIGTERM."""
    painter.prepare()
    for number in (signal.SIGINT, signal.SIGTERM):  # either is how the page ends, and no failure of the command
        signal.signal(number, signal.default_int_handler)
    server = Server(painter, host, port)
    print(f"{painter.title}: open {server.url} in a browser; Ctrl+C stops", flush=True)
    try:
        server.run()
    except KeyboardInterrupt:
        print("stopped", flush=True)
