"""Groups of settings under the names that they had: stored runs, states and command lines with them are still read."""

from collections.abc import Mapping
from typing import Any

GROUPS = {"ipf": "training", "process": "schedule", "amortized": "conditional"}
_KEYS = {"process.schedule": "schedule.name"}


def key_of_today(key: str) -> str:
    """A dotted name as it is now, e.g. "training.steps" for "ipf.steps"; others stay."""
    group, dot, rest = key.partition(".")
    return _KEYS.get(key, GROUPS.get(group, group) + dot + rest)


def groups_of_today(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of settings under their names of now."""
    found = {GROUPS.get(str(key), str(key)): value for key, value in plain.items()}
    group = found.get("schedule")
    if isinstance(group, dict) and "name" not in group and "schedule" in group:
        found["schedule"] = {"name" if key == "schedule" else key: value for key, value in group.items()}
    return found
