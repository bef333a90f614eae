"""The dashboard as it lies in its file: its panels, and its queries as Grafana sends them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[2] / "deploy" / "helm" / "dashboards" / "ifinu.json"

EVERYTHING = ".*"  # what a variable of several values becomes while "All" is chosen

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
    """Its panels, from the top, without the rows that they are under."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    """All that its panels ask, as it is written."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(panel["title"], target["refId"], target["expr"])


def variables(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """What stands for each variable as the dashboard opens: for one of several values, all of them."""
    return {v["name"]: v["allValue"] for v in dashboard["templating"]["list"] if v["type"] == "query"}


def asked(expr: str, chosen: Mapping[str, str], rate_interval: str = "10s") -> str:
    """
    What Grafana sends to Prometheus for an expression.

    Args:
        expr: As it is written.
        chosen: What stands for each variable.
        rate_interval: For Grafana, four times the scrape interval or more.
    """
    expr = expr.replace("$__rate_interval", rate_interval)
    for name, value in chosen.items():
        expr = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _, v=value: v, expr)
    return expr


def metrics(expr: str) -> set[str]:
    """Names of the series that an expression reads."""
    return set(_METRIC.findall(expr))
