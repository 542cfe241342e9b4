"""Settings as schemas: types, ranges and choices are declared once, and every breach becomes one line.

A field's type, range and choices check it and name what is allowed in the message. Its description, or where that is
long the docstring below it, says what it means. A check of several fields together is a ``model_validator`` that
raises CSBError with the whole line.
"""

import copy
import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_type_hints

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    create_model,
)
from pydantic_core import core_schema

from csb.errors import LARGEST, CSBError, is_int, place_fault

MOST_COORDINATES = 2**26  # of a state or an observation
T = TypeVar("T")
U = TypeVar("U")
Node = dict[str, Any]  # a part of a JSON schema
Given = dict[str, Any]  # what a command is given: plain data, not checked yet


@dataclass(frozen=True, eq=False)
class OneOf:
    """Marks a text, or an integer, that is one of some, as in ``Annotated[str, OneOf(NAMES)]``."""

    names: Iterable[str | int]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(self.names))


def _distinct(values: list[Any]) -> list[Any]:
    if len({repr(value) for value in values}) < len(values):
        raise ValueError("repeats an entry; give each once")
    return values


def _place(value: str) -> str:
    if fault := place_fault(value):
        raise ValueError(fault)
    return value


def _shape(value: Any) -> Any:
    is_list = isinstance(value, list | tuple) and value and all(is_int(size) and size > 0 for size in value)
    if not is_list or math.prod(value) > MOST_COORDINATES:
        raise ValueError(f"is not a shape; give sizes of at least 1, of at most {MOST_COORDINATES} coordinates")
    return tuple(value)


def _bounded(spec: dict[str, Any]) -> dict[str, Any]:
    for name, value in spec.items():
        if name.endswith("_shape"):
            try:
                _shape(value)
            except ValueError as error:
                raise ValueError(f"has {name}={shown(value)}, which {error}") from None
    return spec


Count = Annotated[int, Field(ge=1, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
Place = Annotated[str, AfterValidator(_place), Field(json_schema_extra={"format": "path"})]  # of a file or folder
Kept = WrapValidator(lambda value, check: (check(value), value)[1])  # marks numbers of which integers stay integers
Distinct = AfterValidator(_distinct)  # of a list: marks one whose entries all differ
Dimension = Annotated[int, Field(ge=1, le=2000)]  # matrices of its square are kept
Spread = Annotated[float, Field(gt=0, le=1e18), Kept]  # a standard deviation
Noise = Annotated[float, Field(ge=0, le=1e18), Kept]  # one that is 0 for exact observations
Shape = Annotated[tuple[int, ...], BeforeValidator(_shape)]  # of a state or an observation
Described = Annotated[dict[str, Any], AfterValidator(_bounded)]  # {"name": …, **arguments}, its shapes bounded


class Schema(BaseModel):
    """A frozen group of settings. CSBError where one is unknown, missing or not what its field allows.

    Integers are no booleans, texts no numbers; numpy's scalars count as Python's.

    Attributes:
        group: of the configuration, which messages name; "" for what stands at the top level.
        alone: fields that stand at the top level all the same.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    group: ClassVar[str] = ""
    alone: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **values: Any) -> None:
        self._fill(dict(zip(type(self).model_fields, args)) | values, self.group)

    def _fill(self, values: dict[str, Any], group: str) -> None:
        try:
            self.__pydantic_validator__.validate_python(_plain(values), self_instance=self)
        except ValidationError as error:
            raise CSBError(explain(type(self), group, values, error)) from None

    @classmethod
    def read(cls, values: Any, group: str | None = None) -> Self:
        """The settings of a group of the configuration, by default the class's own."""
        group = cls.group if group is None else group
        if not isinstance(values, dict):
            raise CSBError(f"{group}={shown(values)} is not a group of settings; give {{key: value, …}}")
        self = cls.__new__(cls)
        self._fill({str(key): value for key, value in values.items()}, group)
        return self

    def replace(self, **changes: Any) -> Self:
        """The same with other values, checked."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    def plain(self) -> dict[str, Any]:
        """As dictionaries, lists, texts and numbers, which :meth:`read` takes."""
        return self.model_dump(mode="json")


def defaults(kind: type[Schema]) -> dict[str, Any]:
    """The values of the fields that have a default, by their names in the configuration."""
    fields = kind.model_fields.items()
    return {field.alias or key: copy.deepcopy(field.default) for key, field in fields if not field.is_required()}


class Arguments(Schema):
    """Base of schemas that are made while the program runs, whose fields have no docstrings to look for."""

    model_config = ConfigDict(use_attribute_docstrings=False)


@cache
def arguments_of(init: Callable[..., None], keyword_only: bool = False) -> type[Schema]:
    """The schema of a constructor's arguments, or of the keyword-only ones, by their annotations and defaults."""
    hints = get_type_hints(init, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is inspect.Parameter.empty else p.default)
        for name, p in inspect.signature(init).parameters.items()
        if name in hints and (p.kind == p.KEYWORD_ONLY or not keyword_only)
    }
    return create_model("Arguments", __base__=Arguments, **fields)


def _listed(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def arguments(cls: type) -> list[str]:
    """The constructor's parameters by name, in the order of calls and specs."""
    if issubclass(cls, Schema):
        return sorted(cls.model_fields, key=lambda name: name in getattr(cls, "last", ()))
    return list(inspect.signature(cls).parameters)


def to_spec(obj: Any) -> dict[str, Any]:
    """{"name": …, **arguments} of an object that keeps each constructor argument in the attribute of that name."""
    return {"name": type(obj).name, **{p: _listed(getattr(obj, p)) for p in arguments(type(obj))}}


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


def _plain(value: Any) -> Any:
    """With Python's scalars in place of numpy's."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def shown(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def nearest(value: Any, names: Iterable[str]) -> str:
    """A remark on the name that a misspelt one is closest to, or ""."""
    found = difflib.get_close_matches(value, names, 1) if isinstance(value, str) else []
    return f" (did you mean {found[0]}?)" if found else ""


@cache
def json_of(kind: type[Schema]) -> Node:
    """The JSON schema of a group of settings."""
    return kind.model_json_schema()


def explain(kind: type[Schema], group: str, values: dict[str, Any], error: ValidationError) -> str:
    """The first error in one line: the key, its value, what is allowed and what to do; unknown keys come first."""
    reported = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    known, loc, cause = json_of(kind)["properties"], reported["loc"], reported.get("ctx", {}).get("error")
    if isinstance(cause, CSBError):
        return str(cause)
    prefix = f"{group}." if group and (not loc or loc[0] not in kind.alone) else ""
    if reported["type"] == "extra_forbidden":
        return unknown_setting(group, loc[0], list(known))
    key, node, value = f"{prefix}{loc[0]}", known[loc[0]], values.get(str(loc[0]))
    if reported["type"] == "missing" and len(loc) == 1:
        return f"{key} is missing; give {key}=…"
    for part in loc[1:]:  # as far as the error's place is one in the value; the rest names types
        if isinstance(value, dict) and loc[-2:] == (part, "[key]"):
            return unknown_setting(key, part, _names(_inner(node, "propertyNames")))
        if isinstance(value, dict) and part in value:
            key, value, node = f"{key}.{part}", value[part], _inner(node, "additionalProperties")
        elif isinstance(value, list | tuple) and isinstance(part, int) and (items := _inner(node, "items")):
            key, value, node = f"{key}[{part}]", value[part], items
    if cause is not None:
        return f"{key}={shown(value)} {cause}"
    if names := _names(node):
        return f"{key}={shown(value)} is unknown; choose {describe(node)}{nearest(value, names)}"
    return f"{key}={shown(value)} is not possible; give {describe(node)}"


def unknown_setting(group: str, key: Any, known: list[str]) -> str:
    where = f"{group} has" if group else "there is"
    return f"{where} no setting {shown(key)}; choose among {', '.join(known) or 'texts'}{nearest(key, known)}"


def _options(node: Node) -> list[Node]:
    return node.get("anyOf", [node])


def _inner(node: Node, name: str) -> Node:
    found = next((one[name] for one in _options(node) if name in one), {})
    return found if isinstance(found, dict) else {}


def _names(node: Node) -> list[str]:
    return [str(name) for one in _options(node) for name in one.get("enum", [])]


def describe(node: Node) -> str:
    """What a part of a JSON schema allows, in words."""
    return " or ".join(_describe(one) for one in _options(node))


def _describe(node: Node) -> str:
    if "enum" in node or "const" in node:
        return f"one of {', '.join(map(str, node.get('enum', [node.get('const')])))}"
    kind = node.get("format", node.get("type"))
    if kind in ("integer", "number"):
        return _integer(node) if kind == "integer" else _number(node)
    if items := node.get("prefixItems"):
        return f"a list of {len(items)}, each {describe(items[0])}"
    if kind == "array":
        each = describe(node["items"]) if node.get("items") else ""
        return ("a list" if node.get("minItems", 0) < 1 else "a list that is not empty") + (each and f", each {each}")
    words = {"boolean": "true or false", "null": "null", "string": "a text", "path": "a path"}
    return words.get(kind or "", "a table {key: value, …}")


def _integer(node: Node) -> str:
    low, high, step = node.get("minimum"), node.get("maximum", LARGEST), node.get("multipleOf", 1)
    what = "an integer" if step == 1 else f"a multiple of {step}"
    if low is None:
        return what
    return f"{what} of at least {low}" if high == LARGEST else f"{what} in {low}..{high}"


def _number(node: Node) -> str:
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    if high is None and below is None:
        limit = f" above {above:g}" if above is not None else f" of at least {low:g}" if low is not None else ""
        return f"a finite number{limit}"
    first = f"({above:g}" if above is not None else f"[{low:g}"
    return f"a number in {first}, " + (f"{below:g})" if below is not None else f"{high:g}]")
