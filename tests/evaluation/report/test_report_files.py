"""The files of a report: self-contained, escaped, described in words, and written whole or not at all."""

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from report_examples import image_report, pictures, point_report

import csb.evaluation.report as writing
from csb.errors import CSBError
from csb.evaluation.diagnose import diagnose
from csb.evaluation.diagnose_figures import HalfStepLosses
from csb.evaluation.report import write_report
from csb.evaluation.rows import Curves, LevelCurve, RankHistogram, Report, Row, StdError, Sweep

pytestmark = pytest.mark.nightly


class Page(HTMLParser):
    """Collects what the tests ask about: start tags with attributes, and text outside style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words += f" {data}"


def few(report: Report, *chosen: int) -> Report:
    return replace(report, methods=tuple(report.methods[i] for i in chosen))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of images, one of points, and one of a bridge on own pairs, without others to compare it with."""
    torch.manual_seed(0)
    images, points, own = few(image_report(), 0, 1, 5), few(point_report(), 0, 2, 6), few(point_report(), 0)
    truth, samples = torch.randn(20, 3), torch.randn(20, 10, 3)
    losses = [HalfStepLosses(half_step="01_backward", losses=[2.0, 1.0])]
    found = diagnose(samples, truth, prior=torch.randn(50, 3), names=["depth (km)", "<b>", "$x$"], losses=losses)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("images", "points", "own")}
    return {
        "images": write_report(images, pictures(images), folders["images"])["html"],
        "points": write_report(points, pictures(points), folders["points"])["html"],
        "own": write_report(own, pictures(own), folders["own"], found)["html"],
    }


@pytest.fixture(params=["images", "points", "own"])
def path(request, pages) -> Path:
    return pages[request.param]


def test_four_files_that_need_nothing_from_outside(path: Path):
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json", "report.md", "report.png"]
    picture = imread(path.with_suffix(".png"))
    assert picture.shape[1] > 1500
    assert picture[..., :3].std() > 0.05
    assert json.loads(path.with_suffix(".json").read_text())["methods"]
    text = path.read_text()
    bare = re.sub(r"data:[a-z/+]+;base64,[A-Za-z0-9+/=]+", "data:", text)
    assert not re.search("//|@import|<script", bare)
    for name, attributes in Page(text).tags:
        for key in ("src", "href", "srcset", "xlink:href"):
            assert attributes.get(key, "#").startswith(("data:", "#")), (name, attributes[key][:50])
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", bare))


def test_the_page_is_well_formed_and_described_in_words(path: Path):
    tags = Page(path.read_text()).tags
    ids = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
    assert max(ids.values()) == 1
    assert {a["href"][1:] for _, a in tags if a.get("href", "").startswith("#")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert all(len(a["alt"]) > 10 for tag, a in tags if tag == "img")
    assert ("html", "en") in [(tag, a.get("lang")) for tag, a in tags]


def test_missing_and_best_values_of_the_page(pages):
    text, markdown = pages["images"].read_text(), pages["images"].with_suffix(".md").read_text()
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", Page(text).words, flags=re.I)
    assert ">–</td>" in text
    assert '<strong class="best">18.61</strong>' in text
    assert '<strong class="best">15.92</strong>' not in text  # single samples
    assert "**18.61 ± 0.02**" in markdown
    assert text.count("data:image/svg+xml") == 4 + 4


def test_one_method_is_not_drawn_as_a_comparison_but_by_its_parameters(pages):
    text, markdown = pages["own"].read_text(), pages["own"].with_suffix(".md").read_text()
    for word in ('id="accuracy"', "Comparison of posterior", "Methods compared", "Every method", 'class="best"'):
        assert word not in text
        assert word in pages["points"].read_text()
    page = Page(text)
    assert all(name in page.words for name in ("depth (km)", "<b>", "$x$", "coverage_90"))
    images = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert [alt for alt in images if alt.startswith("Corner plot")]
    assert images[-1].startswith("Training and validation losses")
    assert "## Parameter by parameter" in markdown
    assert "Bold:" not in markdown


EVIL = '<script>alert("x")</script>&<b>$1$'


def test_everything_is_escaped(tmp_path: Path):
    curves = Curves(LevelCurve((0.5,), (0.5,)), None, RankHistogram((1, 2)), StdError((0.1,), (0.1,)))
    more = {"curves": curves, "sweeps": (Sweep(EVIL, ({EVIL: EVIL},), 0, EVIL),), "metrics": {"crps": 1.0, EVIL: 1.0}}
    methods = tuple(replace(one(EVIL + name, **more), schedule=EVIL) for name in "ab")
    texts = dict.fromkeys(("title", "problem", "description", "date", "command"), EVIL)
    report = image_report(methods=methods, warnings=(EVIL,), settings={EVIL: EVIL}, versions={EVIL: EVIL}, **texts)
    paths = write_report(report, pictures(report), tmp_path)
    text = paths["html"].read_text()
    assert not any(tag in ("script", "b") for tag, _ in Page(text).tags)
    assert "<script" not in text
    assert text.count("alert(") > 20
    outside = "\n".join(line for line in paths["md"].read_text().splitlines() if not line.startswith("    "))
    assert "<script" not in outside


def one(name="a", **changes) -> Row:
    return Row(name, name, "", 1, 0, 1.0, **({"metrics": {"crps": 1.0}} | changes))


FLAT = Curves(LevelCurve((0.5,), (0.5,), 1), None, RankHistogram((3, 0)), StdError((0.0,), (0.0,)))
ODD = {
    "no costs": (Row("a", "A", metrics={"crps": 1.0}),),
    "a reference only": (one(reference=True),),
    "equal costs": (one(), one("b")),
    "no calls beside some": (one(), Row("b", "B", metrics={"crps": 2.0})),
    "curves of one point and no spread": (one(curves=FLAT),),
    "thirty methods": tuple(one(str(i), metrics={"crps": i}) for i in range(30)),
    "very long labels": tuple(one("x" * 200 + name, curves=Curves(sbc=RankHistogram((1, 1)))) for name in "ab"),
}


@pytest.mark.parametrize("methods", ODD.values(), ids=ODD)
def test_odd_reports_are_written_too(tmp_path: Path, methods):
    paths = write_report(image_report(methods=methods), [], tmp_path)
    assert all(p.stat().st_size > 500 for p in paths.values())
    assert 'id="samples"' not in paths["html"].read_text()


def test_the_same_report_gives_the_same_files(tmp_path: Path):
    report = image_report(methods=(one(),))
    a, b = (write_report(report, [], tmp_path / name) for name in "ab")
    assert all(a[k].read_bytes() == b[k].read_bytes() for k in a)


def test_an_old_report_survives_a_failure(tmp_path: Path, monkeypatch):
    for ending in ("html", "json", "md", "png"):
        (tmp_path / f"report.{ending}").write_text("old")

    def fail(report):
        raise CSBError("planned")

    monkeypatch.setattr(writing, "overview", fail)
    with pytest.raises(CSBError, match="planned"):
        write_report(image_report(methods=(one(),)), [], tmp_path)
    assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}
