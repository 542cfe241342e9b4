"""Models in files: one format, and one check of what a file says, for bridges, scores, flows, denoisers and students.

Files come from anywhere. They hold names, numbers and tensors. Names are looked up in registries and nowhere else. The
numbers decide how much memory and time building takes: they are held against the tensors that the file really holds, by
building the model without memory first, so that a small file cannot ask for a large network.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from csb.bridge.bridge import Bridge, Precision
from csb.bridge.specs import BridgeSpec, build_bridge
from csb.bridge.student import Student, StudentSpec, build_student
from csb.errors import CSBError, in_one_line
from csb.files import FORMAT, checksum, load_state, parse_json, read_json, read_tensors, require_file, write_tensors
from csb.networks.conditional import ConditionalSpec, FlowNetwork, ScoreNetwork, build_conditional
from csb.networks.denoiser import DenoiserSpec, NetworkDenoiser, build_denoiser

_DEEPEST, _LONGEST, _MOST = 32, 100_000, 1_000_000  # levels of nesting, entries of a list, and of everything
_COORDINATES = 2**26  # of a state or an observation
_SMALL = 64  # what no check needs to look at
_EXECUTABLE = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")  # Hydra's; csb's files never hold them
_CONFIG, _CONFIG_FORMAT = "config.json", "csb-bridge-1"  # beside the tensors of an older exported folder
Model = TypeVar("Model", bound=nn.Module)


KINDS: dict[str, tuple[type[Any], Callable[[Any], nn.Module]]] = {  # the class of a description, and what it builds
    "bridge": (BridgeSpec, build_bridge),
    "denoiser": (DenoiserSpec, build_denoiser),
    "conditional": (ConditionalSpec, build_conditional),
    "student": (StudentSpec, build_student),
}
_READERS: dict[str, TypeAdapter[Any]] = {kind: TypeAdapter(spec) for kind, (spec, _) in KINDS.items()}


def save(model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
    """Write a model's description and weights to a safetensors file.

    Args:
        model: made by one of the functions in :data:`KINDS`, or loaded.
        path: of the file.
        about: plain data that goes with it (problem, configuration, versions …).

    Raises:
        CSBError: the model has no description, ``about`` is not plain data, or the file cannot be written.
    """
    spec = getattr(model, "spec", None)
    kind = next((name for name, (of, _) in KINDS.items() if isinstance(spec, of)), None)
    if kind is None:
        raise CSBError(f"a {type(model).__name__} without a description (spec) cannot be saved; use build_bridge")
    header = {"format": FORMAT, "kind": kind, "spec": spec.plain(), "about": about}  # pyright: ignore
    write_tensors(path, model.state_dict(), header)


def load(path: Path, device: str | torch.device = "cpu", of: tuple[type[Model], ...] = (nn.Module,)) -> Model:
    """Return the model of a file, on a device and in evaluation mode.

    Args:
        path: of a file that :func:`save` wrote, an older .pt file, or the tensors of an older exported folder.
        device: where the model goes.
        of: the classes of which it must be one.

    Returns:
        The model; ``model.spec`` is its description and ``model.about`` the plain data that goes with it.

    Raises:
        CSBError: no such file, or it is damaged, hostile, or of another kind.
    """
    size = require_file(path)
    header, tensors = _content(path)
    kind = header.get("kind") if isinstance(header, dict) else None
    if not isinstance(kind, str) or kind not in KINDS or header.get("format") != FORMAT:
        raise CSBError(f"{path} is not a csb file of format {FORMAT}; it was written by something else")
    try:
        if not isinstance(about := header.get("about"), dict):
            raise CSBError(f"about is of type {type(about).__name__}; expected a dictionary")
        require_plain(about, "about")
        _require_tensors(tensors, size)
        spec = _read_spec(kind, header.get("spec"), tensors)
        model: Any = KINDS[kind][1](spec)
        model.load_state_dict(tensors)
    except (CSBError, KeyError, RuntimeError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise CSBError(f"{path} does not hold a whole {kind}: {in_one_line(error)}") from error
    if not isinstance(model, of):
        wanted = " or ".join(one.__name__ for one in of)
        raise CSBError(f"{path} holds a {type(model).__name__}, not a {wanted}; give another file")
    model.about, model.spec = parse_json(json.dumps(about), str(path)), spec
    return model.to(device).eval()


def _content(path: Path) -> tuple[Any, Any]:
    """Return the header of a model's file, with "format", "kind", "spec" and "about", and its tensors, unchecked."""
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive:
        data = load_state(path)
        kind = next((name for name in KINDS if name in data), "")
        return {"format": FORMAT, "kind": kind, "spec": data.get(kind), "about": data.get("about")}, data.get("weights")
    header, tensors = read_tensors(path)
    if header is not None:
        return header, tensors
    config = read_json(path.with_name(_CONFIG))
    if config.get("format") != _CONFIG_FORMAT:
        said = config.get("format")
        raise CSBError(f"{path.with_name(_CONFIG)} is not of format {_CONFIG_FORMAT} but {said!r:.80}; export it again")
    if "sha256" in config and config["sha256"] != checksum(path):
        raise CSBError(f"{path} is not the file that {_CONFIG} beside it describes (SHA-256); export the bridge again")
    return {"format": FORMAT, "kind": "bridge", "spec": config.get("bridge"), "about": config.get("about")}, tensors


def require_plain(data: Any, where: str) -> None:
    """CSBError unless data is made of dictionaries with string keys, lists, strings, finite numbers, booleans and None.

    Keys that tell Hydra to call something are refused as well: nothing here would call it, and no honest file has any.
    """
    waiting, seen = [(data, where, 0)], 0
    while waiting:
        value, place, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST:
            raise CSBError(f"{place:.200} is nested more than {_DEEPEST} deep, or endless; it was not written by csb")
        if isinstance(value, dict):
            for key, inner in value.items():
                _require_key(key, inner, place)
                waiting.append((inner, f"{place}.{key:.80}", depth + 1))
        elif isinstance(value, list | tuple):
            if len(value) > _LONGEST:
                raise CSBError(f"{place} has {len(value)} entries; expected at most {_LONGEST}")
            waiting += [(inner, f"{place}[{i}]", depth + 1) for i, inner in enumerate(value)]
        elif isinstance(value, int | float) and not abs(value) < (math.inf if isinstance(value, float) else 2**63):
            raise CSBError(f"{place} is {value!r:.40}; expected a finite number")
        elif not (value is None or isinstance(value, str | bool | int | float)):
            raise CSBError(f"{place} is of type {type(value).__name__}; expected plain data")


def _require_key(key: Any, value: Any, where: str) -> None:
    """CSBError for a key that is no string, or one of Hydra's that names something to run."""
    if not isinstance(key, str):
        raise CSBError(f"{where} has the key {key!r:.80}, which is no string; it was not written by csb")
    if key in _EXECUTABLE:
        raise CSBError(f"{where} has the key {key!r}, {value!r:.80}: csb runs nothing that a file names; remove it")


def _require_tensors(tensors: Any, size: int) -> None:
    """CSBError unless these are dense real tensors by name, finite, on the CPU, and no more than a file of this size.

    A tensor whose strides are 0, or that shares its numbers with others, claims more of them than the file holds.
    """
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CSBError("weights are no dictionary of tensors; the file is of another kind")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CSBError(f"the tensor {name!r:.80} is {tensor.dtype}, {tensor.layout}; expected dense floating point")
    if (claimed := sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())) > size:
        raise CSBError(f"its tensors claim {claimed} bytes and the file has {size}; it was not written by csb")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CSBError(f"the tensor {name!r:.80} holds NaN or infinite values; train again, or restore the file")


def parse_spec(kind: str, data: Any) -> Any:
    """Return the description of a kind of model from plain data, the inverse of its ``plain()``.

    CSBError where a field is missing or unknown, has another type, or is out of range.
    """
    try:
        return _READERS[kind].validate_json(json.dumps(data), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, message = ".".join(map(str, (kind, *first["loc"]))), first["msg"].removeprefix("Value error, ")
        raise CSBError(f"{place:.200} is {first['input']!r:.80}; {message}") from error


def _read_spec(kind: str, data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the description of a model that really has these tensors.

    CSBError where a field has another type, a name is unknown, a number is too large, or the tensors are others.
    """
    require_plain(data, kind)
    spec = parse_spec(kind, data)
    plain = spec.plain()
    if plain.get("precision", "32-true") not in get_args(Precision):
        raise CSBError(f"{kind}.precision is {spec.precision!r:.80}; expected one of {', '.join(get_args(Precision))}")
    _require_counts(plain, kind, tensors)
    for part, where in ((plain, kind), (plain.get("transform", {}), f"{kind}.transform")):
        _require_sizes(part, where)
    with torch.device("meta"):
        expected = KINDS[kind][1](spec).state_dict()
    _compare(expected, tensors)
    return spec


def _require_counts(plain: dict[str, Any], where: str, tensors: Mapping[str, Tensor]) -> None:
    """CSBError for a number of a network's description that no network with these tensors can have.

    A width is a dimension of some tensor, and a block of a network owns at least one, so every number of a network is
    at most the largest dimension or the number of tensors.
    """
    limit = max(_SMALL, len(tensors), *(size for tensor in tensors.values() for size in tensor.shape))
    for part, place in ((plain, where), *((v, f"{where}.{k}") for k, v in plain.items() if isinstance(v, dict))):
        for key, value in part.get("network", {}).items():
            if any(isinstance(v, int) and v > limit for v in (value if isinstance(value, list) else [value])):
                reported = f"{place}.network.{key} is {value!r:.80}"
                raise CSBError(f"{reported}; no tensor of the file is as large as that; expected ≤ {limit}")


def _require_sizes(part: dict[str, Any], where: str) -> None:
    """CSBError for a shape among the fields of a description that is none, or larger than any data."""
    for name, value in part.items():
        if name.endswith("_shape"):
            sizes = value if isinstance(value, list) else [value]
            if not sizes or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sizes):
                raise CSBError(f"{where}.{name} is {value!r:.80}; expected a list of sizes of at least 1")
            if math.prod(sizes) > _COORDINATES:
                raise CSBError(f"{where}.{name} is {value!r:.80}; expected at most {_COORDINATES} coordinates")


def _compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """CSBError unless the file's tensors are those expected; a transform knows what older files lack or round."""
    for name, tensor in expected.items():
        of_transform = name.startswith("transform.")
        if name not in tensors and of_transform:
            continue
        if name not in tensors:
            raise CSBError(f"the tensor {name} is missing; the file is not whole")
        found = tensors[name]
        if found.shape != tensor.shape:
            raise CSBError(f"the tensor {name} has shape {tuple(found.shape)}; expected {tuple(tensor.shape)}")
        if found.dtype != tensor.dtype and not of_transform:
            raise CSBError(f"the tensor {name} is of {found.dtype}; expected {tensor.dtype}")
    for name in tensors:
        if name not in expected:
            raise CSBError(f"the tensor {name!r:.80} belongs to no part of the model; the file is of another kind")


def save_bridge(path: Path, bridge: Bridge, spec: BridgeSpec, about: Mapping[str, Any]) -> None:
    """Write a bridge of this description; see :func:`save`."""
    bridge.spec = spec
    save(bridge, path, about)


def save_denoiser(path: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a model of any kind; see :func:`save`."""
    save(model, path, about)


def _with_about(*of: type[Model]) -> Callable[..., tuple[Model, dict[str, Any]]]:
    def read(path: Path, device: str | torch.device = "cpu") -> tuple[Model, dict[str, Any]]:
        """Return the model of a file, and its ``about``; see :func:`load`."""
        model: Any = load(path, device, of)
        return model, model.about

    return read


save_conditional = save_student = save_denoiser
load_bridge, load_denoiser, load_student = _with_about(Bridge), _with_about(NetworkDenoiser), _with_about(Student)
load_conditional = _with_about(ScoreNetwork, FlowNetwork)
