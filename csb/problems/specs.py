"""Plain-data descriptions of objects: {"name": …, **arguments}, resolved in a registry and nowhere else."""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field

from csb.errors import CSBError
from csb.schema import Kept, Schema, arguments_of

T = TypeVar("T")
U = TypeVar("U")
Dimension = Annotated[int, Field(ge=1, le=2000)]  # matrices of its square are kept
Spread = Annotated[float, Field(gt=0, le=1e18), Kept]  # a standard deviation
Noise = Annotated[float, Field(ge=0, le=1e18), Kept]  # one that is 0 for exact observations


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def arguments(cls: type) -> list[str]:
    """The constructor's parameters by name, in the order of calls and specs."""
    if issubclass(cls, Schema):
        return sorted(cls.model_fields, key=lambda name: name in getattr(cls, "last", ()))
    return list(inspect.signature(cls).parameters)


def to_spec(obj: Any) -> dict[str, Any]:
    """{"name": …, **arguments} of an object that keeps each constructor argument in the attribute of that name."""
    return {"name": type(obj).name, **{p: _plain(getattr(obj, p)) for p in arguments(type(obj))}}


def checked(init: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a constructor: CSBError for an argument that is not of its type. Lists stand for tuples."""

    @wraps(init)
    def with_checks(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(init).bind(self, *args, **kwargs).arguments
        given = {name: _deep_tuple(value) for name, value in bound.items() if value is not self}
        arguments_of(init).read(given, "")
        init(self, **given)

    return with_checks


class Registry(dict[str, type[T]]):
    """Classes by their names."""

    def register(self, cls: type[U]) -> type[U]:
        """Enter a class, as its decorator."""
        self[cls.name] = cls  # type: ignore[attr-defined, assignment]
        return cls


def build(kind: str, registry: Mapping[str, type[T]], spec: Mapping[str, Any]) -> T:
    """The class of the spec's name, resolved in the registry alone, made with the spec's arguments.

    Lists stand for tuples. CSBError, which calls the class a ``kind``, for an unknown or missing name, and for an
    unknown, missing or ill-typed argument.
    """
    name = spec.get("name")
    if not isinstance(name, str) or name not in registry:
        raise CSBError(f"{kind} {name!r} is unknown; choose one of {', '.join(sorted(registry))}")
    cls, given = registry[name], {k: _deep_tuple(v) for k, v in spec.items() if k != "name"}
    if issubclass(cls, Schema):
        return cls.read(given, kind)
    arguments_of(cls.__init__).read(given, kind)
    return cls(**given)


PLACES = ("root", "path", "x", "y")  # of data; a problem is the same wherever they lie
SIZES = ("n_train", "n_val", "n_test", "length")  # and however many pairs of it are taken


def same_problem(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two specs are of one problem, whatever their places and sizes; of own pairs, whether these are the same.

    A spec without a digest, as older files hold it, fits any.
    """
    free = {*PLACES, *SIZES} | _unknown(one, other)
    return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - free)


def same_pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two specs are of one problem with the same pairs and splits, wherever a file of the same digest lies."""
    unknown = _unknown(one, other)
    free = unknown or {"path", "x", "y"}
    one, other = absolute(one), absolute(other)
    return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - free)


def _unknown(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {"digest"} if one.get("digest") is None or other.get("digest") is None else set()


def absolute(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with absolute paths of the files of own pairs, which are then found from any working directory."""
    if spec.get("name") != "pairs":
        return dict(spec)
    files = ("path",) if spec.get("path") else ("x", "y")  # with a path, x and y name arrays in it
    given = {key: spec.get(key) for key in files}
    of_files = {key: v for key, v in given.items() if isinstance(v, str) and v and not v.startswith("dataset:")}
    return {**spec, **{key: os.path.abspath(value) for key, value in of_files.items()}}
