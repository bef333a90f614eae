"""
References between objects: labels, ports, Secrets, claims.

Kubernetes accepts a reference to a missing object, and the pod then waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rendering import STORIES, Object, Rendered, rendered, template_of

# The existing Secrets of each story, with the keys that the chart uses.
ELSEWHERE = {"external": {"queue", "db", "gateway", "ifinu"}}


def matches(selector: Object, labels: Object) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def references(value: Any, field: str) -> Iterator[Object]:
    """Every object below a key of this name, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == field and isinstance(inner, dict):
                yield inner
            yield from references(inner, field)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner, field)


def ports(template: Object) -> dict[str, int]:
    return {p["name"]: p["containerPort"] for c in template["spec"]["containers"] for p in c.get("ports", [])}


@pytest.fixture(params=STORIES)
def objects(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> set[str]:
    return ELSEWHERE.get(request.node.callspec.params["objects"], set())


def test_each_selector_selects_only_the_pods_of_its_object(objects):
    for (kind, name), document in objects.items():
        if kind in ("Deployment", "StatefulSet"):
            selector = document["spec"]["selector"]
            selected = [o for o, template in objects.templates() if matches(selector, template["metadata"]["labels"])]
            assert selected == [f"{kind}/{name}"]


def test_every_service_has_pods_and_each_of_its_ports_is_one_of_theirs(objects):
    for name, service in objects.of("Service").items():
        selector = {"matchLabels": service["spec"]["selector"]}
        (selected,) = (t for _, t in objects.templates() if matches(selector, t["metadata"]["labels"]))
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports(selected), (name, port)


def test_every_probe_uses_a_port_of_its_container(objects):
    for container in objects.containers():
        names = {port["name"] for port in container.spec.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how in ("httpGet", "tcpSocket"):
                if how in container.spec.get(probe, {}):
                    assert container.spec[probe][how]["port"] in names, (container.name, probe)


def test_every_long_running_container_has_a_liveness_probe(objects):
    for container in objects.containers():
        if container.owner.split("/")[0] in ("Deployment", "StatefulSet") and container.kind == "containers":
            assert "livenessProbe" in container.spec, container.name
            if container.spec["name"] not in ("recorder", "scheduler"):  # no client connects to these
                assert "readinessProbe" in container.spec, container.name


def test_every_secret_is_made_or_named_as_existing(objects, elsewhere):
    secrets = objects.of("Secret")
    for owner, template in objects.templates():
        for reference in references(template, "secretKeyRef"):
            if reference["key"].endswith("-previous"):  # present while a secret is being changed
                assert reference["optional"] is True
                continue
            assert "optional" not in reference, (owner, reference)
            if reference["name"] in elsewhere:
                assert reference["name"] not in secrets
            else:
                assert reference["key"] in secrets[reference["name"]]["data"], (owner, reference)
        for reference in references(template, "secret"):
            assert reference["secretName"] in secrets


def test_every_existing_secret_is_used():
    names = {
        reference["name"] for _, t in rendered("external").templates() for reference in references(t, "secretKeyRef")
    }
    assert names == ELSEWHERE["external"]


def test_every_config_map_is_made(objects):
    maps = objects.of("ConfigMap")
    asked = set()
    for _, template in objects.templates():
        asked |= {reference["name"] for reference in references(template, "configMapRef")}
        asked |= {reference["name"] for reference in references(template["spec"], "configMap")}
    assert asked <= maps.keys()
    assert maps.keys() - asked <= {"ifinu-dashboard"}  # which a Grafana sidecar discovers


def test_every_claim_is_made(objects):
    claims = objects.of("PersistentVolumeClaim").keys()
    asked = {r["claimName"] for _, t in objects.templates() for r in references(t, "persistentVolumeClaim")}
    assert asked == claims


def test_every_mount_is_of_a_volume_and_every_volume_is_mounted(objects):
    for (kind, name), document in objects.items():
        if (template := template_of(document)) is None:
            continue
        pod = template["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        assert {mount["name"] for c in containers for mount in c["volumeMounts"]} == volumes, (kind, name)


def test_the_service_account_of_all_pods_exists_and_mounts_no_token(objects):
    assert objects["ServiceAccount", "ifinu"]["automountServiceAccountToken"] is False
    for owner, template in objects.templates():
        assert template["spec"]["serviceAccountName"] == "ifinu", owner
        assert template["spec"]["automountServiceAccountToken"] is False, owner


def test_every_policy_selects_existing_pods(objects):
    for name, policy in objects.of("NetworkPolicy").items():
        selector = policy["spec"]["podSelector"]
        assert any(matches(selector, t["metadata"]["labels"]) for _, t in objects.templates()), name
