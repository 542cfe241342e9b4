"""csb export: a trained bridge into a folder to share."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.errors import CSBError
from csb.run.load import load_any, run_folder


def _read(config: DictConfig) -> tuple[str, Path, bool]:
    source = run_folder(config)
    plain: Any = OmegaConf.to_container(config, throw_on_missing=False)
    out, overwrite = plain["out"], plain["overwrite"]
    if not isinstance(overwrite, bool):
        raise CSBError(f"overwrite={overwrite!r} is neither true nor false; give one of them")
    if out is None or OmegaConf.is_missing(config, "out"):
        raise CSBError("out= is missing; give a new folder, e.g. out=two_moons")
    path = Path(str(out))
    if path.exists() and not path.is_dir():
        raise CSBError(f"out={out} is a file; give a new folder")
    if path.exists() and path.resolve() in (Path(source).resolve(), *Path(source).resolve().parents):
        raise CSBError(f"out={out} holds what is to be exported; give a new folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise CSBError(f"out={out} is there already; choose overwrite=true or another folder")
    return source, path, overwrite


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError where a value is wrong, the bridge cannot be read, or the folder is there already."""
    source, _, _ = _read(config)
    load_any(source, "cpu")


def main(config: DictConfig) -> None:
    """Writes the folder."""
    from csb.run.export import export  # pyright: ignore[reportMissingImports]

    source, out, overwrite = _read(config)
    export(source, out, overwrite)
    print(f"{out}: the bridge of {source}; load it with csb.load({str(out)!r})")
