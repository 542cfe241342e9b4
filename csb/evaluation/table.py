"""Tables for people: on the terminal, in Markdown and in HTML."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

MISSING = "–"
Rows = Sequence[Mapping[str, Any]]  # each from column name to value


class _Output(Console):
    """Standard output; where it is closed, BrokenPipeError, where rich would end the program without a word."""

    def on_broken_pipe(self) -> None:
        raise  # (rich calls this while it handles the error)


def format_value(value: Any) -> str:
    """A cell: floats with 4 significant digits, integers and text as they are, None as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, torch.Tensor | np.generic | np.ndarray):
        value = value.item() if math.prod(value.shape) == 1 else value.tolist()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3e}" if 0 < abs(value) < 1e-3 else f"{value:#.4g}".rstrip(".")
    return str(value)


def escape_markdown(text: str) -> str:
    """Text that neither HTML nor emphasis gets into."""
    return escape("".join(f"\\{c}" if c in "\\`*_[]" else c for c in text), quote=False)


def _cells(rows: Rows, columns: Sequence[str] | None) -> tuple[list[str], list[list[str]], list[bool]]:
    """The given columns, or every key in the order of first appearance; their cells row by row; which hold numbers."""
    known = dict.fromkeys(key for row in rows for key in row)
    names = list(known if columns is None else columns)
    kinds = int | float | np.number | torch.Tensor
    values = [[row[name] for row in rows if row.get(name) is not None] for name in names]
    numeric = [bool(v) and all(isinstance(one, kinds) and not isinstance(one, bool) for one in v) for v in values]
    return names, [[format_value(row.get(name)) for name in names] for row in rows], numeric


def markdown_table(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """A GitHub table, one line a row; a key that a row lacks gives a dash.

    ``columns``: which, in which order; by default every key in the order of first appearance.
    """
    names, cells, right = _cells(rows, columns)
    lines = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in (names, *cells)]
    widths = [max(3, *map(len, column)) for column in zip(*lines)]
    texts = [
        "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right)) + "|"
    return "\n".join([texts[0], rule, *texts[1:]]) + "\n"


def html_table(rows: Rows) -> str:
    """The same as an HTML table; names and values are escaped."""
    names, cells, _ = _cells(rows, None)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in cells)
    return f"<table><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True)
class Table:
    """Rows, each a mapping from column name to value, that show as a table: Markdown as text, HTML in a notebook."""

    rows: list[dict[str, Any]]

    def table(self) -> str:
        """The rows in Markdown."""
        return markdown_table(self.rows)

    __str__ = table

    def _repr_html_(self) -> str:
        return html_table(self.rows)


def print_table(rows: Rows, title: str, columns: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the rows as a table on the terminal, or on ``console``. Arguments as of ``markdown_table``.

    No name and no number is broken over lines: a table that is wider than the terminal is turned on its side, in as
    many parts as it takes; where there is no terminal it is Markdown.
    """
    (names, cells, right), out = _cells(rows, columns), console or _Output()
    if _width([names, *cells]) <= out.width:
        out.print(_table(title, names, cells, right))
    elif not out.is_terminal:
        out.print(Text(f"{title}\n\n{markdown_table(rows, names)}"), soft_wrap=True)
    else:
        for head, *lines in _turned(names, cells, out.width):
            out.print(_table(title, head, lines, [False] + [True] * (len(head) - 1)))


def _width(lines: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that a table of these lines takes."""
    return 1 + sum(3 + max(map(cell_len, column)) for column in zip(*lines))


def _turned(names: list[str], cells: list[list[str]], width: int) -> Iterator[list[tuple[str, ...]]]:
    """The table with a line for each name, and as many of its rows side by side as the width holds."""
    part: list[list[str]] = []
    for row in cells:
        if part and _width([*zip(names, *part, row)]) > width:
            yield [*zip(names, *part)]
            part = []
        part.append(row)
    yield [*zip(names, *part)]


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]], right: list[bool]) -> Grid:
    table = Grid(title=Text(title), title_justify="left")
    for name, is_right in zip(head, right):
        table.add_column(Text(name), justify="right" if is_right else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table
