"""Bridges to share: a folder of ``config.json`` (what the bridge is) and ``model.safetensors`` (its tensors).

Neither file can hold code. What they say is checked by :mod:`csb.bridge.untrusted` before anything is built from it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from csb.bridge.bridge import Bridge
from csb.bridge.checkpoint import restore_bridge, write_atomically
from csb.errors import CSBError, in_one_line

FOLDER_FORMAT = "csb-bridge-1"
CONFIG, WEIGHTS, CARD, PICTURE = "config.json", "model.safetensors", "README.md", "samples.png"
_LARGEST = 16 * 2**20  # bytes of config.json


def is_folder(path: Path) -> bool:
    """Whether the path is a folder of this format, whole or not; a run's folder has no tensors of that name."""
    return (path / WEIGHTS).exists()


def is_own(path: Path, folder: Path) -> bool:
    """Whether the path is a file that lies in the folder: no link, of a file or of a folder in it, leads out."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def save_folder(folder: Path, bridge: Bridge, about: dict[str, Any]) -> None:
    """Writes a loaded bridge and plain data about it. CSBError where it cannot be written, or about is not plain."""
    if bridge.spec is None:
        raise CSBError("this bridge was not loaded from a file; save it by training, then load it, e.g. with csb.load")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in bridge.state_dict().items()}
    data = save(tensors, metadata={"format": "pt"})
    of = {"bridge": bridge.spec.plain(), "sha256": hashlib.sha256(data).hexdigest(), "about": about}
    config = {"format": FOLDER_FORMAT, **of}
    try:
        text = json.dumps(config, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise CSBError(f"what goes with the bridge is not plain data ({error}); it holds NaN or an object") from error
    write_atomically(folder / WEIGHTS, lambda file: file.write(data))
    write_atomically(folder / CONFIG, lambda file: file.write(text.encode()))


def _config(path: Path) -> dict[str, Any]:
    """The content of config.json. CSBError where it is missing, too large, or no JSON of this format."""
    try:
        if path.stat().st_size > _LARGEST:
            raise CSBError(f"{path} has {path.stat().st_size} bytes; expected at most {_LARGEST}")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CSBError(
            f"cannot read {path}: {error.strerror or error}; give the folder of an exported bridge"
        ) from error
    except (ValueError, RecursionError) as error:  # among them JSONDecodeError and UnicodeDecodeError
        raise CSBError(
            f"{path} is not JSON ({str(error) or type(error).__name__:.80}); export the bridge again"
        ) from error
    if not isinstance(data, dict) or data.get("format") != FOLDER_FORMAT:
        said = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise CSBError(f"{path} is not of format {FOLDER_FORMAT} but {said!r:.80}; it is of another kind or version")
    return data


def load_folder(folder: Path, device: str | torch.device = "cpu") -> Bridge:
    """The bridge of a folder, ``bridge.about`` what goes with it.

    Raises CSBError, in one line, where the folder is not whole, hostile, or of another kind.
    """
    config, path = _config(folder / CONFIG), folder / WEIGHTS
    if not path.is_file():
        raise CSBError(f"{path} is not a file; export the bridge again")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        message = in_one_line(error, 160)
        raise CSBError(f"{path} is damaged or not a safetensors file ({message}); export the bridge again") from error
    bridge = restore_bridge(folder, config.get("bridge"), weights, config.get("about"), device)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if config.get("sha256", found) != found:  # older folders hold no checksum
        raise CSBError(f"{path} is not the file that {CONFIG} beside it describes (SHA-256); export the bridge again")
    return bridge
