"""What is opened: finished runs with the bridges of their half-steps, files of models, exported folders, the Hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from csb.bridge import Bridge, Ensemble
from csb.bridge import load as load_file
from csb.dtypes import default_device, usable_device
from csb.errors import CSBError, in_one_line, require_int, require_place
from csb.files import CONTEXTS, OLD_SUFFIX, SUFFIX, model_file, read_json
from csb.networks import ENCODERS, NETWORKS, Encoder, Network
from csb.networks.encoders import is_own
from csb.problems import PROBLEMS, Problem, build_problem
from csb.problems.pixels import PixelProblem
from csb.renamed import groups_of_today, scores_of_today
from csb.training.state import chosen_iteration

WEIGHTS, CARD, PICTURE = "model.safetensors", "README.md", "samples.png"
ENSEMBLE, MOST_MEMBERS = "ensemble.json", 1000  # in a folder of members
CONFIG = "config.json"  # of folders that an older version exported
FILES = [WEIGHTS, CONTEXTS, CARD, PICTURE, CONFIG]
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


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
        return [(path.stem, load_file(path, self.bridge.device, Bridge)) for path in half_step_files(self.folder)]

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
    of, root, is_filled = PROBLEMS.get(spec["name"]), spec.get("root"), False
    if of is not None and issubclass(of, PixelProblem) and isinstance(root, str) and "\0" not in root:
        is_filled = not of.files(root).fault()
    return dict(spec) if is_filled else {key: value for key, value in spec.items() if key != "root"}


def load(
    source: str | Path, device: str | None = None, networks: Mapping[str, type[Network | Encoder]] | None = None
) -> nn.Module:
    """Load a trained model, ready to sample: ``csb.load("outputs/two_moons").sample(y, 1000)``.

    Args:
        source: the folder of a finished run or an exported one, which give the bridge, or that of an ensemble, which
            gives a :class:`csb.Ensemble`; a file of any model: a bridge
            (also of one half-step), a score, a flow, a denoiser or a distilled sampler; or "owner/name" on the Hugging
            Face Hub (needs the extra ``hub``).
        device: where it goes; None: a GPU where there is one, else the CPU.
        networks: classes of your own, networks and encoders, by the names that files give them, as in
            ``csb.fit(…, network=MyNet)``: the name of the class.

    Returns:
        The model; its ``about`` holds the problem, the configuration and the versions that it was trained with.

    Raises:
        CSBError: nothing is there, or it is damaged or unfinished, or of a network that is not known.
    """
    for name, of in (networks or {}).items():
        register(of, name)
    path = require_place("source", source)
    if (ensemble := load_ensemble(path, device)) is not None:
        return ensemble.bridge
    is_model = path.is_file() and path.suffix in (SUFFIX, OLD_SUFFIX)
    return load_file(path, usable_device(device)) if is_model else load_any(source, device)


def register(cls: Any, name: str | None = None) -> Any:
    """Make a network, an encoder or a problem known by its name, as its decorator.

    A :class:`csb.networks.Network` or :class:`csb.networks.Encoder` goes by the name of its class, a
    :class:`csb.problems.Problem` by its ``name``, where none is given. With such classes in a module ``mine``,
    ``csb train import=mine problem=… network=…`` trains with them, and every command reads such a run:
    ``csb evaluate import=mine run=…``.

    Raises:
        CSBError: a class of another kind, or a name that csb's own classes have.
    """
    kinds: dict[type, Any] = {Network: NETWORKS, Encoder: ENCODERS, Problem: PROBLEMS}
    kind = next((kind for kind in kinds if isinstance(cls, type) and issubclass(cls, kind)), None)
    if kind is None:
        raise CSBError(f"{cls!r:.80} is no Network, Encoder or Problem; register a subclass of one of them")
    name = name or (cls.name if kind is Problem else cls.__name__)
    if name in kinds[kind] and not is_own(kinds[kind][name]):
        raise CSBError(f"{name!r} is the name of one of csb's own classes; choose another one")
    kinds[kind][name] = cls
    return cls


def load_any(source: str | Path, device: str | None = None) -> Bridge:
    """The bridge of a run's folder, a file, an exported folder, or a repository on the Hub; see :func:`csb.load`."""
    path, where = require_place("source", source), usable_device(device)
    if path.name == CONFIG and path.is_file():  # of an older exported folder
        path = path.parent
    if is_folder(path):
        path = path / WEIGHTS
    if path.exists() and not path.is_dir():
        return load_file(path, where, Bridge)
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
    if (folder / ENSEMBLE).exists():
        raise CSBError(f"{folder} holds an ensemble; give one of its members, e.g. {member_folder(folder, 0)}")
    if not (path := model_file(folder, "bridge")).exists():
        state = " (it was interrupted: train again with resume=true)" if model_file(folder, "state").exists() else ""
        raise CSBError(f"{folder} holds no {path.name}{state}; give the folder of a finished run")
    bridge = load_file(path, device or default_device(), Bridge)
    return Run(folder, bridge, bridge.about)


def member_folder(folder: Path, number: int) -> Path:
    """Where an ensemble's member of a number, counted from 0, lies."""
    return folder / f"member_{number}"


def load_ensemble(folder: str | Path, device: str | None = None) -> Run | None:
    """Return the run of an ensemble, whose bridge is a :class:`csb.Ensemble`; None where the folder holds none.

    CSBError where the folder is damaged, or a member is not finished.
    """
    path = Path(folder) / ENSEMBLE
    if not path.exists():
        return None
    count = require_int(f"members of {path}", read_json(path)["members"], 1, MOST_MEMBERS)
    bridge: Any = Ensemble([load_run(member_folder(Path(folder), i), device).bridge for i in range(count)])
    return Run(Path(folder), bridge, bridge.about)


def is_folder(path: Path) -> bool:
    """Whether the path is an exported folder, whole or not; a run's folder has no tensors of that name."""
    return (path / WEIGHTS).exists()


def is_inside(path: Path, folder: Path) -> bool:
    """Whether the path is a file that lies in the folder: no link, of a file or of a folder in it, leads out."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def is_repo_id(source: str) -> bool:
    """Whether this is spelled like "owner/name" on the Hub, and could not climb out of a folder."""
    return isinstance(source, str) and bool(_ID.fullmatch(source)) and ".." not in source


def hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CSBError("the Hub needs the package huggingface_hub; pip install -e '.[hub]'") from error
    return huggingface_hub


def from_pretrained(
    source: str | Path, device: str | None = None, revision: str | None = None, token: str | None = None
) -> Bridge:
    """The bridge of an exported folder, or of a repository on the Hub, of which only this format's files are fetched.

    Args:
        source: a folder, or "owner/name".
        device: see :func:`csb.load`.
        revision: branch, tag or commit on the Hub.
        token: of the Hub, for private repositories; None: that of ``hf auth login``.

    Raises:
        CSBError: neither is there, the Hub does not answer, or what it holds is no bridge.
    """
    device, folder = usable_device(device), require_place("source", source)
    if not folder.is_dir():
        if not is_repo_id(str(source)):
            raise CSBError(f"{source} is neither a folder nor a repository owner/name on the Hub")
        api = hub()
        try:
            folder = Path(api.snapshot_download(str(source), revision=revision, token=token, allow_patterns=FILES))
        except Exception as error:  # of the network, of the Hub, of a name: in any case there is nothing to load
            raise CSBError(
                f"cannot fetch {source} from the Hub ({in_one_line(error, 160)}); check the name and the network"
            ) from error
    return load_file(folder / WEIGHTS, device, Bridge)
