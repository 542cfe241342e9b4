"""docs/fill.py: the results of csb compare in their page."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("fill", ROOT / "docs" / "fill.py")
fill = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fill)

RESULT = (
    "# a: methods at equal cost\n\n3 test observations.\n\n## At most 4 passes a sample\n\n| method |\n|---|\n| b |\n\n"
    "- c: a reason\n\n![accuracy](compare.png)\n\n```bash\ncsb compare problem=a\n```\n"
)


def test_a_section_is_put_in_its_place_again_and_again():
    page = "# All\n\n<!-- begin a -->\nold\n<!-- end -->\n\n<!-- begin b -->\n<!-- end -->\n"
    once = fill.filled(page, "a", RESULT)
    assert once == (
        "# All\n\n<!-- begin a -->\n\n3 test observations.\n\n### At most 4 passes a sample\n\n"
        "| method |\n|---|\n| b |\n\n- c: a reason\n\n![accuracy](img/compare_a.png)\n\n"
        "<!-- end -->\n\n<!-- begin b -->\n<!-- end -->\n"
    )
    assert fill.filled(once, "a", RESULT) == once
    with pytest.raises(ValueError, match="no <!-- begin c -->"):
        fill.filled(page, "c", RESULT)


def test_the_page_has_a_place_for_each_problem():
    page = fill.PAGE.read_text()
    for name in ("gaussian_mixture", "mnist_inpaint", "mnist_superres", "mnist_deblur"):
        assert "### At most" in fill.filled(page, name, RESULT)
