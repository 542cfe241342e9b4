"""Formulas as MathML in the page itself: no script, nothing to fetch."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    r"""The page with every formula, \(…\) or \[…\], in MathML."""

    def formula(found: re.Match[str]) -> str:
        tag, kind, latex = found.groups()
        block = kind == "["
        made = convert(html.unescape(latex).strip(), display="block" if block else "inline")
        return f'<{tag} class="formula">{made}</{tag}>'

    return FORMULA.sub(formula, content)
