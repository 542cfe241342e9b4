"""Groups of settings and scores under the names that they had: stored files and command lines with them are read."""

import math
from collections.abc import Mapping
from typing import Any

from csb.errors import is_number
from csb.files import Stored

GROUPS = {"ipf": "training", "process": "schedule", "amortized": "conditional"}
_KEYS = {"process.schedule": "schedule.name"}
_ROOTS = {  # scores that were ratios of variances, and their square roots of now
    "ratio": "spread_skill", "ratio_fair": "spread_skill_fair", "spread/skill": "spread_skill",
    "val_ratio": "val_spread_skill", "ratio_before": "spread_skill_before",
}  # fmt: skip
_HOLD = ("entries", "found", "methods", "metrics", "rows", "sweep", "sweeps")  # what holds scores in a file


def key_of_today(key: str) -> str:
    """A dotted name as it is now, e.g. "training.steps" for "ipf.steps"; others stay."""
    group, dot, rest = key.partition(".")
    return _KEYS.get(key, GROUPS.get(group, group) + dot + rest)


def groups_of_today(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of settings under their names of now."""
    found = {GROUPS.get(str(key), str(key)): value for key, value in plain.items()}
    group = found.get("schedule")
    if isinstance(group, dict) and "name" not in group and "schedule" in group:
        found["schedule"] = _like(group, {"name" if key == "schedule" else key: value for key, value in group.items()})
    return _like(plain, found)


def _like(stored: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What was found, which tells of its file where the stored data do."""
    return Stored(found, stored.where) if isinstance(stored, Stored) else found


def scores_of_today(found: Any) -> Any:
    """Scores that a file holds, with spread/skill as the ratio of standard deviations that it is now.

    Older versions stored ratios of variances under other names, and the variance and the mean squared error as "spread"
    and "skill" beside them: square roots are taken of all. A standard error s of a score a becomes s/(2√a).

    Args:
        found: plain data of a file: a row of scores, a list of rows, or a comparison that holds them.

    Returns:
        The same data under the names of now; what has them already stays.
    """
    if isinstance(found, list):
        return [scores_of_today(one) for one in found]
    if not isinstance(found, Mapping):
        return found
    names = _ROOTS | ({"spread": "spread", "skill": "skill"} if "ratio" in found else {})
    row: dict[str, Any] = {}
    for key, value in found.items():
        if key in names:
            row[names[key]] = _root(value)
        elif key == "standard_errors" and isinstance(value, Mapping):
            row[key] = _root_errors(value, found.get("metrics"))
        else:
            row[key] = scores_of_today(value) if key in _HOLD else value
    return _like(found, row)


def _root(value: Any) -> Any:
    """The square root; what is no number ≥ 0 stays."""
    return math.sqrt(value) if is_number(value) and value >= 0 else value


def _root_errors(errors: Mapping[str, Any], scores: Any) -> dict[str, Any]:
    """Standard errors s/(2√a) of the square roots of scores a; None where a or s is unknown or 0."""
    found = dict(errors)
    for key in _ROOTS.keys() & errors.keys():
        root, error = _root(scores.get(key)) if isinstance(scores, Mapping) else None, found.pop(key)
        found[_ROOTS[key]] = error / (2 * root) if root and is_number(root) and is_number(error) else None
    return found
