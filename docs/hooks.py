"""What the site needs beside its pages: formulas as MathML, and the pictures that README.md shows too."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

SPACES = (  # which TeX sets and the converter does not
    (r"\\log(?![A-Za-z]|\s*(?:[(]|\\left|\\!))\s*", r"\\log\\,"),
    (r"\\sim(?![A-Za-z])", r"\\;\\sim\\;"),
)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """The pictures of docs/ as img/*.png, and the notebooks, as they were run, as pages."""
    for path in sorted((Path(__file__).parent / "notebooks").glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(path), {"output_files_dir": path.stem})
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, picture in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    for picture in sorted(Path(__file__).parent.glob("*.png")):
        files.append(File.generated(config, f"img/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_content(content: str, **_: Any) -> str:
    r"""The page with every formula, \(…\) or \[…\], in MathML: no script, nothing to fetch."""

    def formula(found: re.Match[str]) -> str:
        tag, kind, latex = found.groups()
        latex = html.unescape(latex).strip()
        for pattern, spaced in SPACES:
            latex = re.sub(pattern, spaced, latex)
        made = convert(latex, display="block" if kind == "[" else "inline")
        made = made.replace(">&#x0007C;</mo>", ' lspace="0" rspace="0">&#x0007C;</mo>')  # bars around, not between
        return f'<{tag} class="formula">{made}</{tag}>'

    return FORMULA.sub(formula, content)
