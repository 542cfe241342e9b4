"""Tables for people, on the terminal, in Markdown and in HTML, and JSON for programs; files are written atomically."""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from csb.errors import CSBError
from csb.files import write_atomically
from csb.schema import Schema

MISSING = "–"


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
        return _format_float(value)
    return str(value)


def _format_float(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        rounded = float(f"{value:.4g}")  # 9.9996 has become 10.00 by now, so count its digits afterwards
        digits = 3 if rounded == 0 else 3 - math.floor(math.log10(abs(rounded)))
        return f"{rounded:.{max(digits, 0)}f}"
    return f"{value:.3e}"


def _columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None) -> list[str]:
    """The given columns, or every key in the order of first appearance."""
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        raise CSBError(f"a table of {len(rows)} rows has no columns; give at least one row with a key, or columns=[…]")
    known = {key for row in rows for key in row}
    if rows and (absent := [c for c in columns if c not in known]):
        raise CSBError(f"no row has the column {absent[0]!r}; the rows have {sorted(known)}")
    return list(columns)


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A GitHub table, one line a row; a key that a row lacks gives a dash.

    Args:
        rows: one mapping a row, from column name to value.
        columns: which columns, in which order; by default every key in the order of first appearance.

    Raises:
        CSBError: no columns, or a column that no row has.
    """
    names = _columns(rows, columns)
    cells = [names, *([format_value(row.get(name)) for name in names] for row in rows)]
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in cells]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(names))]
    right = [_is_numeric(rows, name) for name in names]
    lines = [
        "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)) + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def html_table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """The same as an HTML table; names and values are escaped."""
    names = _columns(rows, None)
    lines = [[format_value(row.get(name)) for name in names] for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<tr>{head}</tr>{body}</table>"


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


def _is_numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    kinds = int | float | np.number | torch.Tensor
    return bool(values) and all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)


def print_table(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    columns: Sequence[str] | None = None,
    console: Console | None = None,
) -> None:
    """Print the rows as a table on the terminal, or on ``console``. Arguments and errors as in ``markdown_table``.

    No name and no number is broken over lines: a table that is wider than the terminal is turned on its side, in as
    many parts as it takes; where there is no terminal it is Markdown.
    """
    names, out = _columns(rows, columns), console or _Output()
    cells = [[format_value(row.get(name)) for name in names] for row in rows]
    if _width([names, *cells]) <= out.width:
        right = [_is_numeric(rows, name) for name in names]
        out.print(_table(title, names, cells, right))
    elif not out.is_terminal:
        out.print(Text(f"{title}\n\n{markdown_table(rows, names)}"), soft_wrap=True)
    else:
        for turned in _turned(names, cells, out.width):
            out.print(_table(title, turned[0], turned[1:], [False] + [True] * (len(turned[0]) - 1)))


def _width(lines: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that a table of these lines takes."""
    return 1 + sum(3 + max(map(cell_len, column)) for column in zip(*lines))


def _turned(names: list[str], cells: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """The table with a line for each name, and as many of its rows side by side as the width holds."""
    part: list[list[str]] = []
    for row in cells:
        if part and _width([list(line) for line in zip(names, *part, row)]) > width:
            yield [list(line) for line in zip(names, *part)]
            part = []
        part.append(row)
    yield [list(line) for line in zip(names, *part)]


def _table(title: str, head: list[str], lines: list[list[str]], right: list[bool]) -> Grid:
    table = Grid(title=Text(title), title_justify="left")
    for name, is_right in zip(head, right):
        table.add_column(Text(name), justify="right" if is_right else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _plain(obj: Any) -> Any:
    """The object as JSON values: tensors and arrays as lists, named tuples and dataclasses as objects."""
    if isinstance(obj, torch.Tensor):
        return _plain(obj.detach().cpu().tolist())
    if isinstance(obj, np.ndarray | np.generic):
        return _plain(obj.tolist())
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Schema):
        return _plain(vars(obj))
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: _plain(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, tuple) and hasattr(obj, "_asdict"):
        return {key: _plain(value) for key, value in obj._asdict().items()}  # pyright: ignore
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    return str(obj) if isinstance(obj, os.PathLike) else obj


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` in UTF-8, atomically, and return the path. CSBError for a folder that cannot be written."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(Path(path), write)
    return Path(path)


def json_text(obj: Any) -> str:
    """``obj`` as indented JSON, converted as in :func:`write_json`. TypeError for a value that JSON cannot hold."""
    return json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False)


def write_json(path: str | os.PathLike[str], obj: Any) -> Path:
    """Write ``obj`` as indented JSON, atomically, and return the path.

    Tensors, arrays, named tuples, dataclasses and paths are converted. NaN and ±∞, which JSON lacks, become null.

    Raises:
        CSBError: a value of a type that JSON cannot hold, or a folder that cannot be written; an existing file is
            left as it was.
    """
    try:
        text = json_text(obj)
    except TypeError as error:
        raise CSBError(f"cannot write {path} as JSON: {error}; convert the value to numbers, text or lists") from error
    return write_text(path, f"{text}\n")
