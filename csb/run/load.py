"""Finished runs: their configuration, their bridge, and the bridge at the end of every half-step."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from csb.bridge import Bridge, load_bridge
from csb.bridge.folder import CONFIG, WEIGHTS, is_folder, load_folder
from csb.errors import CSBError, in_one_line, require_place
from csb.problems import Problem, build_problem
from csb.run.hub import from_pretrained, is_repo_id


@dataclass(frozen=True)
class Run:
    """A finished run. ``half_steps``: (name, bridge) in the order of training."""

    folder: Path
    bridge: Bridge
    about: dict[str, Any]

    @cached_property
    def problem(self) -> Problem:
        return build_problem(self.about["problem"])

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the training, as plain data."""
        return self.about["config"]

    @cached_property
    def half_steps(self) -> list[tuple[str, Bridge]]:
        return [(path.stem, load_bridge(path, self.bridge.device)[0]) for path in half_step_files(self.folder)]

    @property
    def history(self) -> list[dict[str, Any]]:
        """Diagnostics of each half-step."""
        path = self.folder / "history.json"
        return json.loads(path.read_text()) if path.exists() else []


def half_step_files(run: Path) -> list[Path]:
    """The files of a run's half-steps in the order of training."""
    numbered = [path for path in (run / "half_steps").glob("*.pt") if path.stem.split("_")[0].isdigit()]
    return sorted(numbered, key=lambda path: int(path.stem.split("_")[0]))


def default_device() -> str:
    """A GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(device: str | torch.device | None) -> str:
    """The device's name, the default's for None. CSBError where nothing can be computed on it."""
    if device is None:
        return default_device()
    try:
        where = torch.device(device)
        if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
            raise RuntimeError("there is no such GPU")
        torch.zeros(1, dtype=torch.float32, device=where).item()
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise CSBError(f"device={device!r} cannot be used here ({in_one_line(error, 80)}); give cpu or cuda") from error
    return str(where)


def load_any(source: str | Path, device: str | None = None) -> Bridge:
    """The bridge of a run's folder, a file, an exported folder, or a repository on the Hub; see :func:`csb.load`."""
    path, where = require_place("source", source), usable_device(device)
    if path.suffix == ".pt" and path.exists():
        return load_bridge(path, where)[0]
    if path.is_file():
        if path.name not in (CONFIG, WEIGHTS):
            raise CSBError(f"{path} is no file of csb; give a run's folder, its bridge.pt, or an exported folder")
        path = path.parent
    if is_folder(path):
        return load_folder(path, where)
    if not path.exists() and not path.parent.is_dir() and is_repo_id(str(source)):
        return from_pretrained(str(source), where)
    return load_run(path, where).bridge


def problem_of(bridge: Bridge, source: str | Path) -> Problem:
    """The problem that a loaded bridge was trained on.

    What a folder from elsewhere says about places of data counts for nothing here: data are looked for, and fetched,
    where csb keeps them by default. Raises CSBError where the bridge does not say, or its data are in a file that is
    not here.
    """
    spec = bridge.about.get("problem")
    if not isinstance(spec, dict):
        raise CSBError(f"{source} does not say which problem it is for")
    path = Path(source)
    if is_folder(path if path.is_dir() else path.parent) or (not path.exists() and is_repo_id(str(source))):
        if "path" in spec:
            raise CSBError(f"the pairs of {source} did not come with it")
        spec = {key: value for key, value in spec.items() if key != "root"}
    return build_problem(spec)


def run_folder(config: DictConfig) -> str:
    """``run`` of a config. CSBError where it was not given."""
    if OmegaConf.is_missing(config, "run") or config.run is None:
        raise CSBError("run= is missing; give the folder of a finished run, e.g. run=outputs/mnist_inpaint")
    return str(require_place("run", config.run))


def load_run(folder: str | Path, device: str | None = None) -> Run:
    """The run in a folder, its bridge on a device: by default a GPU where there is one, else the CPU.

    Raises CSBError where there is no run, or it is not finished.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CSBError(f"run={folder} is not a folder; give that of a finished run, e.g. outputs/mnist_inpaint")
    if not (folder / "bridge.pt").exists():
        state = " (it was interrupted: train again with resume=true)" if (folder / "state.pt").exists() else ""
        raise CSBError(f"{folder} holds no bridge.pt{state}; give the folder of a finished run")
    bridge, about = load_bridge(folder / "bridge.pt", device or default_device())
    return Run(folder, bridge, about)
