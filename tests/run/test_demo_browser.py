"""The demo's page in a headless Chromium: a visitor picks a digit, moves the hole, draws, and sees samples."""

import asyncio
import base64
import contextlib
import io
import itertools
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from demo_examples import PROBLEMS, VECTORS, serving, write_digits
from PIL import Image

from tests.conftest import find_chromium

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
]  # fmt: skip
SECONDS = 60  # for anything to happen: other programs may be at work too
PIXELS = "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])(document.querySelector({!r}))"
DONE = "document.querySelector('#samples').dataset.hole === {!r} && document.querySelectorAll('#samples canvas').length"

FIRST = DONE.format("7,7") + " === 16"


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
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        await self.call("Emulation.setDeviceMetricsOverride", **screen)
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
        await self.drag([(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)])

    async def drag(self, points: list[tuple[float, float]]) -> None:
        """Presses at the first point, moves over the others and lets go at the last."""
        await self.pointer("mousePressed", *points[0])
        for x, y in points[1:]:
            await self.pointer("mouseMoved", x, y)
        await self.pointer("mouseReleased", *points[-1])

    async def key(self, name: str) -> None:
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)

    async def screenshot(self) -> Image.Image:
        """The whole page."""
        found = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(found["data"])))

    async def fits(self) -> None:
        """Nothing sticks out to the right."""
        wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        assert await self.js(f"{wide}.map(e => e.tagName + '#' + e.id)") == []
        assert await self.js("document.documentElement.scrollWidth <= innerWidth")


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


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    find_chromium()
    root = tmp_path_factory.mktemp("digits")
    md5 = write_digits(root)
    kinds = {"movable": PROBLEMS[0], "fixed": PROBLEMS[1], "vectors": VECTORS}
    with contextlib.ExitStack() as stack:
        yield {key: stack.enter_context(serving(name, root, md5)).url for key, name in kinds.items()}


async def pixels(page: Page, selector: str) -> np.ndarray:
    """A canvas as (height, width, 4)."""
    data = np.array(await page.js(PIXELS.format(selector)), dtype=np.uint8)
    return data.reshape((336 if selector == "#digit" else 28), -1, 4)


async def samples_are_seen(page: Page) -> None:
    """On a picture of the screen, in the place of the first sample, the mean and the digit there is something."""
    boxes = [await page.js(f"document.querySelector({s!r}).getBoundingClientRect().toJSON()") for s in SEEN]
    scroll = await page.js("scrollY")
    image = np.asarray((await page.screenshot()).convert("L"), dtype=float)
    for selector, box in zip(SEEN, boxes):
        top, left = int(box["y"] + scroll) + 2, int(box["x"]) + 2
        part = image[top : top + int(box["height"]) - 4, left : left + int(box["width"]) - 4]
        assert part.size > 400, selector
        assert part.std() > 5, selector


SEEN = ("#digit", "#mean", "#std", "#samples canvas:nth-child(1)", "#samples canvas:nth-child(16)")


async def nothing_went_wrong(page: Page, url: str) -> None:
    assert page.problems == []
    assert page.requests
    assert all(one.startswith((url, "data:")) for one in page.requests)
    assert await page.js("document.querySelector('#error').hidden")


async def visit(page: Page, url: str) -> None:
    """Picks a digit, drags the hole, moves it with a key, asks for more samples, and draws a digit."""
    await page.go(url, 1280, 900)
    await page.until(FIRST)
    assert "test digit" in (await page.text()).lower()
    assert "2 network calls each" in await page.text()
    before = await pixels(page, "#samples canvas")
    await page.click("#pick")
    await page.until("document.querySelector('#note').textContent.includes('Test digit')")
    box = await page.box("#digit")
    cell, x, y = box["width"] / 28, box["x"], box["y"]
    middle = (x + 14 * cell, y + 14 * cell)
    await page.drag([middle, (middle[0] - 2 * cell, middle[1]), (middle[0] - 5 * cell, middle[1] + 3 * cell)])
    await page.until(DONE.format("10,2"))
    assert (await pixels(page, "#samples canvas") != before).any()
    await page.drag([(x + 9 * cell, y + 17 * cell), (x - 40 * cell, y + 60 * cell)])  # it stops at the edge
    await page.until(DONE.format("14,0"))
    await page.js("document.querySelector('#digit').focus()")
    await page.key("ArrowUp")
    await page.until(DONE.format("13,0"))
    await samples_are_seen(page)
    await page.js("(e => { e.value = 64; e.dispatchEvent(new Event('input')); })(document.querySelector('#count'))")
    await page.until("document.querySelector('#status').textContent.startsWith('64 samples, the first 16 shown')")
    before = await pixels(page, "#samples canvas")
    await page.click("#again")
    await page.until(f"[...document.querySelector('#samples canvas').getContext('2d').getImageData(0,0,28,28).data]"
                     f".join() !== {','.join(map(str, before.flatten()))!r}")  # fmt: skip
    await page.click("#clear")
    await page.until("document.querySelector('#note').textContent.includes('dashed square')")
    await page.drag([(x + 18 * cell, y + 5 * cell), (x + 18 * cell, y + 12 * cell), (x + 18 * cell, y + 24 * cell)])
    drawn = await pixels(page, "#digit")
    assert drawn[8 * 12 + 6, 18 * 12 + 6, :3].min() > 200
    assert drawn[8 * 12 + 6, 25 * 12 + 6, :3].max() < 20
    await nothing_went_wrong(page, url)


async def look(page: Page, url: str, width: int, height: int) -> None:
    await page.go(url, width, height)
    await page.until(FIRST)
    await page.fits()
    await samples_are_seen(page)
    await nothing_went_wrong(page, url)


async def stay(page: Page, url: str) -> None:
    """A hole that is fixed does not follow, and the page says why; errors of the server are shown in one line."""
    await page.go(url, 1280, 900)
    await page.until(FIRST)
    assert "trained with its 14×14 hole in the middle" in await page.text()
    box = await page.box("#digit")
    at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    await page.drag([at, (at[0] - 60, at[1] - 60)])
    await page.click("#again")
    await page.until(DONE.format("7,7"))
    assert await page.js("hole.top + ',' + hole.left") == "7,7"
    assert await page.js("document.querySelector('#error').hidden")
    await page.js("hole = {top: 3, left: 3}; update()")
    await page.until("!document.querySelector('#error').hidden")
    assert "the hole of this bridge cannot move" in await page.text()
    await page.js("hole = {top: 7, left: 7}; update()")
    await page.until("document.querySelector('#error').hidden")


async def slide(page: Page, url: str, width: int, height: int) -> None:
    """A slider of y gives other samples, and takes the truth away."""
    await page.go(url, width, height)
    await page.until("document.querySelector('#corner').dataset.y")
    assert "red: the x" in await page.text()
    before = await page.js("document.querySelector('#corner').toDataURL()")
    await page.js("(e => { e.value = e.max; e.dispatchEvent(new Event('input')); })(document.querySelector('#y2'))")
    await page.until("document.querySelector('#corner').dataset.y === y.join(',')")
    assert await page.js("document.querySelector('#corner').toDataURL()") != before
    assert "red: the x" not in await page.text()
    await page.fits()
    box = await page.js("document.querySelector('#corner').getBoundingClientRect().toJSON()")
    assert box["width"] > 0.8 * min(width, 600)
    image = np.asarray((await page.screenshot()).convert("RGB"), dtype=float)
    assert image.std() > 5
    await nothing_went_wrong(page, url)


def run(profile: Path, steps, *given, dark: bool = False) -> None:
    async def together() -> None:
        async with browser(profile, dark) as page:
            await steps(page, *given)

    asyncio.run(together())


def test_a_visit(servers, tmp_path):
    run(tmp_path, visit, servers["movable"])


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, False), (1280, 900, True)])
def test_every_width_and_colour_scheme(servers, tmp_path, width, height, dark):
    run(tmp_path / "digits", look, servers["movable"], width, height, dark=dark)
    run(tmp_path / "vectors", slide, servers["vectors"], width, height, dark=not dark)


def test_a_fixed_hole_stays_and_errors_are_shown(servers, tmp_path):
    run(tmp_path, stay, servers["fixed"])
