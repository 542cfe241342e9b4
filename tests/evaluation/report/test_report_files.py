"""The files of a report: self-contained, escaped, described in words, and written whole or not at all."""

import base64
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from report_examples import image_grid, image_report, point_grid, point_report

import csb.evaluation.report as writing
from csb.errors import CSBError
from csb.evaluation.diagnose import diagnose
from csb.evaluation.diagnose_figures import HalfStepLosses
from csb.evaluation.report import write_report
from csb.evaluation.rows import Curves, ImageGrid, LevelCurve, PointGrid, RankHistogram, Report, Row, StdError, Sweep


class Page(HTMLParser):
    """Collects what the tests ask about: start tags with attributes, and text outside style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def few(report: Report, *chosen: int) -> Report:
    return replace(report, methods=tuple(report.methods[i] for i in chosen))


@pytest.fixture(scope="module")
def image_page(tmp_path_factory) -> Path:
    report = few(image_report(), 0, 1, 5)
    return write_report(report, image_grid(report, B=1), tmp_path_factory.mktemp("images"))["html"]


@pytest.fixture(scope="module")
def point_page(tmp_path_factory) -> Path:
    report = few(point_report(), 0, 2, 6)
    return write_report(report, point_grid(report, B=1), tmp_path_factory.mktemp("points"))["html"]


@pytest.fixture(scope="module")
def own_page(tmp_path_factory) -> Path:
    """A bridge on own pairs, without others to compare it with."""
    torch.manual_seed(0)
    truth, samples = torch.randn(20, 3), torch.randn(20, 10, 3)
    losses = [HalfStepLosses(half_step="01_backward", losses=[2.0, 1.0])]
    found = diagnose(samples, truth, prior=torch.randn(50, 3), names=["depth (km)", "<b>", "$x$"], losses=losses)
    report = few(point_report(), 0)
    grid = PointGrid(truth[:2].numpy(), truth[:2].numpy(), {"csb10": samples[:2].numpy()})
    return write_report(report, grid, tmp_path_factory.mktemp("own"), found)["html"]


@pytest.fixture(params=["image_page", "point_page", "own_page"])
def path(request) -> Path:
    return request.getfixturevalue(request.param)


def test_four_files_that_need_nothing_from_outside(path: Path):
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json", "report.md", "report.png"]
    picture = imread(path.with_suffix(".png"))
    assert picture.shape[1] > 1500
    assert picture[..., :3].std() > 0.05
    assert Report.from_plain(json.loads(path.with_suffix(".json").read_text())).methods
    text = path.read_text()
    bare = re.sub(r"data:[a-z/+]+;base64,[A-Za-z0-9+/=]+", "data:", text)
    for word in ("//", "@import", "<script"):
        assert word not in bare
    for name, attributes in Page(text).tags:
        for key in ("src", "href", "srcset", "xlink:href"):
            assert attributes.get(key, "#").startswith(("data:", "#")), (name, attributes[key][:50])
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", bare))


def test_the_page_is_well_formed_and_described_in_words(path: Path):
    page = Page(path.read_text())
    assert not page.open
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
    assert {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    for tag, attributes in page.tags:
        if tag == "img":
            assert len(attributes["alt"]) > 10
        if tag == "svg":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"]) > 20
    assert any(tag == "html" and a["lang"] == "en" for tag, a in page.tags)


def test_charts_take_their_colours_from_the_page(image_page: Path):
    charts = re.findall(r"<svg.*?</svg>", image_page.read_text(), flags=re.S)
    assert len(charts) == 4 + 3 + 3
    for chart in charts:
        assert "var(--ink)" in chart
        assert not set(re.findall("#[0-9a-f]{6}", chart)) - {"#ffffff"}


def test_missing_and_best_values(image_page: Path):
    text, markdown = image_page.read_text(), image_page.with_suffix(".md").read_text()
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", " ".join(Page(text).words), flags=re.I)
    assert json.loads(image_page.with_suffix(".json").read_text())["methods"][2]["metrics"]["std_error_pearson"] is None
    assert ">–</td>" in text
    assert '<strong class="best">18.61</strong>' in text
    assert '<strong class="best">15.92</strong>' not in text  # single samples
    assert "**18.61 ± 0.02**" in markdown


def test_one_method_is_not_drawn_as_a_comparison_but_by_its_parameters(own_page: Path, point_page: Path):
    text, markdown = own_page.read_text(), own_page.with_suffix(".md").read_text()
    for word in ('id="accuracy"', "Comparison of posterior", "Methods compared", "Every method", 'class="best"'):
        assert word not in text
        assert word in point_page.read_text()
    words = " ".join(Page(text).words)
    assert all(name in words for name in ("depth (km)", "<b>", "$x$", "coverage_90"))
    images = [a["alt"] for tag, a in Page(text).tags if tag == "img"]
    assert len(images) == 6
    assert images[0].startswith("Corner plot")
    assert images[-1].startswith("Training and validation losses")
    assert "## Parameter by parameter" in markdown
    assert "Bold:" not in markdown


EVIL = '<script>alert("x")</script>&<b>$1$'


def test_everything_is_escaped(tmp_path: Path):
    curves = Curves(LevelCurve((0.5,), (0.5,)), None, RankHistogram((1, 2)), StdError((0.1,), (0.1,)))
    methods = tuple(
        Row(EVIL + name, EVIL + name, EVIL, 1, 0, 1.0, metrics={"crps": 1.0 + i, EVIL: 1.0}, curves=curves,
                     sweeps=(Sweep(EVIL, ({EVIL: EVIL},), 0, EVIL),))
        for i, name in enumerate("ab")
    )  # fmt: skip
    report = image_report(
        methods=methods, title=EVIL, problem=EVIL, description=EVIL, date=EVIL, warnings=(EVIL,), settings={EVIL: EVIL},
        versions={EVIL: EVIL}, command=EVIL,
    )  # fmt: skip
    paths = write_report(report, image_grid(report, B=1), tmp_path)
    text = paths["html"].read_text()
    page = Page(text)
    assert not page.open
    assert "<script" not in text
    assert not any(tag in ("script", "b") for tag, _ in page.tags)
    assert text.count("alert(") > 20
    outside = "\n".join(line for line in paths["md"].read_text().splitlines() if not line.startswith("    "))
    assert "<script" not in outside


def one(**changes) -> Row:
    return Row("a", "A", "", 1, 0, 1.0, **({"metrics": {"crps": 1.0}} | changes))


ODD = {
    "no costs": (Row("a", "A", metrics={"crps": 1.0}),),
    "a reference only": (one(reference=True),),
    "equal costs": (one(), Row("b", "B", "", 1, 0, 1.0, metrics={"crps": 1.0})),
    "no calls beside some": (one(), Row("b", "B", metrics={"crps": 2.0})),
    "curves of one point": (one(curves=Curves(LevelCurve((0.5,), (0.5,), 1), None, RankHistogram((3, 0)))),),
    "no spread at all": (one(curves=Curves(std_error=StdError((0.0,), (0.0,)))),),
    "thirty methods": tuple(Row(f"{i}", f"method {i}", "", i + 1, metrics={"crps": i}) for i in range(30)),
    "a very long label": tuple(
        Row(name, "x" * 200 + name, "", 1, metrics={"crps": 1.0}, curves=Curves(sbc=RankHistogram((1, 1))))
        for name in "ab"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_reports_are_written_too(tmp_path: Path, case: str):
    paths = write_report(image_report(methods=ODD[case]), None, tmp_path)
    assert all(p.stat().st_size > 500 for p in paths.values())
    assert 'id="samples"' not in paths["html"].read_text()


def test_the_same_report_gives_the_same_files_and_colours_stay(tmp_path: Path):
    report = image_report(methods=(one(),))
    colours = np.zeros((1, 2, 3, 8, 12))
    colours[:, :, 0] = 1
    grid = ImageGrid(colours[:, 0], np.ones((1, 1, 2, 3)), {"a": colours})
    a, b = (write_report(report, grid, tmp_path / name) for name in "ab")
    assert all(a[k].read_bytes() == b[k].read_bytes() for k in a)
    text = a["html"].read_text()
    assert "2 samples" in text
    (truth, *_) = re.findall(r"data:image/png;base64,([^\"]+)", text)
    (tmp_path / "truth.png").write_bytes(base64.b64decode(truth))
    assert imread(tmp_path / "truth.png")[0, 0].tolist() == [1, 0, 0, 1]


def test_an_old_report_survives_a_failure(tmp_path: Path, monkeypatch):
    for ending in ("html", "json", "md", "png"):
        (tmp_path / f"report.{ending}").write_text("old")

    def fail(report):
        raise CSBError("planned")

    monkeypatch.setattr(writing, "overview", fail)
    with pytest.raises(CSBError, match="planned"):
        write_report(image_report(methods=(one(),)), None, tmp_path)
    assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}
