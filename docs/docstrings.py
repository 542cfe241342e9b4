"""What the site makes of docstrings: Sphinx's roles become links, and parameters described together one entry each."""

import re
from typing import Any

from griffe import AliasResolutionError, Extension, NameResolutionError, Object

ROLE = re.compile(r":(?:mod|class|func|meth|attr|data):`([^`]+)`")
TOGETHER = re.compile(r"^( +)(\w+(?:, \w+)+):( .*(?:\n\1 +.*)*)", re.MULTILINE)  # "    a, b: text", over several lines


class Docstrings(Extension):
    """Rewrites them before they become pages."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """The text that the page shows in place of an object's docstring."""
        if obj.docstring is None:
            return

        def link(found: re.Match[str]) -> str:
            name = found[1]
            try:
                target = name if name.startswith("csb") else obj.resolve(name)
            except (NameResolutionError, AliasResolutionError, KeyError):
                target = f"{obj.path}.{name}"
            return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'

        def one_each(found: re.Match[str]) -> str:
            indent, names, text = found.groups()
            return "\n".join(f"{indent}{name}:{text}" for name in names.split(", "))

        head, *sections = re.split(r"(?m)^(?=(?:Args|Attributes):$)", ROLE.sub(link, obj.docstring.value))
        obj.docstring.value = head + "".join(TOGETHER.sub(one_each, section) for section in sections)
