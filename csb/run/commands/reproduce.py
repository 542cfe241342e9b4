"""csb reproduce: a training done again with what is stored beside it, and compared."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.errors import CSBError, is_number, require_flag, require_place
from csb.evaluation.tables import print_table, write_json
from csb.run.load import run_folder
from csb.run.processes import begin
from csb.run.reproduce import Reproduction, agrees, prepare

_FLAGS = ("resume", "overwrite", "progress")


def _read(config: DictConfig) -> Reproduction:
    folder = run_folder(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for name in _FLAGS:
        require_flag(name, plain[name])
    for name in ("out", "data"):
        if plain[name] is not None:
            require_place(name, plain[name])
    tolerance = plain["tolerance"]
    if not is_number(tolerance) or not 0 <= tolerance < math.inf:
        raise CSBError(f"tolerance={tolerance!r} is not possible; give a finite number of at least 0")
    out = None if plain["out"] is None else Path(plain["out"])
    flags = {name: plain[name] for name in _FLAGS}
    return prepare(Path(folder), plain["stage"], out, float(tolerance), plain["data"], flags)


def validate(config: DictConfig, sweep: bool = False) -> Callable[[], None]:
    """CSBError where a value is wrong or there is no such training. Returns the check of data and folder."""
    return _read(config).check


def main(config: DictConfig) -> None:
    """Trains again and compares. Exit code 1 where the two trainings do not agree."""
    again = _read(config)
    again.check()  # in all processes before they join: what is written later belongs to this training
    ranks = begin(again.run.device, ["reproduce", *sys.argv[1:]])
    if ranks is None:
        return
    told = again.differences()
    if ranks.main and told:
        print_table(told, title="what is not as it was")
    elif ranks.main:
        print("versions, commit and device are as they were")
    if ranks.main:
        print("the data are the same")
    again.train()
    if not ranks.main:
        return
    found = again.compare()
    for title, rows in found.items():
        if rows:
            print_table(rows, title=f"{title}, {again.folder} and {again.run.folder}")
    good = agrees(found, again.tolerance)
    about = {"run": again.folder, "environment": told, "tolerance": again.tolerance, "agrees": good}
    write_json(again.run.folder / "reproduced.json", {**about, **found})
    if good:
        same = all(row["identical"] for row in found["weights"])
        print("it agrees: " + ("bit for bit" if same else f"within {again.tolerance:g}"))
        return
    print(f"error: {again.run.folder} does not agree with {again.folder}; the tables tell how far", file=sys.stderr)
    raise SystemExit(1)
