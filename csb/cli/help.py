"""The texts of --help. Keys, defaults and what they mean are read from conf/, so that help and configuration agree."""

import re
import shutil
import textwrap
from pathlib import Path
from typing import NamedTuple

from csb.cli.commands import COMMANDS, Command
from csb.cli.conf import CONF

_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>.*?))??(?: +# (?P<note>.*))?")
_GROUP = re.compile(r"  - (?P<key>\w+): (?P<value>\w+)(?: +# (?P<note>.*))?")
_OWN = ("defaults", "hydra")


class Entry(NamedTuple):
    """A key of a configuration file: its dotted name, its default as written, and its comment."""

    key: str
    default: str
    note: str


def keys(path: Path, prefix: str = "") -> list[Entry]:
    """The keys of a file of conf/, those of its groups as dotted names; not what is Hydra's own."""
    found, above = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _KEY.fullmatch(line)
        if match is None:
            continue
        above = [*above[: len(match["indent"]) // 2], match["key"]]
        if match["value"] is not None and above[0] not in _OWN:
            found.append(Entry(prefix + ".".join(above), match["value"], match["note"] or ""))
    return found


def groups(name: str) -> list[Entry]:
    """The groups in the defaults of conf/NAME.yaml, with the chosen file and the comment."""
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [Entry(m["key"], m["value"], m["note"] or "") for line in lines if (m := _GROUP.fullmatch(line))]


def choices(group: str) -> list[str]:
    """The files of a group of conf/, or its presets."""
    found = [path.stem for path in (CONF / group).glob("*.yaml")]
    if not found:
        from csb.runs.presets import PRESETS  # here, so that the overview does not wait for torch

        found = list(PRESETS[group])
    return sorted(found)


def _of_group(group: str, choice: str) -> list[Entry]:
    path = CONF / group / f"{choice}.yaml"
    if not path.exists():
        return _of_preset(group, choice)
    at_top = path.read_text(encoding="utf-8").startswith("# @package _global_")
    return [one for one in keys(path, "" if at_top else f"{group}.") if one.key != f"{group}.name"]


def _of_preset(group: str, choice: str) -> list[Entry]:
    from csb.runs.presets import SCHEMAS, preset

    fields, found = SCHEMAS[group].model_fields, []
    for key, value in preset(group, choice).items():
        note = " ".join((fields[key].description or "").split())
        found.append(Entry(f"{group}.{key}", "null" if value is None else str(value), note))
    return found


def _default(value: str) -> str:
    return {"???": "required", "null": "none by default"}.get(value, f"default {value}")


def _listed(entries: list[Entry], width: int) -> str:
    """Two columns: the key, and what it means with its default."""
    left = min(32, max(len(one.key) for one in entries)) + 4
    lines = []
    for one in entries:
        note = f"{one.note} ({_default(one.default)})" if one.note else _default(one.default)
        body = textwrap.wrap(note, max(width - left, 30))
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
    """A command's usage, examples and keys."""
    name, width = command.name, _width()
    text = f"usage: csb {name} key=value …\n\n{command.summary}\n\nexamples:\n"
    for arguments, meaning in command.examples:
        text += f"  csb {name} {arguments}\n      {meaning}\n"
    if own := keys(CONF / f"{name}.yaml"):
        text += "\nkeys:\n" + _listed(own, width)
    shown = [one for one in groups(name) if one.key not in command.groups]
    for group in groups(name):
        if group.key in command.groups:
            text += _group_help(group, width)
    if shown:
        rows = [Entry(one.key, one.default, f"{one.note}: {', '.join(choices(one.key))}") for one in shown]
        text += "\ngroups of keys, each with its files:\n" + _listed(rows, width)
    text += f"\ncsb {name} --cfg job prints every key with its value, after those given.\n"
    return text + ("-m runs a job for each combination of values, key=a,b.\n" if command.no_sweep is None else "")


def _group_help(group: Entry, width: int) -> str:
    """The keys of the files of a group, the default first."""
    found = sorted(choices(group.key), key=lambda choice: choice != group.default)
    if len(found) == 1:
        return f"\n{group.note or group.key}:\n" + _listed(_of_group(group.key, found[0]), width)
    return "".join(f"\n{group.key}={one}:\n" + _listed(_of_group(group.key, one), width) for one in found)
