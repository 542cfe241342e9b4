"""What is typed on the command line, as Hydra is to read it: texts as they are."""

import re
import sys

from csb.cli.commands import Command, schema_of
from csb.renamed import key_of_today
from csb.runs.presets import SCHEMAS
from csb.schema import Node, Schema, json_of

_OF_DATA = ("path", "x", "y", "root")  # places, in the groups data and problem, whose classes have the schema
_READ = "'\"[{"  # how quoted values, lists and tables begin


def texts(command: Command) -> set[str]:
    """The keys of a command whose values are texts or places: 1e5 is a name there, and a comma part of it."""
    found = {f"{group}.{key}" for group, kind in SCHEMAS.items() for key in _texts(kind)}
    found |= {f"{group}.{key}" for group in ("data", "problem") for key in _OF_DATA}
    return found | (set(_texts(kind)) if (kind := schema_of(command)) is not None else set())


def _texts(kind: type[Schema]) -> list[str]:
    return [key for key, node in json_of(kind)["properties"].items() if _is_text(node)]


def _is_text(node: Node) -> bool:
    options = [one for one in node.get("anyOf", [node]) if one.get("type") != "null"]
    return all(one.get("type") == "string" and "enum" not in one for one in options)


def quoted(text: str) -> str:
    """A value for Hydra's command line: in quotes; backslashes count double before a quote and nowhere else."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


def _of_today(argument: str) -> str:
    """The argument with the names that its key has now, as for the files of older runs."""
    return re.sub(r"^([+~]*)([\w.]+)", lambda m: m[1] + key_of_today(m[2]), argument)


def note_renamed(arguments: list[str]) -> None:
    """Says once, on standard error, which names are older than the program, and what they are now."""
    keys = [re.sub(r"^[+~]*([\w.]*).*", r"\1", one, flags=re.DOTALL) for one in arguments]
    if renamed := {key: key_of_today(key) for key in keys if key_of_today(key) != key}:
        print("note: " + ", ".join(f"{old} is {now} now" for old, now in renamed.items()), file=sys.stderr)


def as_typed(arguments: list[str], command: Command) -> list[str]:
    """The arguments: keys by their names of now, texts in quotes; in a sweep (-m) a comma still separates values."""
    of, sweep = texts(command), any(a in ("-m", "--multirun") for a in arguments)

    def one(argument: str) -> str:
        key, equals, value = argument.partition("=")
        is_text = key.lstrip("+") in of and value not in ("", "null", "???") and value[0] not in _READ
        return f"{key}={quoted(value)}" if equals and is_text and not (sweep and "," in value) else argument

    return [argument if argument.startswith("-") else one(_of_today(argument)) for argument in arguments]
