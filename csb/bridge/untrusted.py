"""Checks of what a file says before anything is built from it: files come from anywhere.

A file holds names, numbers and tensors. Names are looked up in registries and nowhere else. The numbers decide how much
memory and time building takes; here they are held against the tensors that the file really holds, so that a small file
cannot ask for a large network.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from csb.bridge.bridge import Precision
from csb.bridge.build import BridgeSpec, KernelSpec
from csb.bridge.kernel import heads
from csb.bridge.student import GENERATOR, StudentSpec, check_calls, student_network
from csb.errors import CSBError, is_number
from csb.networks import build_network
from csb.problems.transform import Transform, build_transform

_DEEPEST = 32  # levels of nesting
_LONGEST = 100_000  # entries of a list: more than any grid has steps
_COORDINATES = 2**26  # of a state or an observation
_SMALL = 64  # what no check needs to look at
_EXECUTABLE = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")  # Hydra's; csb's files never hold them
Shapes = Mapping[str, tuple[int, ...]]


def require_plain(data: Any, where: str, depth: int = 0) -> None:
    """CSBError unless data is made of dictionaries with string keys, lists, strings, finite numbers, booleans and None.

    Keys that tell Hydra to call something are refused as well: nothing here would call it, and no honest file has any.
    """
    if depth > _DEEPEST:
        raise CSBError(f"{where:.200} is nested more than {_DEEPEST} deep; it was not written by csb")
    if isinstance(data, dict):
        for key, value in data.items():
            _require_key(key, value, where)
            require_plain(value, f"{where}.{key:.80}", depth + 1)
    elif isinstance(data, list | tuple):
        if len(data) > _LONGEST:
            raise CSBError(f"{where} has {len(data)} entries; expected at most {_LONGEST}")
        for i, value in enumerate(data):
            require_plain(value, f"{where}[{i}]", depth + 1)
    elif isinstance(data, int | float) and not (math.isfinite(data) if isinstance(data, float) else abs(data) < 2**63):
        raise CSBError(f"{where} is {data!r:.40}; expected a finite number")
    elif not (data is None or isinstance(data, str | bool | int | float)):
        raise CSBError(f"{where} is of type {type(data).__name__}; expected plain data")


def _require_key(key: Any, value: Any, where: str) -> None:
    """CSBError for a key that is no string, or one of Hydra's that names something to run."""
    if not isinstance(key, str):
        raise CSBError(f"{where} has the key {key!r:.80}, which is no string; it was not written by csb")
    if key in _EXECUTABLE:
        raise CSBError(f"{where} has the key {key!r}, {value!r:.80}: csb runs nothing that a file names; remove it")


def read_spec(data: Any, shapes: Shapes) -> BridgeSpec:
    """The description of a bridge in a file, whose tensors have these shapes by name.

    Raises CSBError where a field has another type, a name is unknown, or the tensors are not those of this bridge.
    """
    if not isinstance(data, dict):
        raise CSBError(f"bridge is of type {type(data).__name__}; expected its description")
    require_plain(data, "bridge")
    for name, kind in (("alpha_bar", list), ("transform", dict), ("backward", dict), ("forward", dict)):
        if not isinstance(data.get(name), kind):
            raise CSBError(f"bridge.{name} is {data.get(name)!r:.80}; expected a {kind.__name__}")
    for direction in ("backward", "forward"):
        _require_types(KernelSpec, data[direction], f"bridge.{direction}")
    spec = BridgeSpec.from_plain(data)
    _require_grid_and_precision(spec, "bridge")
    for direction in ("backward", "forward"):
        part = {name: data[direction].get(name, 0) for name in ("network", "rank", "components")}
        require_counts(part, f"bridge.{direction}", shapes)
    require_sizes(data["transform"], "bridge.transform")
    _require_shapes(spec, shapes)
    return spec


def read_student(data: Any, shapes: Shapes) -> StudentSpec:
    """The description of a student in a file, whose tensors have these shapes by name; errors as :func:`read_spec`."""
    if not isinstance(data, dict):
        raise CSBError(f"student is of type {type(data).__name__}; expected its description")
    require_plain(data, "student")
    _require_types(StudentSpec, data, "student")
    spec = StudentSpec.from_plain(data)
    _require_grid_and_precision(spec, "student")
    check_calls(spec.calls, len(spec.alpha_bar) - 1)
    part = {"network": spec.network, "rank": spec.rank if spec.law == "low_rank" else 0,
            "components": spec.components if spec.law == "mixture" else 0,
            "noise": spec.noise if spec.law == GENERATOR else 0}  # fmt: skip
    require_counts(part, "student", shapes)
    require_sizes(spec.transform, "student.transform")
    transform = build_transform(spec.transform)
    with torch.device("meta"):
        network = student_network(spec, transform)
    prefix = "body" if spec.law == GENERATOR else "kernel.network"
    expected = {f"{prefix}.{key}": tuple(t.shape) for key, t in network.state_dict().items()}
    if spec.law != GENERATOR:
        expected["kernel.inflation"] = ()
    _compare(expected | _of_transform(transform), shapes)
    return spec


def _require_grid_and_precision(spec: BridgeSpec | StudentSpec, where: str) -> None:
    if not all(is_number(value) for value in spec.alpha_bar):
        raise CSBError(f"{where}.alpha_bar holds something that is not a number; expected T + 1 numbers from 1 to ᾱ_T")
    if spec.precision not in get_args(Precision):
        raise CSBError(f"{where}.precision is {spec.precision!r:.80}; expected one of {', '.join(get_args(Precision))}")


def _require_types(kind: type, data: dict[str, Any], where: str) -> None:
    """CSBError for a field of a description, a dataclass of this kind, whose value has another type."""
    for field in dataclasses.fields(kind):
        value = data.get(field.name, field.default)
        fits, expected = {
            str: (isinstance(value, str), "a name"),
            int: (isinstance(value, int) and not isinstance(value, bool), "an integer"),
            float: (is_number(value), "a number"),
            list[int]: (isinstance(value, list), "a list"),
            list[float]: (isinstance(value, list), "a list"),
        }.get(field.type, (isinstance(value, dict), "a dictionary"))
        if not fits:
            raise CSBError(f"{where}.{field.name} is {value!r:.80}; expected {expected}")


def _counts(data: Any, where: str) -> Iterator[tuple[str, int]]:
    """(place, number) of every integer and of the length of every list in plain data."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _counts(value, f"{where}.{key}")
    elif isinstance(data, list | tuple):
        yield f"the length of {where}", len(data)
        for i, value in enumerate(data):
            yield from _counts(value, f"{where}[{i}]")
    elif isinstance(data, int) and not isinstance(data, bool):
        yield where, data


def require_counts(part: Any, where: str, shapes: Shapes) -> None:
    """CSBError for a number of a network's description that no network with these tensors can have.

    A width is a dimension of some tensor, and a block of a network owns at least one, so every number of a network is
    at most the largest dimension or the number of tensors.
    """
    limit = max(_SMALL, len(shapes), *(size for shape in shapes.values() for size in shape))
    for place, value in _counts(part, where):
        if value > limit:
            raise CSBError(f"{place} is {value}; no tensor of the file is as large as that; expected ≤ {limit}")


def require_sizes(part: dict[str, Any], where: str) -> None:
    """CSBError for a shape among the fields of a description that is none, or larger than any data."""
    for name, value in part.items():
        if name.endswith("_shape"):
            sizes = value if isinstance(value, list) else [value]
            if not sizes or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sizes):
                raise CSBError(f"{where}.{name} is {value!r:.80}; expected a list of sizes of at least 1")
            if math.prod(sizes) > _COORDINATES:
                raise CSBError(f"{where}.{name} is {value!r:.80}; expected at most {_COORDINATES} coordinates")


def _require_shapes(spec: BridgeSpec, shapes: Shapes) -> None:
    """CSBError unless the file's tensors are those of this bridge. The networks are built without memory."""
    transform = build_transform(spec.transform)
    expected = _of_transform(transform)
    for direction, part in (("backward", spec.backward), ("forward", spec.forward)):
        count = heads(part.covariance, transform.z_shape, part.rank, part.components)
        with torch.device("meta"):
            network = build_network(part.network, transform.z_shape, transform.c_shape, count)
        name = f"{direction}_kernel"
        expected |= {f"{name}.network.{key}": tuple(t.shape) for key, t in network.state_dict().items()}
        expected[f"{name}.inflation"] = ()
    _compare(expected, shapes)


def _of_transform(transform: Transform) -> dict[str, tuple[int, ...]]:
    return {f"transform.{name}": tuple(t.shape) for name, t in transform.state_dict().items()}


def _compare(expected: Shapes, shapes: Shapes) -> None:
    """CSBError unless the file's tensors are those that are expected."""
    for name in expected:
        if name not in shapes and name.startswith("transform."):
            continue  # a transform knows what older files lack
        if name not in shapes:
            raise CSBError(f"the tensor {name} is missing; the file is not whole")
        if tuple(shapes[name]) != expected[name]:
            raise CSBError(f"the tensor {name} has shape {tuple(shapes[name])}; expected {expected[name]}")
    for name in shapes:
        if name not in expected:
            raise CSBError(f"the tensor {name!r:.80} belongs to no part of the model; the file is of another kind")


def require_weights(weights: Mapping[str, Tensor]) -> None:
    """CSBError unless every tensor is dense, on the CPU, of real floating-point numbers, finite, and all there.

    A tensor whose strides are 0 claims more numbers than the file holds.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CSBError(f"the tensor {name!r:.80} is {tensor.dtype}, {tensor.layout}; expected dense floating point")
        held = tensor.untyped_storage().nbytes()
        if held < tensor.numel() * tensor.element_size():
            raise CSBError(f"the tensor {name!r:.80} has shape {tuple(tensor.shape)} and the file {held} bytes of it")
        if not bool(torch.isfinite(tensor).all()):
            raise CSBError(
                f"the tensor {name} holds NaN or infinite values; the training failed or the file is damaged"
            )
