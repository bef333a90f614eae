"""
The connections that the NetworkPolicies of a render allow: Kubernetes' rules as a function.

A pod that no policy of a direction selects is open in that direction; a selected pod may do what any of its policies
allows. A rule with no peers, or an empty list of them, allows all peers; a rule with no ports allows all ports.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rendering import NAMESPACE, Rendered

Object = dict[str, Any]


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or, without labels, a host outside the cluster."""

    name: str
    labels: Mapping[str, str] | None = None
    namespace: str = NAMESPACE
    ports: frozenset[int] = field(default_factory=frozenset)


INTERNET = End("internet")


def ends(objects: Rendered) -> dict[str, End]:
    """The pods of a release by their component."""
    out: dict[str, End] = {}
    for _, template in objects.templates():
        labels = template["metadata"]["labels"]
        component = labels["app.kubernetes.io/component"]
        ports = {p["containerPort"] for c in template["spec"]["containers"] for p in c.get("ports", [])}
        known = out.get(component, End(component, labels))
        out[component] = End(component, known.labels, ports=known.ports | ports)
    return out


def allowed(policies: Iterable[Object], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies allow a connection."""
    policies = list(policies)
    return _may(policies, source, target, port, protocol, "Egress") and _may(
        policies, target, source, port, protocol, "Ingress"
    )


def _may(policies: list[Object], end: End, other: End, port: int, protocol: str, direction: str) -> bool:
    chosen = [p["spec"] for p in policies if direction in p["spec"]["policyTypes"] and _is_of(p, end)]
    rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return not chosen or any(
        _ports(rule, port, protocol) and (not rule.get(peers) or any(_peer(peer, other) for peer in rule[peers]))
        for spec in chosen
        for rule in spec.get(rules) or []
    )


def _is_of(policy: Object, end: End) -> bool:
    namespace = policy["metadata"].get("namespace", NAMESPACE)
    return end.labels is not None and end.namespace == namespace and _selects(policy["spec"]["podSelector"], end.labels)


def _ports(rule: Object, port: int, protocol: str) -> bool:
    entries = rule.get("ports")
    return not entries or any(
        entry.get("protocol", "TCP") == protocol
        and entry.get("port", port) <= port <= entry.get("endPort", entry.get("port", port))
        for entry in entries
    )


def _peer(peer: Object, end: End) -> bool:
    if unknown := peer.keys() - {"podSelector", "namespaceSelector"}:
        raise ValueError(f"{unknown} is not modelled")
    if end.labels is None:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), end.labels)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise ValueError(f"{expression['operator']} is not modelled")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
