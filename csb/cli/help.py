"""The texts of --help. Keys, ranges, defaults and meanings come from the schemas, choices also from conf/."""

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from csb.cli.commands import COMMANDS, CONF, Command, schema_of

_GROUP = re.compile(r"  - (?P<key>\w+): (?P<value>\w+)(?: +# (?P<note>.*))?")
_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>.*?))??(?: +# (?P<note>.*))?")


class Entry(NamedTuple):
    """A key: its dotted name, and what is said of it."""

    key: str
    text: str


class Group(NamedTuple):
    """A group of the configuration: its name, the chosen file or preset, and what it is about."""

    key: str
    chosen: str
    note: str


def groups(name: str) -> list[Group]:
    """The groups in the defaults of conf/NAME.yaml."""
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    found = [Group(m["key"], m["value"], m["note"] or "") for line in lines if (m := _GROUP.fullmatch(line))]
    return [one for one in found if one.key != "keys"]


def choices(group: str) -> list[str]:
    """The files, classes or presets of a group."""
    from csb.problems import PROBLEMS
    from csb.runs.presets import PRESETS

    named = {path.stem for path in (CONF / group).glob("*.yaml")} | set(PROBLEMS if group == "problem" else ())
    return sorted(PRESETS.get(group, named))


def shown(value: Any) -> str:
    """A value as one types it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


def of_schema(kind: Any, prefix: str = "", values: dict[str, Any] | None = None) -> list[Entry]:
    """The keys of a schema, with ``values`` in place of its defaults."""
    from csb.schema import describe, json_of

    node, found = json_of(kind), []
    for key, part in node["properties"].items():
        if key in kind.alone:
            continue
        part = {**part, **node.get("$defs", {}).get(part.get("$ref", "").rpartition("/")[2], {})}
        if values is not None and key in values:
            part = {**part, "default": values[key]}
        said = f"default {shown(part['default'])}" if "default" in part else "required"
        meaning = " ".join(part.get("description", "").split())
        found.append(Entry(f"{prefix}{key}", f"{meaning} ({describe(part)}; {said})".strip()))
    return found


def _of_file(path: Path) -> list[Entry]:
    """The keys of a file of conf/ that has no schema, with its comments."""
    found, above = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if (match := _KEY.fullmatch(line)) is None:
            continue
        above = [*above[: len(match["indent"]) // 2], match["key"]]
        if match["value"] is not None and above[-1] != "name":
            said = "required" if match["value"] == "???" else f"default {match['value']}"
            found.append(Entry(".".join(above), f"{match['note'] or ''} ({said})".strip()))
    return found


def _listed(entries: list[Entry], width: int) -> str:
    """Two columns: the key, and what is said of it."""
    left = min(32, max(len(one.key) for one in entries)) + 4
    lines = []
    for one in entries:
        body = textwrap.wrap(one.text, max(width - left, 30))
        head = f"  {one.key}".ljust(left)
        if len(head) > left:
            lines.append(head)
            head = " " * left
        lines += [head + body[0], *(" " * left + more for more in body[1:])]
    return "\n".join(lines) + "\n"


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def overview() -> str:
    """All commands, each with an example."""
    width = max(map(len, COMMANDS)) + 4
    lines = ["usage: csb COMMAND key=value …", ""]
    for one in COMMANDS.values():
        lines.append(f"  {one.name}".ljust(width) + one.summary)
        lines.append(" " * width + f"  csb {one.name} {one.examples[0][0]}")
    lines += ["", "csb COMMAND --help    its keys and more examples", "csb --version         the version", ""]
    return "\n".join(lines)


def command_help(command: Command) -> str:
    """A command's usage, examples and keys, each with its meaning, what it allows and its default."""
    name, width = command.name, _width()
    text = f"usage: csb {name} key=value …\n\n{command.summary}\n\nexamples:\n"
    for arguments, meaning in command.examples:
        text += f"  csb {name} {arguments}\n      {meaning}\n"
    own, of = schema_of(command), groups(name)
    if own is not None:
        among = {group.key for group in of}
        text += "\nkeys:\n" + _listed([one for one in of_schema(own) if one.key not in among], width)
    text += "".join(_group_help(group, width) for group in of)
    text += f"\ncsb {name} --cfg job prints every key with its value, after those given.\n"
    return text + ("-m runs a job for each combination of values, key=a,b.\n" if command.no_sweep is None else "")


def _group_help(group: Group, width: int) -> str:
    """What a group is about, its choices, and its keys with the values of the choice by default."""
    from csb.runs.presets import PRESETS, SCHEMAS, preset

    names = ", ".join(choices(group.key))
    about = f"{group.key}={group.chosen}: {group.note or group.key}; choose among {names}"
    text = "\n" + textwrap.fill(about, width, subsequent_indent="    ", break_on_hyphens=False) + "\n"
    if group.key in SCHEMAS:
        return text + _listed(of_schema(SCHEMAS[group.key], f"{group.key}.", preset(group.key, group.chosen)), width)
    if group.key in PRESETS:
        values = preset(group.key, group.chosen).items()
        return text + _listed([Entry(f"{group.key}.{key}", f"default {shown(value)}") for key, value in values], width)
    if group.key == "suite":
        return text + _listed(_of_file(CONF / group.key / f"{group.chosen}.yaml"), width)
    return text
