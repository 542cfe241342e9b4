"""Bridges on the Hugging Face Hub; needs the extra ``hub``."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

from csb.bridge import Bridge, load
from csb.dtypes import usable_device
from csb.errors import CSBError, in_one_line, require_place

WEIGHTS, CARD, PICTURE = "model.safetensors", "README.md", "samples.png"
CONFIG = "config.json"  # of folders that an older version exported
FILES = [WEIGHTS, CARD, PICTURE, CONFIG]
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_folder(path: Path) -> bool:
    """Whether the path is an exported folder, whole or not; a run's folder has no tensors of that name."""
    return (path / WEIGHTS).exists()


def is_own(path: Path, folder: Path) -> bool:
    """Whether the path is a file that lies in the folder: no link, of a file or of a folder in it, leads out."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def is_repo_id(source: str) -> bool:
    """Whether this is spelled like "owner/name" on the Hub, and could not climb out of a folder."""
    return isinstance(source, str) and bool(_ID.fullmatch(source)) and ".." not in source


def _hub() -> ModuleType:
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
        hub = _hub()
        try:
            folder = Path(hub.snapshot_download(str(source), revision=revision, token=token, allow_patterns=FILES))
        except Exception as error:  # of the network, of the Hub, of a name: in any case there is nothing to load
            raise CSBError(
                f"cannot fetch {source} from the Hub ({in_one_line(error, 160)}); check the name and the network"
            ) from error
    return load(folder / WEIGHTS, device, Bridge)


def push_to_hub(
    source: str | Path, repo_id: str, *, private: bool = False, token: str | None = None, message: str | None = None
) -> str:
    """Uploads an exported folder to the Hub, where the repository is made if need be; returns its address.

    Args:
        source: a folder written by :func:`csb.runs.export.export`; it is loaded first, so that nothing broken leaves.
        repo_id: "owner/name".
        private: whether a repository made now is private.
        token: of the Hub; None: that of ``hf auth login``.
        message: of the commit.

    Raises:
        CSBError: the folder is no exported bridge, the name is none, or the Hub refuses.
    """
    folder = require_place("source", source)
    if not is_folder(folder):
        raise CSBError(f"{folder} is no exported bridge; write one first: csb export run=… out={folder}")
    if not is_repo_id(repo_id):
        raise CSBError(f"repo_id={repo_id!r} is not possible; give owner/name")
    for path in (folder / name for name in FILES):
        if path.exists() and not is_own(path, folder):
            raise CSBError(f"{path} is a link out of the folder, or no file; replace it, or export again")
    load(folder / WEIGHTS, of=Bridge)
    hub = _hub()
    try:
        api: Any = hub.HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        text = message or "A conditional Schrödinger bridge"
        files = {"folder_path": str(folder), "allow_patterns": FILES}
        return str(api.upload_folder(repo_id=repo_id, **files, commit_message=text))
    except Exception as error:  # as above
        raise CSBError(f"cannot upload to {repo_id} ({in_one_line(error, 160)}); nothing here was changed") from error
