"""The demo's page in a browser: a visitor picks a digit, moves the hole, draws, and sees samples."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from chromium import Page, browser, find_chromium
from demo_examples import PROBLEMS, VECTORS, serving, write_digits
from PIL import Image

PIXELS = "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])(document.querySelector({!r}))"
DONE = "document.querySelector('#samples').dataset.hole === {!r} && document.querySelectorAll('#samples canvas').length"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    find_chromium()
    root = tmp_path_factory.mktemp("digits")
    md5 = write_digits(root)
    kinds = {"movable": PROBLEMS[0], "fixed": PROBLEMS[1], "vectors": VECTORS}
    with ExitStack() as stack:
        yield {key: stack.enter_context(serving(name, root, md5)).url for key, name in kinds.items()}


async def pixels(page: Page, selector: str) -> np.ndarray:
    """A canvas as (height, width, 4)."""
    data = np.array(await page.js(PIXELS.format(selector)), dtype=np.uint8)
    return data.reshape((336 if selector == "#digit" else 28), -1, 4)


async def first_samples(page: Page) -> None:
    await page.until(DONE.format("7,7") + " === 16")


async def fits(page: Page) -> None:
    """Nothing sticks out to the right."""
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert await page.js(f"{wide}.map(e => e.tagName + '#' + e.id)") == []
    assert await page.js("document.documentElement.scrollWidth <= innerWidth")


async def samples_are_seen(page: Page, path: Path) -> None:
    """On a picture of the screen, in the place of the first sample, the mean and the digit there is something."""
    boxes = [await page.js(f"document.querySelector({s!r}).getBoundingClientRect().toJSON()") for s in SEEN]
    scroll = await page.js("scrollY")
    image = np.asarray(Image.open(await page.screenshot(path)).convert("L"), dtype=float)
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


async def visit(page: Page, url: str, path: Path) -> None:
    """Picks a digit, drags the hole, moves it with a key, asks for more samples, and draws a digit."""
    await page.go(url, 1280, 900)
    await first_samples(page)
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
    await samples_are_seen(page, path)
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


async def look(page: Page, url: str, path: Path, width: int, height: int) -> None:
    await page.go(url, width, height)
    await first_samples(page)
    await fits(page)
    await samples_are_seen(page, path)
    await nothing_went_wrong(page, url)


async def stay(page: Page, url: str) -> None:
    """A hole that is fixed does not follow, and the page says why; errors of the server are shown in one line."""
    await page.go(url, 1280, 900)
    await first_samples(page)
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


async def slide(page: Page, url: str, path: Path, width: int, height: int) -> None:
    """A slider of y gives other samples, and takes the truth away."""
    await page.go(url, width, height)
    await page.until("document.querySelector('#corner').dataset.y")
    assert "red: the x" in await page.text()
    before = await page.js("document.querySelector('#corner').toDataURL()")
    await page.js("(e => { e.value = e.max; e.dispatchEvent(new Event('input')); })(document.querySelector('#y2'))")
    await page.until("document.querySelector('#corner').dataset.y === y.join(',')")
    assert await page.js("document.querySelector('#corner').toDataURL()") != before
    assert "red: the x" not in await page.text()
    await fits(page)
    box = await page.js("document.querySelector('#corner').getBoundingClientRect().toJSON()")
    assert box["width"] > 0.8 * min(width, 600)
    image = np.asarray(Image.open(await page.screenshot(path)).convert("RGB"), dtype=float)
    assert image.std() > 5
    await nothing_went_wrong(page, url)


def run(profile: Path, steps, dark: bool = False) -> None:
    async def together() -> None:
        async with browser(profile, dark) as page:
            await steps(page)

    asyncio.run(together())


def test_a_visit(servers, tmp_path):
    run(tmp_path / "profile", lambda page: visit(page, servers["movable"], tmp_path / "visit.png"))


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, False), (1280, 900, True)])
def test_every_width_and_colour_scheme(servers, tmp_path, width, height, dark):
    run(tmp_path / "profile", lambda page: look(page, servers["movable"], tmp_path / "look.png", width, height), dark)


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, True), (1280, 900, False)])
def test_vectors(servers, tmp_path, width, height, dark):
    run(tmp_path / "profile", lambda page: slide(page, servers["vectors"], tmp_path / "slide.png", width, height), dark)


def test_a_fixed_hole_stays_and_errors_are_shown(servers, tmp_path):
    run(tmp_path / "profile", lambda page: stay(page, servers["fixed"]))
