"""The shipped alerts and Alertmanager configuration, with look-ups for tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/helm/alerts/ifinu.rules.yaml"
ALERTMANAGER = ROOT / "deploy/helm/alerts/alertmanager.yaml"
UNIT_TESTS = Path(__file__).parent / "alerts"

_STRING = re.compile(r'"[^"]*"')
_CLAUSE = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR_OR_RANGE = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\boffset\s+\w+")
_NAME = re.compile(r"(?<![\w.])[a-zA-Z_][\w:]*(?!\s*\(|[\w:])")
_OPERATORS = {"and", "or", "unless", "bool"}


class Alert(NamedTuple):
    """The key of a rule: name and severity, since several severities can share a name."""

    name: str
    severity: str


def parsed(file: Path) -> dict[str, Any]:
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def rules() -> list[dict[str, Any]]:
    """Every rule, alerting and recording, in file order."""
    return [rule for group in parsed(RULES)["groups"] for rule in group["rules"]]


def alerts() -> dict[Alert, dict[str, Any]]:
    """Every alerting rule."""
    found = {Alert(rule["alert"], rule["labels"]["severity"]): rule for rule in rules() if "alert" in rule}
    assert len(found) == sum("alert" in rule for rule in rules())
    return found


def series_in(expr: str) -> set[str]:
    """The names of the series in an expression."""
    bare = _STRING.sub("", expr)
    for what in (_CLAUSE, _SELECTOR_OR_RANGE):
        bare = what.sub(" ", bare)
    return set(_NAME.findall(bare)) - _OPERATORS
