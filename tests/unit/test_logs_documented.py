"""docs/logs.md has every event, with its level and its fields."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ifinu import delivery, logs

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(ifinu\.\w+\.\w+)` \| ([a-z, ]+) \| ([^|]*)\| ([^|]+) \|$", re.MULTILINE)
LEVELS = {"exception": "error"}
METHODS = {"debug", "info", "warning", "error", "critical", "exception"}


class Line(NamedTuple):
    event: str
    level: str
    fields: frozenset[str]


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """Levels and fields of each event."""
    rows = ROW.findall((ROOT / "docs/logs.md").read_text(encoding="utf-8"))
    assert len(rows) == len({event for event, *_ in rows})
    return {
        event: ({level.strip() for level in levels.split(",")}, set(re.findall(r"`(\w+)`", fields)))
        for event, levels, fields, _ in rows
    }


@functools.cache
def written() -> tuple[Line, ...]:
    """Every call in the program that logs by a constant name."""
    return tuple(_written())


def _written() -> Iterator[Line]:
    for file in (ROOT / "ifinu").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=[event, *_]):
                    assert method in METHODS, f"{file}: log.{method}"
                    names = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
                    if method == "exception" or "exc_info" in names:
                        names = names - {"exc_info"} | {"exception"}
                    yield Line(_constant(event, file), LEVELS.get(method, method), frozenset(names))


def _constant(event: ast.expr, file: Path) -> str:
    if isinstance(event, ast.Constant):
        return str(event.value)
    assert ast.unparse(event) == "_ENDED[name]", f"{file}: the name of an event is a constant"
    return "ifinu.message.expired"


def test_every_event_is_documented_and_no_other():
    constant = {line.event for line in written()} | {*delivery._ENDED.values(), logs._DROPPED}
    assert constant == documented().keys()


def test_levels_and_fields_are_the_documented_ones():
    events = documented()
    for line in written():
        levels, fields = events[line.event]
        assert line.level in levels, line
        assert line.fields <= fields, line


def test_names_are_a_noun_and_what_happened():
    for line in written():
        assert re.fullmatch(r"ifinu\.[a-z_]+\.[a-z_]+", line.event)
