"""The tables of results in the documentation, from stored JSON: python scripts/results.py [--check].

``docs/results/NAME.json`` holds a table: the command that prints it, machine, date and commit, columns and rows. Each
``docs/results/PAGE.md.in`` becomes ``docs/pages/PAGE.md``; a line ``{{ table NAME }}`` in it becomes the table and a
line on where it comes from. ``python scripts/results.py add NAME FILE.json`` stores what a command of csb has written.
"""

import argparse
import json
import re
import shutil
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from suites.machine import machine

from csb.errors import CSBError, in_one_line
from csb.evaluation.rows import Row
from csb.evaluation.table import escape_markdown, markdown_table
from csb.files import read_json, write_text
from csb.runs.budgets import budget_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
LINE = re.compile(r"^\{\{ table (\w+) \}\}$", re.MULTILINE)
Rows = list[dict[str, Any]]


def table(path: Path) -> str:
    """The table of a file in Markdown, and the line below it."""
    found = read_json(path)
    columns, rows = found["columns"], found["rows"]
    if wrong := [row for row in rows if len(row) != len(columns)]:
        raise CSBError(f"{path} has {len(columns)} columns, and the row {wrong[0]}; give a cell for each column")
    text = markdown_table([dict(zip(columns, row)) for row in rows], columns)
    source = f"`{found['command']}`; {found['machine']}; {found['date']}; commit {found['commit']}."
    return f"{text}\n{source} {found.get('note', '')}".rstrip()


def outdated(docs: Path) -> dict[Path, str]:
    """Each page that is not what its template and the tables make, with what they make."""
    folder, found = docs / "results", {}
    for template in sorted(folder.rglob("*.md.in")):
        page = docs / "pages" / template.relative_to(folder).with_suffix("")
        text = LINE.sub(lambda line: table(folder / f"{line[1]}.json"), template.read_text(encoding="utf-8"))
        if not page.exists() or page.read_bytes() != text.encode():
            found[page] = text
    return found


def tables_of(path: Path) -> tuple[dict[str, Any], dict[str, Rows]]:
    """What a file says of itself, and its tables by their titles."""
    about: Any = read_json(path, object)
    about = about if isinstance(about, dict) else {"rows": about}
    found = {"rows": about["rows"]} if "rows" in about else about.get("tables", about)
    lists = {title: rows for title, rows in found.items() if isinstance(rows, list)} if isinstance(found, dict) else {}
    tables = {title: rows for title, rows in lists.items() if rows and all(isinstance(row, dict) for row in rows)}
    if not tables:
        raise CSBError(f"{path} holds no rows; give a JSON that a command of csb has written")
    return about, tables


def compared(rows: Rows) -> Rows:
    """The rows of compare.json as csb compare prints them: with standard errors, and the best in bold."""
    metrics = {key for row in rows for key in row["metrics"]}
    kind = "exact" if "sliced_w" in metrics else "images" if "psnr_mean_per_image" in metrics else "vectors"
    fits: Any = []
    for one in rows:
        label = escape_markdown(", ".join(filter(None, (one["label"], one["choice"]))))
        same = {key: one[key] for key in ("seconds", "metrics", "standard_errors", "reference")}
        row = Row(one["method"], label, forward_evaluations=one["passes"], **same)
        fits.append(SimpleNamespace(row=row, T=one["T"]))
    return budget_table(fits, kind)


def stored(head: dict[str, Any], lines: list[list[Any]]) -> str:
    """The JSON of a table, one line a row."""
    text = "".join(f"  {json.dumps(key)}: {json.dumps(head[key], ensure_ascii=False)},\n" for key in head)
    rows = ",\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in lines)
    return f'{{\n{text}  "rows": [\n{rows}\n  ]\n}}\n'


def add(given: argparse.Namespace, docs: Path) -> None:
    """Store the tables of a file, or the one of ``--title``, with the machine, date and commit of now."""
    about, tables = tables_of(given.file)
    if given.title is not None and given.title not in tables:
        raise CSBError(f"{given.file} has no table {given.title!r}; choose among {', '.join(map(repr, tables))}")
    on = about.get("machine") or machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    words = f"{on['device']}, {on['cores']} cores, {on['threads']} threads, torch {on['torch']}"
    commit = "not recorded" if on["git"] is None else on["git"]["commit"][:7] + on["git"]["dirty"] * " with changes"
    for title in tables if given.title is None else [given.title]:
        ending = "" if given.title or len(tables) == 1 else "_" + "_".join(re.findall("[a-z0-9]+", title.lower()))
        path, rows = docs / "results" / f"{given.name}{ending}.json", tables[title]
        command = given.command or about.get("command") or (read_json(path)["command"] if path.exists() else None)
        if command is None:
            raise CSBError(f"{given.file} does not say which command wrote it; give --command")
        rows = compared(rows) if "standard_errors" in rows[0] else rows
        columns = given.columns.split(",") if given.columns else list(dict.fromkeys(key for row in rows for key in row))
        lines = [[row.get(key) for key in columns] for row in rows]
        if nested := [cell for line in lines for cell in line if isinstance(cell, list | dict)]:
            raise CSBError(f"{nested[0]!r:.80} is no text or number; leave its column out with --columns")
        head = {"command": command, "machine": words, "date": date.today().isoformat(), "commit": commit}
        write_text(path, stored({**head, "columns": columns}, lines))
        print(f"{path}: shown where a template says {{{{ table {path.stem} }}}}")
    if (picture := given.file.with_suffix(".png")).exists() and (docs / f"{given.name}.png").exists():
        shutil.copy(picture, docs / f"{given.name}.png")


def main(arguments: list[str] | None = None, docs: Path = DOCS) -> None:
    """Write the pages, compare them, or store a table. Bad input ends with one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Tables of results in the documentation, from stored JSON.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which page differs, with exit code 1")
    storing = parser.add_subparsers(dest="action").add_parser("add", help="store what a command of csb has written")
    storing.add_argument("name", help="of docs/results/NAME.json; where a file has several tables, _TITLE is appended")
    storing.add_argument("file", type=Path, help="e.g. evaluation.json, compare.json, suite.json, table.json")
    storing.add_argument("--title", help="the one table to store")
    storing.add_argument("--columns", help="which, in which order: a,b,c")
    storing.add_argument("--command", help="that wrote the file, where neither it nor the stored table says so")
    given = parser.parse_args(arguments)
    try:
        if given.action == "add":
            add(given, docs)
        differ = outdated(docs)
        for page, text in differ.items():
            print(f"{page} differs" if given.check else write_text(page, text))
    except (CSBError, OSError, ValueError, TypeError, KeyError) as error:
        parser.exit(2, f"error: {in_one_line(error, 500)}\n")
    if given.check and differ:
        parser.exit(1, "run python scripts/results.py\n")


if __name__ == "__main__":
    main()
