"""Files: written whole or not at all, and read without trusting what they say of themselves.

A file is safetensors. Its header holds, beside the tensors' names and shapes, a description as JSON after the SHA-256
of the description and the tensors. Older versions wrote archives of torch, which are read with ``weights_only=True``.
"""

import dataclasses
import hashlib
import json
import math
import os
import pickletools
import stat
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from csb.errors import CSBError, in_one_line
from csb.schema import Schema

FORMAT = 1  # of descriptions
LARGEST = 16 * 2**20  # bytes of JSON, and of the header of a file of tensors
SUFFIX, OLD_SUFFIX = ".safetensors", ".pt"  # of files of models
CONTEXTS = "contexts.safetensors"  # beside a bridge: what its observations are checked against
_TENSOR, _NUMBERS = "$tensor", "$numbers"  # keys of what stands beside the description
_MANY = 64  # numbers of a list, from which on it stands there
_MODULES = ("collections", "torch", "torch._utils")  # that an archive of dictionaries and tensors names
T = TypeVar("T")


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Run ``write`` on a temporary file beside ``path``, sync it to disk and rename it into place.

    A kill at any instant leaves the old file or the new one, never a part. CSBError where the disk is full or the
    folder cannot be written; what interrupts it (Ctrl+C, SIGTERM, no memory) is raised as it is.
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
    except OSError as error:
        raise CSBError(f"cannot write {path}: {in_one_line(error)}; free space or choose another folder") from error
    finally:
        if name is not None and os.path.exists(name):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(folder: Path, of: str = "") -> None:
    """Delete temporary files of files called ``of…`` that a killed run left in the folder or below."""
    for path in folder.rglob(f".{of}*.tmp"):
        path.unlink(missing_ok=True)


def model_file(folder: str | Path, name: str) -> Path:
    """Return the file of a model in a folder: the existing one, of the new suffix or the old, else where to write it.

    ``name`` has no suffix: "bridge", "score", "half_steps/01_backward" and so on.
    """
    new, old = (Path(folder) / f"{name}{suffix}" for suffix in (SUFFIX, OLD_SUFFIX))
    return old if old.exists() and not new.exists() else new


def digest(value: Any) -> str:
    """Twenty hexadecimal digits that stand for plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's bytes. OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path) -> int:
    """Return the size of a file in bytes. CSBError, without opening it, for a folder, a device, a pipe, or nothing."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise CSBError(
            f"{path} does not exist or cannot be reached; give the folder of a finished run or a file that csb wrote"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CSBError(f"{path} is not a file; give the folder of a finished run or a file that csb wrote")
    return status.st_size


def _plain(obj: Any) -> Any:
    """The object as JSON values: tensors and arrays as lists, named tuples and dataclasses as objects."""
    if isinstance(obj, torch.Tensor | np.ndarray | np.generic):
        obj = obj.tolist()
    elif isinstance(obj, Schema):
        obj = vars(obj)
    elif dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        obj = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    elif isinstance(obj, tuple) and hasattr(obj, "_asdict"):
        obj = obj._asdict()  # pyright: ignore
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    return str(obj) if isinstance(obj, os.PathLike) else obj


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` in UTF-8, atomically, and return the path. CSBError for a folder that cannot be written."""
    write_atomically(Path(path), lambda file: file.write(text.encode()))
    return Path(path)


def json_text(obj: Any) -> str:
    """``obj`` as indented JSON, converted as in :func:`write_json`. TypeError for a value that JSON cannot hold."""
    return json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False)


def write_json(path: str | os.PathLike[str], obj: Any) -> Path:
    """Write ``obj`` as indented JSON, atomically, and return the path.

    Tensors, arrays, named tuples, dataclasses and paths are converted. NaN and ±∞, which JSON lacks, become null.

    Raises:
        CSBError: a value of a type that JSON cannot hold, or a folder that cannot be written; an existing file is
            left as it was.
    """
    try:
        text = json_text(obj)
    except TypeError as error:
        raise CSBError(f"cannot write {path} as JSON: {error}; convert the value to numbers, text or lists") from error
    return write_text(path, f"{text}\n")


class Stored(dict[str, Any]):
    """A dictionary that was read from a file; what it lacks is a CSBError that names the file, and no KeyError."""

    def __init__(self, data: Mapping[str, Any], where: str = "a file") -> None:
        super().__init__(data)
        self.where = where

    def __missing__(self, key: str) -> NoReturn:
        raise CSBError(f"{self.where} lacks {key!r:.80} beside {', '.join(self):.80}; restore it, or train again")


def parse_json(text: str | bytes, where: str) -> Any:
    """Return the content of JSON, its objects as :class:`Stored`. ValueError or RecursionError for anything else."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    return json.loads(text, object_hook=lambda data: Stored(data, where), parse_constant=refuse)


def read_json(path: Path, kind: type[T] = dict) -> T:
    """Return the content of a JSON file. CSBError where it is none, too large, or its top level is of another kind."""
    if (size := require_file(path)) > LARGEST:
        raise CSBError(f"{path} has {size} bytes; expected at most {LARGEST}; restore it")
    try:
        found = parse_json(path.read_bytes(), str(path))
    except (OSError, ValueError, RecursionError) as error:  # among them JSONDecodeError and UnicodeDecodeError
        raise CSBError(f"cannot read {path} ({in_one_line(error, 80)}); restore it, or move it away") from error
    if not isinstance(found, kind):
        raise CSBError(f"{path} is not what csb writes, a {kind.__name__}; restore it, or move it away")
    return found


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of the names, types, shapes and numbers of tensors on the CPU."""
    total = hashlib.sha256(f"{len(text)} {text}".encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name, as they would lie in a file."""
    return _digest("", {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and plain data to one safetensors file, atomically.

    Raises:
        CSBError: the file cannot be written; ``header`` is too large, or holds NaN or an object.
    """
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CSBError(f"what goes with {path} is not plain data ({error}); leave out NaN and objects") from error
    data = safetensors.torch.save(held, {"csb": f"{_digest(text, held)} {text}"})  # one entry: others have no order
    if (length := int.from_bytes(data[:8], "little")) > LARGEST:
        raise CSBError(f"what goes with {path} takes {length} bytes; expected at most {LARGEST}; leave something out")
    write_atomically(path, lambda file: file.write(data))


def read_tensors(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return the plain data and the tensors that :func:`write_tensors` wrote.

    Returns:
        The header, None where the file holds tensors alone, and the tensors by name, on the CPU.

    Raises:
        CSBError: no such file, or its content is damaged or of another kind.
    """
    size = require_file(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(LARGEST, size - 8):
            raise ValueError(f"its header claims {length} of its {size} bytes")
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
        if "csb" not in about:
            return None, tensors
        digest, _, text = about["csb"].partition(" ")
        if digest != _digest(text, tensors):
            raise ValueError("its content is not what was written: another SHA-256")
        return parse_json(text, str(path)), tensors
    except Exception as error:  # a library of Rust's raises whatever it likes on broken bytes
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CSBError:
    return CSBError(f"{path} is damaged or not a csb file ({in_one_line(error, 160)}); restore it or train again")


def save_state(path: Path, data: Mapping[str, Any]) -> None:
    """Write a nest of plain data and tensors to one safetensors file, atomically; :func:`load_state` reads it."""
    tensors: dict[str, Tensor] = {}
    plain = _taken_out(data, "", tensors)
    write_tensors(path, tensors, {"format": FORMAT, "state": plain})


def _taken_out(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a nest with the name of a tensor in the place of each, which goes into ``tensors``.

    Lists of many numbers, as of losses, go there in float64, for the header is bounded; so does what JSON lacks, NaN.
    """
    if isinstance(value, Mapping):
        return {str(key): _taken_out(one, f"{name}.{key}" if name else str(key), tensors) for key, one in value.items()}
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    is_list = isinstance(value, list | tuple)
    is_many = is_list and len(value) > _MANY and all(isinstance(one, float) for one in value)
    if is_many or (isinstance(value, float) and not math.isfinite(value)):
        tensors[name] = torch.tensor(value, dtype=torch.float64)
        return {_NUMBERS: name}
    return [_taken_out(one, f"{name}.{i}", tensors) for i, one in enumerate(value)] if is_list else value


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the nest that :func:`_taken_out` took apart; tuples have become lists.

    Tensors are copies: those of the file are mapped, and reading them fails once it is truncated in place.
    """
    if isinstance(value, list):
        return [_put_back(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]].clone()
    if value.keys() == {_NUMBERS}:
        return tensors[value[_NUMBERS]].tolist()
    return {key: _put_back(one, tensors) for key, one in value.items()}


def is_archive(path: Path) -> bool:
    """Tell whether a file is an archive of torch, as older versions wrote them."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def load_state(path: Path) -> dict[str, Any]:
    """Return what :func:`save_state` wrote, on the CPU; also that of an older version, an archive of torch.

    CSBError where the file is missing, broken or something else.
    """
    size = require_file(path)
    try:
        if is_archive(path):
            data = _read_archive(path, size)
        else:
            header, tensors = read_tensors(path)
            data = {**_put_back(header["state"], tensors), "format": header["format"]}
    except CSBError:
        raise
    except Exception as error:  # broken bytes make an unpickler raise anything
        raise _damaged(path, error) from error
    if not isinstance(data, dict) or data.pop("format", FORMAT) != FORMAT:
        raise CSBError(f"{path} is not a csb file of format {FORMAT}; it was written by something else")
    return data


def _read_archive(path: Path, size: int) -> Any:
    """Return what torch.save wrote. Numbers are stored as they are: what has to be unpacked is refused before it is."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(one.file_size for one in members) > size or any(one.compress_type for one in members):
            raise zipfile.BadZipFile("it is compressed, or claims more bytes than it has")
        if (broken := archive.testzip()) is not None:  # torch itself does not compare the checksums
            raise zipfile.BadZipFile(f"the checksum of {broken} is wrong")
        for one in members:
            if one.filename.endswith("/data.pkl"):
                _require_harmless(archive.read(one))
    return torch.load(path, map_location="cpu", weights_only=True)


def _require_harmless(pickled: bytes) -> None:
    """ValueError for a pickle that names more than dictionaries and tensors, such as a bytearray of any size."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if "GLOBAL" in opcode.name and (argument is None or str(argument).split(" ")[0] not in _MODULES):
            raise ValueError(f"it names {argument or 'something'!r:.80}")
