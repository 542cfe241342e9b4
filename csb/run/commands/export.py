"""csb export: a trained bridge into a folder to share."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.errors import CSBError, require_flag, require_place
from csb.run.export import check_out, export
from csb.run.load import load_any, run_folder


def _read(config: DictConfig) -> tuple[str, Path, bool, str | None]:
    source = run_folder(config)
    plain: Any = OmegaConf.to_container(config, throw_on_missing=False)
    out, overwrite, licence = plain["out"], plain["overwrite"], plain["licence"]
    require_flag("overwrite", overwrite)
    if out is None or OmegaConf.is_missing(config, "out"):
        raise CSBError("out= is missing; give a new folder, e.g. out=two_moons")
    path = require_place("out", out)
    check_out(source, path, overwrite, licence)
    return source, path, overwrite, licence


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError where a value is wrong, the bridge cannot be read, or the folder is there already."""
    source, *_ = _read(config)
    load_any(source, "cpu")


def main(config: DictConfig) -> None:
    """Writes the folder."""
    source, out, overwrite, licence = _read(config)
    export(source, out, overwrite, licence)
    print(f"{out}: the bridge of {source}; load it with csb.load({str(out)!r})")
