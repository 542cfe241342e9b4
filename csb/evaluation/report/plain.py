"""Values from outside as plain data, checked: what JSON can hold and a frozen dataclass can keep."""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from csb.errors import CSBError

Cell = str | int | float | bool | None


def to_number(name: str, value: Any) -> float | None:
    """A finite number as int or float, None for what is missing or not finite. CSBError for anything else."""
    if hasattr(value, "item") and not isinstance(value, numbers.Number):  # a tensor or an array of one element
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError) as error:
            raise CSBError(f"{name} holds {type(value).__name__} of several values; expected one number") from error
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise CSBError(f"{name}={value!r} is no number; give a number, or None where it is not known")
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


def to_count(name: str, value: Any) -> float | None:
    number = to_number(name, value)
    if number is not None and number < 0:
        raise CSBError(f"{name}={number!r} is negative; expected at least 0")
    return number


def to_numbers(name: str, values: Iterable[Any]) -> tuple[float, ...]:
    found = tuple(to_number(name, value) for value in values)
    if not found or None in found:
        raise CSBError(f"{name} is empty or holds values that are not finite; expected one or more finite numbers")
    return found  # pyright: ignore[reportReturnType]


def to_cell(name: str, value: Any) -> Cell:
    return value if isinstance(value, str | bool) else to_number(name, value)


def to_table(name: str, values: Mapping[str, Any], convert: Callable[[str, Any], Any]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise CSBError(f"{name} is a {type(values).__name__}; expected a mapping from names to values")
    return {str(key): convert(f"{name}[{key!r}]", value) for key, value in values.items()}


def assign(target: Any, **values: Any) -> None:
    """Assigns converted values to a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(target, name, value)


def require_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise CSBError(f"{name}={value!r} is no text; give at least one character")


def require_pair(name: str, a: tuple[float, ...], b: tuple[float, ...]) -> None:
    if len(a) != len(b):
        raise CSBError(f"{name} has {len(a)} and {len(b)} values; expected two lists of one length")
