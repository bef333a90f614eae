"""The values in a script, checked one by one; each function raises ConfigurationError for a wrong one."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ifinu.errors import ConfigurationError

_E = TypeVar("_E", bound=enum.StrEnum)


def known(key: str, names: Iterable[str]) -> str:
    if key not in names:
        raise ConfigurationError(f"{key}: unknown; there are {', '.join(names)}")
    return key


def mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError("a fault of several parts must be a JSON object")
    return value


def floats(values: Sequence[object]) -> list[float] | None:
    if all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in values):
        return [float(v) for v in values]  # type: ignore[arg-type]  # the line above has checked it
    return None


def amount(name: str, value: object) -> float:
    values = floats([value])
    if values is None:
        raise ConfigurationError(f"{name} must be a number, zero or more")
    return values[0]


def above_zero(name: str, value: object) -> float:
    if (found := amount(name, value)) == 0:
        raise ConfigurationError(f"{name} must be above zero")
    return found


def member(kind: type[_E], value: object) -> _E:
    try:
        return kind(str(value))
    except ValueError:
        raise ConfigurationError(f"{value}: must be one of {', '.join(kind)}") from None
