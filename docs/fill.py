"""Puts the results of csb compare into docs/pages/comparison.md: python docs/fill.py outputs/compare/*.

Between ``<!-- begin NAME -->`` and ``<!-- end -->`` comes what compare.md of a folder called NAME holds, without its
head and command, headings a level lower; the picture goes to docs/compare_NAME.png.
"""

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "pages" / "comparison.md"


def section(text: str, name: str) -> str:
    """What of a compare.md goes into the page."""
    _, facts, *body = text.split("\n\n", 2)
    lower = re.sub(r"^## ", "### ", "\n\n".join(body), flags=re.MULTILINE)
    lower = re.sub(r"```bash\n.*?```\n", "", lower, flags=re.DOTALL)
    return f"{facts}\n\n{lower.replace('](compare.png)', f'](img/compare_{name}.png)').rstrip()}\n"


def filled(page: str, name: str, text: str) -> str:
    """The page with a section in its place. ValueError where it has no place of that name."""
    found = re.search(rf"(<!-- begin {name} -->\n).*?(<!-- end -->)", page, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no <!-- begin {name} --> … <!-- end -->")
    return page[: found.end(1)] + "\n" + section(text, name) + "\n" + page[found.start(2) :]


def main(folders: list[str]) -> None:
    """Fills the page from folders of csb compare."""
    page = PAGE.read_text(encoding="utf-8")
    for folder in map(Path, folders):
        page = filled(page, folder.name, (folder / "compare.md").read_text(encoding="utf-8"))
        if (picture := folder / "compare.png").exists():
            shutil.copy(picture, DOCS / f"compare_{folder.name}.png")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
