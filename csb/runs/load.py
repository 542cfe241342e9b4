"""Finished runs: their configuration, their bridge, and the bridge at the end of every half-step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from csb.bridge import Bridge, load
from csb.dtypes import default_device, usable_device
from csb.errors import CSBError, require_place
from csb.files import OLD_SUFFIX, SUFFIX, model_file, read_json
from csb.networks import Encoder, Network
from csb.problems import Problem, build_problem
from csb.problems.tasks.mnist import has_mnist
from csb.renamed import groups_of_today, scores_of_today
from csb.runs.hub import CONFIG, WEIGHTS, from_pretrained, is_folder, is_repo_id
from csb.runs.register import register
from csb.training.history import chosen_iteration


@dataclass(frozen=True)
class Run:
    """A finished run. ``half_steps``: (name, bridge) in the order of training."""

    folder: Path
    bridge: Bridge
    about: dict[str, Any]

    @cached_property
    def problem(self) -> Problem:
        return build_problem(stored_spec(self.about["problem"], self.folder))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the training, as plain data."""
        if not isinstance(found := self.about["config"], dict):
            raise CSBError(f"the configuration of {self.folder} is {found!r:.80}; train again")
        return groups_of_today(found)

    @cached_property
    def half_steps(self) -> list[tuple[str, Bridge]]:
        return [(path.stem, load(path, self.bridge.device, Bridge)) for path in half_step_files(self.folder)]

    @property
    def iteration(self) -> str:
        """Which iteration the bridge, and its scores, are of, e.g. "iteration 2 of 3"; "" where it is not known."""
        return iteration_of(self.history)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Diagnostics of each half-step."""
        return read_history(self.folder)


def iteration_of(history: list[dict[str, Any]]) -> str:
    """Which iteration a run's bridge is of, e.g. "iteration 2 of 3"; "" without a history."""
    if not history:
        return ""
    return f"iteration {chosen_iteration(history)} of {max(int(row['iteration']) for row in history)}"


def read_history(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's ``history.json``, none where there is no such file. CSBError where it is damaged."""
    path = run / "history.json"
    rows = read_json(path, list) if path.exists() else []
    if not all(isinstance(row, dict) for row in rows):
        raise CSBError(f"{path} is not what csb writes; restore it, or move it away to leave it out")
    return scores_of_today(rows)


def read_result(run: Path) -> dict[str, Any]:
    """Return the scores of a run's ``result.json``. CSBError where there is none, or it is damaged."""
    return scores_of_today(read_json(run / "result.json"))


def finished(run: Path) -> dict[str, Any] | None:
    """Return the result of a run that has one, and a bridge; None otherwise."""
    try:
        result = read_result(run)
    except CSBError:
        return None
    return result if "error" not in result and model_file(run, "bridge").exists() else None


def half_step_files(run: Path) -> list[Path]:
    """Return the files of a run's half-steps in the order of training."""
    names = {path.stem for path in (run / "half_steps").glob("*_*") if path.suffix in (SUFFIX, OLD_SUFFIX)}
    numbered = [name for name in names if name.split("_")[0].isdecimal()]
    return [
        model_file(run, f"half_steps/{name}") for name in sorted(numbered, key=lambda name: int(name.split("_")[0]))
    ]


def stored_spec(spec: Any, where: str | Path) -> dict[str, Any]:
    """Return the description of a problem in a file, without a folder of data that is not filled already.

    Nothing is fetched or made at a place that a file names: where the data are not there, csb looks for them, and puts
    them, where it does by default. CSBError where it is no description.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise CSBError(f"{where} does not say which problem it is for")
    root = spec.get("root")
    is_filled = isinstance(root, str) and "\0" not in root and has_mnist(root)
    return dict(spec) if is_filled else {key: value for key, value in spec.items() if key != "root"}


def load_model(
    source: str | Path, device: str | None = None, networks: Mapping[str, type[Network | Encoder]] | None = None
) -> nn.Module:
    """The model of a file, whatever its kind, or the bridge of all else; see :func:`csb.load`."""
    for name, of in (networks or {}).items():
        register(of, name)
    path = require_place("source", source)
    is_model = path.is_file() and path.suffix in (SUFFIX, OLD_SUFFIX)
    return load(path, usable_device(device)) if is_model else load_any(source, device)


def load_any(source: str | Path, device: str | None = None) -> Bridge:
    """The bridge of a run's folder, a file, an exported folder, or a repository on the Hub; see :func:`csb.load`."""
    path, where = require_place("source", source), usable_device(device)
    if path.name == CONFIG and path.is_file():  # of an older exported folder
        path = path.parent
    if is_folder(path):
        path = path / WEIGHTS
    if path.exists() and not path.is_dir():
        return load(path, where, Bridge)
    if not path.exists() and not path.parent.is_dir() and is_repo_id(str(source)):
        return from_pretrained(str(source), where)
    return load_run(path, where).bridge


def problem_of(bridge: Bridge, source: str | Path) -> Problem:
    """The problem that a loaded bridge was trained on.

    Raises CSBError where the bridge does not say, or its data are in a file that is
    not here.
    """
    spec, path = stored_spec(bridge.about.get("problem"), source), Path(source)
    exported = is_folder(path if path.is_dir() else path.parent) or (not path.exists() and is_repo_id(str(source)))
    if exported and "path" in spec:
        raise CSBError(f"the pairs of {source} did not come with it")
    return build_problem(spec)


def load_run(folder: str | Path, device: str | None = None) -> Run:
    """The run in a folder, its bridge on a device: by default a GPU where there is one, else the CPU.

    Raises CSBError where there is no run, or it is not finished.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CSBError(f"run={folder} is not a folder; give that of a finished run, e.g. outputs/mnist_inpaint")
    if not (path := model_file(folder, "bridge")).exists():
        state = " (it was interrupted: train again with resume=true)" if model_file(folder, "state").exists() else ""
        raise CSBError(f"{folder} holds no {path.name}{state}; give the folder of a finished run")
    bridge = load(path, device or default_device(), Bridge)
    return Run(folder, bridge, bridge.about)
