"""Files: written atomically, read with ``weights_only=True``, and holding plain data and tensors only."""

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import nn

from csb.bridge.bridge import Bridge
from csb.bridge.build import BridgeSpec, build_bridge
from csb.errors import CSBError
from csb.networks.conditional import ConditionalSpec, FlowNetwork, ScoreNetwork, build_conditional
from csb.networks.denoiser import DenoiserSpec, NetworkDenoiser, build_denoiser

FORMAT = 1
Model = TypeVar("Model", bound=nn.Module)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Runs ``write`` on a temporary file beside ``path``, syncs it to disk and renames it into place.

    A kill at any instant leaves the old file or the new one, never a part. CSBError where the disk is full or the
    folder cannot be written.
    """
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
            name = file.name
            write(file)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # temporary files are private; results are as readable as any other file
        os.replace(name, path)
        name = None
    except (OSError, RuntimeError) as error:  # torch.save wraps a full disk in a RuntimeError
        raise CSBError(f"cannot write {path}: {_line(error)}; free space or choose another folder") from error
    finally:
        if name is not None and os.path.exists(name):
            os.unlink(name)


def _line(error: Exception) -> str:
    """What an error says, in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(folder: Path, of: str = "") -> None:
    """Deletes temporary files of files called ``of…`` that a killed run left in the folder or below."""
    for path in folder.rglob(f".{of}*.tmp"):
        path.unlink(missing_ok=True)


def save(path: Path, data: dict[str, Any]) -> None:
    """Plain data and tensors to a file, atomically."""
    write_atomically(path, lambda file: torch.save(data, file))


def load(path: Path) -> dict[str, Any]:
    """What :func:`save` wrote, onto the CPU. CSBError where the file is missing, broken or holds anything else."""
    if not path.is_file():
        raise CSBError(f"{path} does not exist; give the folder of a finished run or a file that csb wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:  # torch itself does not compare the checksums
                raise zipfile.BadZipFile(f"the checksum of {broken} is wrong")
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make an unpickler raise anything
        raise CSBError(f"{path} is damaged or not a csb file ({_line(error)}); restore it or train again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CSBError(f"{path} is not a csb file of format {FORMAT}; it was written by something else")
    return data


def save_bridge(path: Path, bridge: Bridge, spec: BridgeSpec, about: dict[str, Any]) -> None:
    """The bridge's description and weights. ``about`` is plain data to go with it (problem, step, versions …)."""
    save(path, {"format": FORMAT, "bridge": spec.plain(), "weights": bridge.state_dict(), "about": about})


def _restore(
    path: Path, device: str | torch.device, kind: str, build: Callable[[dict[str, Any]], Model]
) -> tuple[Model, dict[str, Any]]:
    """The model that ``build`` makes of a file's content, with the file's weights, and what the file says about it."""
    data = load(path)
    try:
        model, about = build(data), data["about"]
        model.load_state_dict(data["weights"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CSBError(f"{path} does not hold a whole {kind} ({_line(error)}); train again") from error
    return model.to(device).eval(), about


def load_bridge(path: Path, device: str | torch.device = "cpu") -> tuple[Bridge, dict[str, Any]]:
    """The bridge of a file and what the file says about it, which is also the bridge's ``about``."""
    bridge, about = _restore(path, device, "bridge", lambda data: build_bridge(BridgeSpec.from_plain(data["bridge"])))
    bridge.about = about
    return bridge, about


def save_denoiser(path: Path, denoiser: NetworkDenoiser, about: dict[str, Any]) -> None:
    """A trained denoiser's description and weights, with plain data about it."""
    data = {"format": FORMAT, "denoiser": denoiser.spec.plain(), "weights": denoiser.state_dict(), "about": about}
    save(path, data)


def load_denoiser(path: Path, device: str | torch.device = "cpu") -> tuple[NetworkDenoiser, dict[str, Any]]:
    """The denoiser of a file and what the file says about it."""
    return _restore(path, device, "denoiser", lambda data: build_denoiser(DenoiserSpec.from_plain(data["denoiser"])))


def save_conditional(path: Path, model: ScoreNetwork | FlowNetwork, about: dict[str, Any]) -> None:
    """A trained score's or flow's description and weights, with plain data about it."""
    data = {"format": FORMAT, "conditional": model.spec.plain(), "weights": model.state_dict(), "about": about}
    save(path, data)


def load_conditional(
    path: Path, device: str | torch.device = "cpu"
) -> tuple[ScoreNetwork | FlowNetwork, dict[str, Any]]:
    """The score or flow of a file and what the file says about it."""
    return _restore(
        path, device, "score or flow", lambda data: build_conditional(ConditionalSpec.from_plain(data["conditional"]))
    )
