"""Commands in messages are pasted into a shell, so each value in them is quoted for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import ifinu
from ifinu.cli import app

SOURCES = sorted(Path(ifinu.__file__).parent.rglob("*.py"))
QUOTED = frozenset({"shlex.quote", "shlex.join"})
VALUE = "\0"
_NAMES = "|".join(typer.main.get_command(app).commands)
# A command ends with its backticks; without them, with the sentence or the line.
COMMAND = re.compile(rf"`ifinu [^`]*|(?<!`)\bifinu (?:{_NAMES})\b[^.;:,\n]*")


def unquoted(source: str) -> Iterator[tuple[int, str]]:
    """Line and expression of each unquoted value in a command."""
    tree = ast.parse(source)
    quoted = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_quoted(node.value, frozenset())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        text, values = "", []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                text += VALUE
                values.append(part.value)
            else:
                text += part.value
        for command in COMMAND.finditer(text):
            first = text[: command.start()].count(VALUE)
            for value in values[first : first + command[0].count(VALUE)]:
                if not _is_quoted(value, quoted):
                    yield value.lineno, ast.unparse(value)


def _is_quoted(value: ast.expr, names: frozenset[str] | set[str]) -> bool:
    if isinstance(value, ast.Name):
        return value.id in names
    return isinstance(value, ast.Call) and ast.unparse(value.func) in QUOTED


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('f"`ifinu show {name}` says more"', ["name"]),
        ('f"{name}: `ifinu show {shlex.quote(name)}` says more about {name}"', []),
        ('command = f"ifinu instance connect {made.name}"', ["made.name"]),
        ('command = f"ifinu instance connect {shlex.quote(made.name)}"', []),
        ('(f"{a}: run `ifinu dlq replay "\n f"--id {id_}` or `ifinu dlq show {b}`")', ["id_", "b"]),
        ('id_ = shlex.quote(x)\nf"`ifinu dlq show {id_}`"', []),
        ('f"`ifinu doctor` finds {count} faults"', []),
        ('f"then ifinu optout resolve {id!r}"', ["id"]),
        ('f"ifinu takes {options}"', []),
    ],
)
def test_an_unquoted_value_in_a_command_is_found(source, found):
    assert [what for _, what in unquoted(source)] == found


def test_each_value_in_a_command_to_copy_is_quoted_for_a_shell():
    found = {f"{path}:{line}: {what}" for path in SOURCES for line, what in unquoted(path.read_text(encoding="utf-8"))}
    assert found == set()
