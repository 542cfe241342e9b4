"""Scores on disk, a file each, found again by everything that they depend on."""

from pathlib import Path
from typing import Any

from csb.errors import CSBError
from csb.evaluation.table import write_json
from csb.files import digest, read_json


class ScoreStore:
    """The scores of one sampler.

    Args:
        folder: where the files are.
        sampler: plain data that the samples depend on, e.g. the checksum of a bridge's file.
    """

    def __init__(self, folder: Path, sampler: dict[str, Any]) -> None:
        self.folder, self.sampler = folder, sampler

    def _entry(self, settings: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        key = {"sampler": self.sampler, "settings": settings}
        return self.folder / f"{digest(key)}.json", key

    def load(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The scores under these settings (plain data), or None where there are none or the file is damaged."""
        path, key = self._entry(settings)
        try:
            found = read_json(path)
        except CSBError:
            return None
        return found["scores"] if found.get("key") == key else None

    def save(self, settings: dict[str, Any], scores: dict[str, Any]) -> None:
        """Keeps scores, as JSON. CSBError where the folder cannot be written."""
        path, key = self._entry(settings)
        write_json(path, {"key": key, "scores": scores})
