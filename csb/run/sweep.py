"""A sweep: the folders of its jobs, and at its end one table over them."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from csb.evaluation.tables import markdown_table, print_table, write_text

logger = logging.getLogger(__name__)
_LONGEST = 150  # bytes; file systems allow 255


def job_folder(overrides: str) -> str:
    """A folder's name from a job's overrides: one folder deep, and shortened, with a hash, where it is too long."""
    name = overrides.replace("/", "_")
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}-{hashlib.sha256(overrides.encode()).hexdigest()[:10]}"


def collect(folder: Path) -> list[dict[str, Any]]:
    """One row a job found in the folder of a sweep, by name: its overrides, then its figures or its error."""
    rows = []
    for path in sorted(folder.glob("*/result.json")):
        try:
            row = json.loads(path.read_text())
        except json.JSONDecodeError:
            row = {"error": "result.json is damaged"}
        rows.append({"job": path.parent.name, **row})
    return rows


class SweepTable(Callback):
    """Prints the table, and writes it to ``table.md`` in the folder of the sweep."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        rows = collect(folder)
        if not rows:
            return
        print_table(rows, title=f"{len(rows)} jobs in {folder}")
        write_text(folder / "table.md", markdown_table(rows) + "\n")
