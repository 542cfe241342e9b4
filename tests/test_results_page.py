"""scripts/results.py: the tables of the documentation from stored JSON."""

import json
import re
from decimal import ROUND_HALF_UP, Decimal

import pytest
import results

STORED = results.DOCS / "results"
KEYS = {"command", "machine", "date", "commit", "columns", "rows"}


def cell(name, row, column):
    """A figure of a stored table without its standard error; a row is named by its first cells."""
    found = json.loads((STORED / f"{name}.json").read_text())
    (line,) = [line for line in found["rows"] if line[: len(row)] == row]
    return Decimal(str(line[found["columns"].index(column)]).split(" ")[0])


def test_the_pages_are_what_the_script_makes_of_the_tables():
    results.main(["--check"])
    shown = [name for page in STORED.rglob("*.md.in") for name in results.LINE.findall(page.read_text())]
    assert sorted(shown) == sorted(path.stem for path in STORED.glob("*.json"))
    for path in STORED.glob("*.json"):
        found = json.loads(path.read_text())
        assert KEYS <= set(found) <= KEYS | {"note"}, path
        assert all(found[key] for key in KEYS), path
        assert re.fullmatch(r"\d{4}-\d\d-\d\d|not recorded", found["date"]), path


def test_the_figures_of_the_readme_are_stored():
    readme = (results.DOCS.parent / "README.md").read_text()

    def short(name, row, column, digits):
        found = cell(name, row, column).quantize(Decimal(10) ** -digits, ROUND_HALF_UP)
        return str(found).removeprefix("0")

    moons, rows = ["`two_moons`", 10], ("bridge, T = 10", "TDS, K = 1", "DPS, ζ = 1")
    csb, npe, flow = (short("sbi_default_recipe", moons, column, 3) for column in ("L = 3", "NPE", "flow, 10"))
    psnr = [short("mnist_inpaint_guided", [row], "PSNR of mean, per image", 1) for row in rows]
    crps = [short("mnist_inpaint_guided", [row], "CRPS", 3) for row in rows]
    for text in (
        f"two moons C2ST {csb} in ten calls with 100,000 pairs, where NPE has {npe} and a flow of ten steps {flow}",
        f"PSNR of the mean {psnr[0]} dB and CRPS {crps[0]} in 10 calls",
        f"TDS {psnr[1]} and {crps[1]}, DPS {psnr[2]} and {crps[2]} in 200",
    ):
        assert text in readme


@pytest.fixture
def docs(tmp_path):
    """A documentation with one template."""
    for part in ("results", "pages"):
        (tmp_path / "docs" / part / "howto").mkdir(parents=True)
    (tmp_path / "docs/results/howto/page.md.in").write_text("# A page\n\n{{ table moons }}\n\nEnd.\n")
    return tmp_path / "docs"


def test_what_a_command_has_written_is_stored_and_shown(docs, tmp_path, capsys):
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps({"scores": [{"T": 5, "c2st": 0.51234, "note": None}], "half-steps": [{"loss": 1.5}]}))
    results.main(["add", "moons", str(file), "--title", "scores", "--columns", "c2st,T", "--command", "csb a"], docs)
    stored = json.loads((docs / "results/moons.json").read_text())
    assert (stored["columns"], stored["rows"]) == (["c2st", "T"], [[0.51234, 5]])
    page = (docs / "pages/howto/page.md").read_text()
    assert "|   c2st |   T |\n|-------:|----:|\n| 0.5123 |   5 |\n\n`csb a`; " in page
    results.main(["--check"], docs)
    (docs / "pages/howto/page.md").write_text("changed by hand\n")
    with pytest.raises(SystemExit, match="1"):
        results.main(["--check"], docs)
    assert "page.md differs" in capsys.readouterr().out
    results.main(["add", "moons", str(file), "--command", "csb b"], docs)
    assert {path.stem for path in (docs / "results").glob("*.json")} == {"moons", "moons_scores", "moons_half_steps"}


def test_a_comparison_is_stored_as_it_is_printed(docs, tmp_path):
    scored = {"T": 5, "passes": 5, "seconds": 0.0123, "standard_errors": {"sliced_w": 0.01}, "reference": False}
    rows = [
        {"method": name, "label": name, "choice": choice, "metrics": {"sliced_w": value}, **scored}
        for name, choice, value in (("dps", "ζ = 1", 0.5), ("bridge", "", 0.2))
    ]
    title = "at most 10 passes a sample"
    file = tmp_path / "compare.json"
    file.write_text(json.dumps({"format": "f", "command": "csb compare", "notes": [], "tables": {title: rows}}))
    results.main(["add", "moons", str(file)], docs)
    stored = json.loads((docs / "results/moons.json").read_text())
    assert stored["command"] == "csb compare"
    assert stored["rows"] == [
        ["bridge", 5, "5", "0.012", "**0.2000 ± 0.01**"],
        ["dps, ζ = 1", 5, "5", "0.012", "0.5000 ± 0.01"],
    ]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"a": [{"b": 1}]}', [], "does not say which command wrote it; give --command"),
        ('{"a": [{"b": 1}]}', ["--title", "c"], "has no table 'c'; choose among 'a'"),
        ('{"a": [{"b": [1, 2]}]}', ["--command", "csb"], "leave its column out with --columns"),
        ('{"a": 1}', [], "holds no rows"),
        ('{"rows": 5}', [], "holds no rows"),
        ('{"tables": 5}', [], "holds no rows"),
        ("{", [], "cannot read"),
    ],
)
def test_bad_input_ends_in_one_line(docs, tmp_path, capsys, content, options, message):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(SystemExit, match="2"):
        results.main(["add", "moons", str(tmp_path / "evaluation.json"), *options], docs)
    reported = capsys.readouterr().err
    assert (reported[:7], reported.count("\n")) == ("error: ", 1)
    assert message in reported
