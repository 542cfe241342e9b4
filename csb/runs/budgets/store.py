"""compare.json: what is finished, found again by everything that it depends on, and the tables."""

import json
from pathlib import Path
from typing import Any

from csb.errors import CSBError
from csb.evaluation.tables import json_text, write_json
from csb.files import digest, read_json
from csb.renamed import scores_of_today

FORMAT = "csb-compare-1"


class Store:
    """The entries of a file.

    Args:
        path: of the file, which may not exist yet.

    Raises:
        CSBError: a file that is damaged or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._entries = path, {}
        if not path.exists():
            return
        try:
            found = scores_of_today(read_json(path))
            assert found["format"] == FORMAT
            self._entries = {digest(one["key"]): one for one in found["entries"]}
            assert all("found" in one for one in self._entries.values())
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise CSBError(f"{path} is damaged or of another kind; remove it, or choose another out=") from error

    def load(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """What was found under a key of plain data, or None."""
        entry = self._entries.get(digest(_plain(key)))
        return None if entry is None else entry["found"]

    def save(self, key: dict[str, Any], found: dict[str, Any]) -> None:
        """Keeps what was found, plain data, on disk at once. CSBError where the file cannot be written."""
        key = _plain(key)
        self._entries[digest(key)] = {"key": key, "found": _plain(found)}
        self.write({})

    def write(self, more: dict[str, Any]) -> None:
        """The file with all entries, and ``more`` before them."""
        write_json(self.path, {"format": FORMAT, **more, "entries": list(self._entries.values())})


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json_text(value))
