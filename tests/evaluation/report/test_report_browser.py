"""The page in a browser: nothing overflows on a phone, pictures decode, text is large enough, nothing is fetched."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from report_examples import image_report, pictures, point_report

from csb.evaluation.report import write_report
from tests.conftest import find_chromium

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
]  # fmt: skip
WIDTHS = {390: 844, 1280: 900}

PROBE = """<script>
const errors = [], refused = [];
addEventListener("error", e => errors.push(String(e.message || e.target.outerHTML).slice(0, 200)), true);
addEventListener("securitypolicyviolation", e => refused.push(e.blockedURI));
addEventListener("load", () => {
  const texts = [], ask = {willReadFrequently: true};
  const canvas = document.createElement("canvas").getContext("2d", ask);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const rgb = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
                         return Array.from(canvas.getImageData(0, 0, 1, 1).data); };
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    let under = element, ground = [0, 0, 0, 0];
    for (; under && ground[3] === 0; under = under.parentElement) ground = rgb(getComputedStyle(under).backgroundColor);
    texts.push({text: text.slice(0, 40), size: parseFloat(style.fontSize), color: rgb(style.color), ground});
  }
  const table = document.querySelector("table.numbers"), box = table.parentElement;
  parent.postMessage({
    name: location.hash.slice(1), inner: innerWidth, scroll: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll"))
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className),
    images: [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width]),
    rows: table.rows.length, table: table.scrollWidth, box: box.clientWidth, overflow: getComputedStyle(box).overflowX,
    method: getComputedStyle(table.querySelector("tbody .method")).position,
    fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    dark: matchMedia("(prefers-color-scheme: dark)").matches, texts, errors, refused,
  }, "*");
});
</script>"""

WRAPPER = """<!DOCTYPE html><meta charset="utf-8"><body><script>
const found = [];
addEventListener("message", e => {
  found.push(e.data);
  if (found.length === COUNT) document.body.textContent = "RESULT" + JSON.stringify(found).replaceAll("<", "(") + "END";
});
</script>FRAMES</body>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Both reports, with the probe in the copies; the page's policy is loosened for that one script."""
    pages = {}
    for name, report in (("images", image_report()), ("points", point_report())):
        path = write_report(report, pictures(report), tmp_path_factory.mktemp(name))["html"]
        text = path.read_text()
        strict = "default-src 'none';"
        assert strict in text
        text = text.replace(strict, f"{strict} script-src 'unsafe-inline';", 1).replace("<title>", f"{PROBE}<title>", 1)
        pages[name] = path.with_name("probed.html")
        pages[name].write_text(text)
    return pages


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request, pages: dict[str, Path], tmp_path_factory) -> dict[tuple[str, int], dict]:
    """What the probe measured, by page and width, in one colour scheme."""
    folder = tmp_path_factory.mktemp(f"chromium_{request.param}")
    frames = "".join(
        f'<iframe src="{path.as_uri()}#{name}" style="width:{width}px;height:{height}px;border:0"></iframe>'
        for name, path in pages.items()
        for width, height in WIDTHS.items()
    )
    wrapper = folder / "wrapper.html"
    count = str(len(pages) * len(WIDTHS))
    wrapper.write_text(WRAPPER.replace("FRAMES", frames).replace("COUNT", count))
    command = [find_chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    command += ["--blink-settings=preferredColorScheme=0"] if request.param == "dark" else []
    command += ["--virtual-time-budget=20000", "--dump-dom", wrapper.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    match = re.search("RESULT(.*)END", run.stdout, flags=re.S)
    assert match, f"the page gave no answer: {run.stdout[-500:]} {run.stderr[-1500:]}"
    assert "CONSOLE" not in run.stderr, re.findall(".*CONSOLE.*", run.stderr)
    results = {(r["name"], r["inner"]): r for r in json.loads(match[1].replace("&amp;", "&").replace("&gt;", ">"))}
    assert set(results) == {(name, width) for name in pages for width in WIDTHS}
    assert all(r["dark"] == (request.param == "dark") for r in results.values())
    return results


def test_pictures_are_decoded_and_nothing_overflows_or_is_fetched(seen):
    for (name, width), r in seen.items():
        assert r["scroll"] <= r["inner"], (name, width)
        assert (r["wide"], r["errors"], r["refused"], r["fetched"]) == ([], [], [], []), (name, width)
        assert len(r["images"]) >= 9
        assert all(natural > 0 and shown > 100 for natural, shown in r["images"])
        # the table scrolls inside its own box
        assert r["rows"] >= 7
        assert (r["overflow"], r["method"]) == ("auto", "sticky")
        assert r["box"] <= width
        assert r["table"] > r["box"]


def _luminance(color: list[int]) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_is_large_enough_and_stands_out_from_its_background(seen):
    """WCAG AA, 4.5:1, in both colour schemes."""
    for key, r in seen.items():
        assert len(r["texts"]) > 200
        assert {t["text"]: t["size"] for t in r["texts"] if t["size"] < 11.95} == {}, key
        faint = {}
        for t in r["texts"]:
            low, high = sorted(map(_luminance, (t["color"], t["ground"])))
            if (high + 0.05) / (low + 0.05) < 4.5:
                faint[t["text"]] = (t["color"], t["ground"])
        assert not faint, key
