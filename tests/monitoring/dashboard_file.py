"""The dashboard's file: its panels, and its queries as Grafana sends them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[2] / "deploy" / "helm" / "dashboards" / "ifinu.json"

EVERYTHING = ".*"  # the value of a multi-value variable while "All" is selected

_METRIC = re.compile(r"\b(?:ifinu|process|kube)_[a-z0-9_]+")


class Query(NamedTuple):
    """One query of a panel."""

    panel: str
    ref: str
    expr: str

    def __str__(self) -> str:
        return f"{self.panel} / {self.ref}"


def load() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels in order, without the rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    """Every query of the panels, unexpanded."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(panel["title"], target["refId"], target["expr"])


def variables(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """The initial value of each variable; for a multi-value variable, all of them."""
    return {v["name"]: v["allValue"] for v in dashboard["templating"]["list"] if v["type"] == "query"}


def asked(expr: str, values: Mapping[str, str], rate_interval: str = "10s") -> str:
    """
    The query that Grafana sends to Prometheus for an expression.

    Args:
        expr: The expression in the dashboard's file.
        values: The value of each variable.
        rate_interval: Grafana uses four times the scrape interval or more.
    """
    expr = expr.replace("$__rate_interval", rate_interval)
    for name, value in values.items():
        expr = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _, v=value: v, expr)
    return expr


def metrics(expr: str) -> set[str]:
    """The names of the series in an expression."""
    return set(_METRIC.findall(expr))
