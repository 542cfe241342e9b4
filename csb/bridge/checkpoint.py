"""Models in files: one format, and one check of what a file says, for every kind of model.

Files come from anywhere. They hold names, which are looked up in registries and nowhere else, numbers and tensors. The
numbers decide how much memory building takes: schemas bound them, and building the model without memory first holds
them against the tensors that the file really has, so that a small file cannot ask for a large network.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from csb import files
from csb.bridge.bridge import Bridge, BridgeSpec, build_bridge
from csb.bridge.check import ContextReference
from csb.bridge.student import StudentSpec, build_student
from csb.errors import CSBError, in_one_line
from csb.files import CONTEXTS, FORMAT, LARGEST, tensors_digest, write_tensors
from csb.networks.diffusion import ConditionalSpec, DenoiserSpec, build_conditional, build_denoiser
from csb.schema import Schema

# Hydra's keys that name something to call; nothing here would call it, and csb's files never hold them
_EXECUTABLE = re.compile(r'"_(target|partial|recursive|convert|args)_": ')
_CONFIG, _CONFIG_FORMAT = "config.json", "csb-bridge-1"  # beside the tensors of an older exported folder
_REFERENCE = "contexts"  # the kind of file beside a bridge
Model = TypeVar("Model", bound=nn.Module)

KINDS: dict[str, tuple[type[Schema], Callable[[Any], nn.Module]]] = {  # a description's schema, and what it builds
    "bridge": (BridgeSpec, build_bridge),
    "denoiser": (DenoiserSpec, build_denoiser),
    "conditional": (ConditionalSpec, build_conditional),
    "student": (StudentSpec, build_student),
}


def save(model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
    """Write a model's description and weights to a safetensors file, with plain data ``about`` it.

    What a bridge's observations are checked against goes into a file of its own beside it.

    CSBError for a model made by none of the functions in :data:`KINDS`, data that are not plain, an unwritable file.
    """
    spec: Any = getattr(model, "spec", None)
    kind = next((name for name, (of, _) in KINDS.items() if isinstance(spec, of)), None)
    if kind is None:
        raise CSBError(f"a {type(model).__name__} without a description (spec) cannot be saved; use build_bridge")
    write_tensors(path, model.state_dict(), {"format": FORMAT, "kind": kind, "spec": spec.plain(), "about": about})
    if isinstance(model, Bridge) and model.reference is not None:
        save_reference(model, path)


def save_reference(bridge: Bridge, path: Path) -> None:
    """Write what :meth:`Bridge.check` compares with beside the bridge's own file, of whose tensors it names the digest.

    CSBError for a bridge without a reference, or a file that cannot be written.
    """
    header = {"format": FORMAT, "kind": _REFERENCE, "bridge": tensors_digest(bridge.state_dict())}
    write_tensors(path.with_name(CONTEXTS), vars(bridge.reference), header)


def _load_reference(path: Path, tensors: Mapping[str, Tensor]) -> ContextReference | None:
    """Return what lies beside a bridge's file of these tensors; None where there is nothing, or it is of another's."""
    if not (beside := path.with_name(CONTEXTS)).exists():
        return None
    header, found = files.read_tensors(beside)
    known = header if isinstance(header, dict) else {}
    if known.get("bridge") != tensors_digest(tensors):
        return None
    fault = "it is of another kind"
    if known.get("kind") == _REFERENCE and found.keys() == {field.name for field in fields(ContextReference)}:
        reference = ContextReference(**found)
        if not (fault := reference.fault()):
            return reference
    raise CSBError(f"{beside} is not what csb writes beside a bridge ({fault}); restore it, or remove it")


def load(path: Path, device: str | torch.device = "cpu", of: type[Model] = nn.Module) -> Model:
    """Return the model of a file, on a device and in evaluation mode, with its ``spec`` and ``about``.

    ``path`` is of a file that :func:`save` wrote, an older .pt file, or the tensors of an older exported folder.
    CSBError for no such file, or one that is damaged, hostile, or holds no model of the class ``of``.
    """
    size = files.require_file(path)
    header, tensors = _content(path)
    kind = header.get("kind") if isinstance(header, dict) else None
    if not isinstance(kind, str) or kind not in KINDS or header.get("format") != FORMAT:
        raise CSBError(f"{path} is not a csb file of format {FORMAT}; it was written by something else")
    schema, build = KINDS[kind]
    try:
        about, given = (_plain(header.get(part), str(path)) for part in ("about", "spec"))
        spec = schema.read(given, kind)
        with torch.device("meta"):
            expected = build(spec).state_dict()
        fault = _fault(tensors, size, expected)
        if fault or not isinstance(about, dict):
            raise ValueError(fault or f"about is of type {type(about).__name__}; expected a dictionary")
        model: Any = build(spec)
        model.load_state_dict(tensors)
    except (KeyError, RuntimeError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise CSBError(f"{path} does not hold a whole {kind}: {in_one_line(error)}") from error
    if not isinstance(model, of):
        raise CSBError(f"{path} holds a {type(model).__name__}, not a {of.__name__}; give another file")
    if isinstance(model, Bridge):
        model.reference = _load_reference(path, tensors)
    model.about = about  # pyright: ignore[reportArgumentType]
    return model.to(device).eval()


def _content(path: Path) -> tuple[Any, Any]:
    """Return the header of a model's file, with "format", "kind", "spec" and "about", and its tensors, unchecked."""
    if files.is_archive(path):
        data = files.load_state(path)
        kind = next((name for name in KINDS if name in data), "")
        return {"format": FORMAT, "kind": kind, "spec": data.get(kind), "about": data.get("about")}, data.get("weights")
    header, tensors = files.read_tensors(path)
    if header is not None:
        return header, tensors
    config = files.read_json(path.with_name(_CONFIG))
    if config.get("format") != _CONFIG_FORMAT or config.get("sha256", files.checksum(path)) != files.checksum(path):
        raise CSBError(
            f"{path} is not the file that {_CONFIG} beside it describes (format {_CONFIG_FORMAT}, SHA-256); export the "
            f"bridge again"
        )
    return {"format": FORMAT, "kind": "bridge", "spec": config.get("bridge"), "about": config.get("about")}, tensors


def _plain(data: Any, where: str) -> Any:
    """Return data as JSON holds it. ValueError, TypeError or RecursionError where it is no plain data, or endless.

    An archive may hold lists of lists without end in a few bytes: writing stops where no file of csb's is as long.
    """
    text = io.StringIO()
    for part in json.JSONEncoder(allow_nan=False).iterencode(data):
        text.write(part)
        if text.tell() > LARGEST:
            raise ValueError("its description is longer than any of csb's; it was not written by csb")
    if found := _EXECUTABLE.search(text.getvalue()):
        raise ValueError(f"its description has the key {found[0][:-2]}: csb runs nothing that a file names; remove it")
    return files.parse_json(text.getvalue(), where)


def _fault(tensors: Any, size: int, expected: Mapping[str, Tensor]) -> str:
    """Say why a file's tensors are not those expected, "" where they are.

    They must be dense floats on the CPU, finite, and no more than a file of this size holds: a tensor of strides 0, or
    that shares its numbers with others, claims more. A transform knows what older files lack or round.
    """
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        return "weights are no dictionary of tensors; the file is of another kind"
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
            return f"the tensor {name!r:.80} is {tensor.dtype}, {tensor.layout}; expected dense floats"
    if (claimed := sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())) > size:
        return f"its tensors claim {claimed} bytes and the file has {size}; it was not written by csb"

    def described(tensor: Tensor | None, of_transform: bool) -> str:
        if tensor is None:
            return "missing"
        return f"of shape {tuple(tensor.shape)}" + ("" if of_transform else f" and {tensor.dtype}")

    for name in {**expected, **tensors}:
        of_transform = name.startswith("transform.")
        wanted, found = (described(part.get(name), of_transform) for part in (expected, tensors))
        if found != wanted and not (of_transform and found == "missing"):
            return f"the tensor {name!r:.80} is {found} where its description asks for {wanted}"
        if name in tensors and not bool(torch.isfinite(tensors[name]).all()):
            return f"the tensor {name!r:.80} holds NaN or infinite values; train again, or restore the file"
    return ""
