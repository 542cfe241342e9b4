"""From a finished run to a folder to share: one file of tensors and their description, picture and model card."""

import contextlib
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from csb.bridge import Bridge
from csb.bridge.checkpoint import load, save
from csb.errors import CSBError, in_one_line, require_place
from csb.evaluation.catalogue import METRICS
from csb.evaluation.table import format_value, markdown_table
from csb.files import CONTEXTS, write_atomically, write_text
from csb.renamed import scores_of_today
from csb.runs.inspection import facts, mapping
from csb.runs.load import (
    CARD,
    CONFIG,
    FILES,
    PICTURE,
    WEIGHTS,
    hub,
    is_folder,
    is_inside,
    is_repo_id,
    load_any,
    read_result,
)


def export(source: str | Path, out: str | Path, overwrite: bool = False, licence: str | None = None) -> Path:
    """Writes the bridge of a run, a file or an exported folder to the folder ``out``, with a model card.

    Paths of this machine are shortened to their last part, so that the folder tells nothing about it.

    Args:
        source: see :func:`csb.load`.
        out: a new folder, or with ``overwrite`` one that holds an earlier export.
        overwrite: whether an earlier export there is replaced.
        licence: of the weights, as the Hub spells it (e.g. "mit"); the card says so where there is none.

    Raises:
        CSBError: no bridge there; ``out`` is taken, or cannot be written.
    """
    out = Path(out)
    check_out(source, out, overwrite, licence)
    bridge = load_any(source, "cpu")
    about = _without_paths({**bridge.about, "training": _training(Path(source), bridge)})
    picture = _picture(Path(source))
    text = _card(bridge, about, licence, picture is not None)  # before any file is written
    image = None if picture is None else picture.read_bytes()
    save(bridge, out / WEIGHTS, about)
    if image is not None:
        write_atomically(out / PICTURE, lambda file: file.write(image))
    write_text(out / CARD, text)
    for name, is_new in ((PICTURE, image is not None), (CONTEXTS, bridge.reference is not None), (CONFIG, False)):
        if not is_new:  # of an earlier export, which was whole so far
            (out / name).unlink(missing_ok=True)
    return out


def check_out(source: str | Path, out: Path, overwrite: bool, licence: str | None) -> None:
    """CSBError where :func:`export` could not write there, or would write over something else than an export."""
    if licence is not None and not (isinstance(licence, str) and re.fullmatch(r"[A-Za-z0-9.+-]{1,40}", licence)):
        raise CSBError(f"licence={licence!r:.60} is not possible; give an identifier such as mit or cc-by-4.0")
    if out.exists() and out.resolve() in (Path(source).resolve(), *Path(source).resolve().parents):
        raise CSBError(f"out={out} holds what is to be exported; choose another folder")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (overwrite and is_folder(out))):
        what = "an exported bridge; choose overwrite=true or" if is_folder(out) else "other files, or is one; choose"
        raise CSBError(f"out={out} holds {what} another folder")


def _training(source: Path, bridge: Bridge) -> dict[str, Any]:
    """The summary of the training: ``result.json`` of a run, or what an exported folder holds already."""
    path = (source if source.is_dir() else source.parent) / "result.json"
    if is_inside(path, path.parent):
        with contextlib.suppress(CSBError):
            return read_result(path.parent)
    return scores_of_today(mapping(bridge.about.get("training")))


def _picture(source: Path) -> Path | None:
    """The latest picture of posterior samples of a run, or that of an exported folder."""
    folder = source if source.is_dir() else source.parent
    drawn = sorted(p for p in (folder / "pictures").glob("*_backward_*.png") if not p.stem.endswith("_loss"))
    candidates = [folder / "evaluation.png", folder / PICTURE, *reversed(drawn)]
    return next((path for path in candidates if is_inside(path, folder)), None)


def _without_paths(data: Any) -> Any:
    """Plain data with absolute paths cut to their last part."""
    if isinstance(data, dict):
        return {key: _without_paths(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_paths(value) for value in data]
    if isinstance(data, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if (path := kind(data)).is_absolute():
                return path.name
    return data


def _card(bridge: Bridge, about: dict[str, Any], licence: str | None, pictured: bool) -> str:
    """The model card in Markdown: what the bridge is, what it was trained on, how good it is, and how to load it.

    ``about`` has problem, config, versions and training, any of which may be missing.
    """
    problem, config, training, versions = (
        mapping(about.get(key)) for key in ("problem", "config", "training", "versions")
    )
    found, maps = facts(bridge), bridge.transform
    kernel, y_shape = found["kernels"]["backward"], ", ".join(map(str, maps.y_shape))
    rows = {
        "x": tuple(maps.x_shape),
        "y": tuple(maps.y_shape),
        "training pairs": problem.get("n_train"),
        "steps T": found["T"],
        "iterations L": config.get("L"),
        "ᾱ_T": found["alpha_bar_T"],
        "objective": mapping(config.get("objective")).get("name"),
        "kernels": f"{kernel['network']}, covariance {kernel['covariance']}, {kernel['parametrisation']}",
        "parameters": f"{found['parameters']:,}",
        "transform": type(maps).__name__,
    }
    figures = [
        {"figure": f"{key}: {METRICS[key].label}", "what": METRICS[key].sense, "value": format_value(value)}
        for key, value in training.items()
        if key in METRICS and isinstance(value, int | float)
    ]
    table = [{"property": key, "value": format_value(value)} for key, value in rows.items() if value is not None]
    front = ["---", "library_name: csb", "tags:", "- schroedinger-bridge", "- simulation-based-inference"]
    parts = [
        "\n".join([*front, *([f"license: {licence}"] if licence else []), "---"]),
        f"# Conditional Schrödinger bridge: {problem.get('name', 'unknown problem')}",
        f"Draws posterior samples of x given y for any y in one trajectory of {found['T']} network calls.",
        f"![posterior samples]({PICTURE})" if pictured else "",
        "## Use",
        f"""```python
import csb, torch

bridge = csb.load("this/folder")  # or the name of this repository on the Hub
y = torch.zeros({y_shape})  # one observation; or a batch (B, {y_shape})
x = bridge.sample(y, 1000).x  # (1000, {", ".join(map(str, maps.x_shape))})
```""",
        "## What it is",
        markdown_table(table),
        *(["## Figures", "As measured at the end of the training.", markdown_table(figures)] if figures else []),
        "Trained with " + ", ".join(f"{key} {value}" for key, value in versions.items()) + "." if versions else "",
        "## Licence",
        f"The weights are under the licence `{licence}`." if licence else "No licence is stated for the weights.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
        if path.exists() and not is_inside(path, folder):
            raise CSBError(f"{path} is a link out of the folder, or no file; replace it, or export again")
    load(folder / WEIGHTS, of=Bridge)
    api: Any = hub().HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        text = message or "A conditional Schrödinger bridge"
        files = {"folder_path": str(folder), "allow_patterns": FILES}
        return str(api.upload_folder(repo_id=repo_id, **files, commit_message=text))
    except Exception as error:  # as above
        raise CSBError(f"cannot upload to {repo_id} ({in_one_line(error, 160)}); nothing here was changed") from error
