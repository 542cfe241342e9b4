"""A headless Chromium, driven through its debugging protocol with real pointer and key events."""

import asyncio
import base64
import contextlib
import itertools
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from conftest import find_chromium

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
]  # fmt: skip
SECONDS = 60  # for anything to happen: other programs may be at work too


class Page:
    """One tab. ``problems`` collects what its console and its failed requests say."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **values: Any) -> dict[str, Any]:
        """One command and its result; events that come before it are taken note of."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": values})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), SECONDS)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method: str | None, values: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(values["exceptionDetails"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.problems.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])

    async def go(self, url: str, width: int, height: int) -> None:
        """Loads a page in a window of a size, on a screen of one dot a pixel."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href === {url!r}")

    async def js(self, expression: str) -> Any:
        """The value of an expression."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits for an expression to be true."""
        end = time.monotonic() + SECONDS
        while not await self.js(expression):
            assert time.monotonic() < end, f"never true: {expression}; {self.problems}; {await self.text()}"
            await asyncio.sleep(0.05)

    async def text(self) -> str:
        return await self.js("document.body.innerText")

    async def box(self, selector: str) -> dict[str, float]:
        """x, y, width and height on the screen, after it was scrolled there."""
        return await self.js(
            f"(e => (e.scrollIntoView({{block: 'nearest'}}), e.getBoundingClientRect().toJSON()))"
            f"(document.querySelector({selector!r}))"
        )

    async def pointer(self, kind: str, x: float, y: float) -> None:
        held = 0 if kind == "mouseReleased" else 1
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=held, clickCount=1)

    async def click(self, selector: str) -> None:
        box = await self.box(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        await self.pointer("mousePressed", x, y)
        await self.pointer("mouseReleased", x, y)

    async def drag(self, points: list[tuple[float, float]]) -> None:
        """Presses at the first point, moves over the others and lets go at the last."""
        await self.pointer("mousePressed", *points[0])
        for x, y in points[1:]:
            await self.pointer("mouseMoved", x, y)
        await self.pointer("mouseReleased", *points[-1])

    async def key(self, name: str) -> None:
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)

    async def screenshot(self, path: Path) -> Path:
        """The whole page as a PNG."""
        found = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
        return path


@contextlib.asynccontextmanager
async def browser(profile: Path, dark: bool = False) -> AsyncIterator[Page]:
    """A tab of a new Chromium with a profile of its own, which is gone afterwards."""
    flags = [*FLAGS, "--blink-settings=preferredColorScheme=0"] if dark else FLAGS
    process = subprocess.Popen(
        [find_chromium(), *flags, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(await _address(session, profile), max_msg_size=0) as socket,
        ):
            yield Page(socket)
    finally:
        process.kill()
        process.wait()


async def _address(session: aiohttp.ClientSession, profile: Path) -> str:
    """The tab's address, once the browser has written its port down and opened the tab."""
    end, said = time.monotonic() + SECONDS, profile / "DevToolsActivePort"
    while time.monotonic() < end:
        with contextlib.suppress(OSError, IndexError, aiohttp.ClientError):
            port = int(said.read_text().split()[0])
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                for target in await answer.json():
                    if target["type"] == "page":
                        return target["webSocketDebuggerUrl"]
        await asyncio.sleep(0.05)
    raise AssertionError("chromium did not open its debugging port")
