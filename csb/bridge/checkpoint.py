"""Files: written atomically, read with ``weights_only=True``, and holding plain data and tensors only."""

import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import nn

from csb.bridge.bridge import Bridge
from csb.bridge.build import BridgeSpec, build_bridge
from csb.bridge.student import Student, build_student
from csb.bridge.untrusted import (
    read_spec,
    read_student,
    require_counts,
    require_plain,
    require_sizes,
    require_weights,
)
from csb.errors import CSBError, in_one_line
from csb.networks.conditional import ConditionalSpec, FlowNetwork, ScoreNetwork, build_conditional
from csb.networks.denoiser import DenoiserSpec, NetworkDenoiser, build_denoiser

FORMAT = 1
Model = TypeVar("Model", bound=nn.Module)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Runs ``write`` on a temporary file beside ``path``, syncs it to disk and renames it into place.

    A kill at any instant leaves the old file or the new one, never a part. CSBError where the disk is full or the
    folder cannot be written; what interrupts it (Ctrl+C, SIGTERM, no memory) is raised as it is.
    """
    name, outer = None, sys.exception()
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
    except (OSError, RuntimeError) as error:
        cause = _cause(error, outer)
        if isinstance(cause, MemoryError) or not isinstance(cause, Exception):
            raise cause from None
        raise CSBError(f"cannot write {path}: {in_one_line(cause)}; free space or choose another folder") from error
    finally:
        if name is not None and os.path.exists(name):
            os.unlink(name)


def _cause(error: BaseException, outer: BaseException | None) -> BaseException:
    """What began the failure of a write, where an error came of another one; of the system's, the first.

    After a full disk, or Ctrl+C, torch.save fails once more, with a RuntimeError, on closing its archive.
    ``outer`` is what was being handled before the write began.
    """
    found, seen = error, error
    while (before := seen.__context__) is not None and before is not outer:
        seen = before
        if isinstance(seen, OSError | MemoryError) or not isinstance(seen, Exception):
            found = seen
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(folder: Path, of: str = "") -> None:
    """Deletes temporary files of files called ``of…`` that a killed run left in the folder or below."""
    for path in folder.rglob(f".{of}*.tmp"):
        path.unlink(missing_ok=True)


class _Stream:
    """A file that torch writes to, until :meth:`end`; what comes later is dropped.

    Where Ctrl+C or a lack of memory struck before its archive was ended, the archive writes its end when it is
    destroyed, from C++, where an error, as that of a closed file, ends the process at once.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.write, self.seek, self.flush = file.write, file.seek, file.flush

    def end(self) -> None:
        self.write, self.seek = len, max  # functions of C: no signal is handled inside of them


def save(path: Path, data: dict[str, Any]) -> None:
    """Plain data and tensors to a file, atomically."""

    def write(file: BinaryIO) -> None:
        stream = _Stream(file)
        try:
            torch.save(data, stream)  # pyright: ignore[reportArgumentType]
        finally:
            stream.end()

    write_atomically(path, write)


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
        raise CSBError(
            f"{path} is damaged or not a csb file ({in_one_line(error)}); restore it or train again"
        ) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CSBError(f"{path} is not a csb file of format {FORMAT}; it was written by something else")
    return data


def save_bridge(path: Path, bridge: Bridge, spec: BridgeSpec, about: dict[str, Any]) -> None:
    """The bridge's description and weights. ``about`` is plain data to go with it (problem, step, versions …)."""
    save(path, {"format": FORMAT, "bridge": spec.plain(), "weights": bridge.state_dict(), "about": about})


def _tensors(weights: Any) -> Mapping[str, torch.Tensor]:
    """The tensors of a file. CSBError where they are none, or not finite numbers."""
    if not isinstance(weights, dict) or not all(isinstance(t, torch.Tensor) for t in weights.values()):
        raise CSBError("weights are no dictionary of tensors; the file is of another kind")
    require_weights(weights)
    return weights


def _restore(
    path: Path, device: str | torch.device, key: str, kind: str, build: Callable[[dict[str, Any]], Model]
) -> tuple[Model, dict[str, Any]]:
    """The model that ``build`` makes of a file's description, with the file's weights, and what the file says of it.

    The description has a network, and shapes of data beside it or in its transform.
    """
    data = load(path)
    try:
        described, about, weights = data[key], data["about"], _tensors(data["weights"])
        require_plain(about, "about")
        require_plain(described, key)
        shapes = {str(name): tuple(tensor.shape) for name, tensor in weights.items()}
        require_counts(described["network"], f"{key}.network", shapes)
        require_sizes(described, key)
        require_sizes(described.get("transform", {}), f"{key}.transform")
        model = build(described)
        model.load_state_dict(weights)
    except (CSBError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CSBError(f"{path} does not hold a whole {kind} ({in_one_line(error)}); train again") from error
    return model.to(device).eval(), about


def restore_bridge(path: Path, spec: Any, weights: Any, about: Any, device: str | torch.device) -> Bridge:
    """The bridge that a file describes, its content held against :mod:`csb.bridge.untrusted` before any is built.

    Raises CSBError, naming ``path``, where it is not whole, hostile, or of another kind.
    """
    try:
        tensors = _tensors(weights)
        if not isinstance(about, dict):
            raise CSBError(f"about is of type {type(about).__name__}; expected a dictionary")
        require_plain(about, "about")
        read = read_spec(spec, {str(name): tuple(tensor.shape) for name, tensor in tensors.items()})
        bridge = build_bridge(read)
        bridge.load_state_dict(tensors)
    except (CSBError, KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise CSBError(f"{path} does not hold a whole bridge: {in_one_line(error)}") from error
    bridge.about, bridge.spec = about, read
    return bridge.to(device).eval()


def load_bridge(path: Path, device: str | torch.device = "cpu") -> tuple[Bridge, dict[str, Any]]:
    """The bridge of a file and what the file says about it, which is also the bridge's ``about``."""
    data = load(path)
    bridge = restore_bridge(path, data.get("bridge"), data.get("weights"), data.get("about"), device)
    return bridge, bridge.about


def save_denoiser(path: Path, denoiser: NetworkDenoiser, about: dict[str, Any]) -> None:
    """A trained denoiser's description and weights, with plain data about it."""
    data = {"format": FORMAT, "denoiser": denoiser.spec.plain(), "weights": denoiser.state_dict(), "about": about}
    save(path, data)


def load_denoiser(path: Path, device: str | torch.device = "cpu") -> tuple[NetworkDenoiser, dict[str, Any]]:
    """The denoiser of a file and what the file says about it."""
    return _restore(path, device, "denoiser", "denoiser", lambda spec: build_denoiser(DenoiserSpec.from_plain(spec)))


def save_conditional(path: Path, model: ScoreNetwork | FlowNetwork, about: dict[str, Any]) -> None:
    """A trained score's or flow's description and weights, with plain data about it."""
    data = {"format": FORMAT, "conditional": model.spec.plain(), "weights": model.state_dict(), "about": about}
    save(path, data)


def load_conditional(
    path: Path, device: str | torch.device = "cpu"
) -> tuple[ScoreNetwork | FlowNetwork, dict[str, Any]]:
    """The score or flow of a file and what the file says about it."""
    return _restore(
        path, device, "conditional", "score or flow", lambda spec: build_conditional(ConditionalSpec.from_plain(spec))
    )


def save_student(path: Path, student: Student, about: dict[str, Any]) -> None:
    """A student's description and weights, with plain data about it."""
    save(path, {"format": FORMAT, "student": student.spec.plain(), "weights": student.state_dict(), "about": about})


def load_student(path: Path, device: str | torch.device = "cpu") -> tuple[Student, dict[str, Any]]:
    """The student of a file and what the file says of it, held against :mod:`csb.bridge.untrusted` before it is built.

    Raises CSBError, naming ``path``, where it is not whole, hostile, or of another kind.
    """
    data = load(path)
    try:
        tensors, about = _tensors(data.get("weights")), data.get("about")
        if not isinstance(about, dict):
            raise CSBError(f"about is of type {type(about).__name__}; expected a dictionary")
        require_plain(about, "about")
        read = read_student(data.get("student"), {str(name): tuple(t.shape) for name, t in tensors.items()})
        student = build_student(read)
        student.load_state_dict(tensors)
    except (CSBError, KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise CSBError(f"{path} does not hold a whole student: {in_one_line(error)}") from error
    return student.to(device).eval(), about
