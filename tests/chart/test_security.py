"""Every pod fits the Pod Security Standard `restricted` and writes only to its volumes."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from pod_security import containers, violations, writable
from rendering import STORIES, Object, render, rendered, template_of


@pytest.mark.parametrize("story", STORIES)
def test_every_pod_keeps_to_the_restricted_profile(story):
    pods = dict(rendered(story).templates())
    assert len(pods) >= 6
    assert {owner: list(violations(template["spec"])) for owner, template in pods.items()} == {
        owner: [] for owner in pods
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"hostPID": True}, "hostPID"),
        ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "volume host: hostPath"),
        ({"securityContext": {}}, "worker: runAsNonRoot"),
        ({"securityContext": {"runAsNonRoot": True}}, "worker: seccompProfile"),
        ({"securityContext": {"runAsNonRoot": True, "runAsUser": 0}}, "runAsUser 0"),
        ({"container": {"allowPrivilegeEscalation": True}}, "worker: allowPrivilegeEscalation"),
        ({"container": {"capabilities": {"drop": ["NET_RAW"]}}}, "worker: capabilities.drop"),
        ({"container": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}, "worker: capabilities.add"),
        ({"container": {"privileged": True}}, "worker: privileged"),
        ({"container": {"runAsNonRoot": False}}, "worker: runAsNonRoot"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_checker_finds_each_violation(change, reason):
    """
    Each case is a pod of the chart with one change.
    """
    pod: dict[str, Any] = copy.deepcopy(rendered("default").pod("Deployment", "ifinu-worker"))
    assert list(violations(pod)) == []
    pod["containers"][0]["securityContext"] |= change.get("container", {})
    pod |= {field: value for field, value in change.items() if field != "container"}
    assert reason in list(violations(pod))


@pytest.mark.parametrize("story", STORIES)
def test_no_container_can_write_to_its_image(story):
    for container in rendered(story).containers():
        assert container.spec["securityContext"]["readOnlyRootFilesystem"] is True, container.name


# Where each program writes, beside the directories in its variables.
WRITES = {
    "ifinu/ifinu": {"/tmp"},
    "redis": {"/data"},
    "postgres": {"/var/lib/postgresql/data", "/var/run/postgresql", "/tmp"},
    "evoapicloud/evolution-api": {"/tmp"},
    "nginxinc/nginx-unprivileged": {"/tmp"},
}


def configured_directories(container: Object) -> set[str]:
    """The directories for writing that a container's variables and command name."""
    env = {v["name"]: v.get("value", "") for v in container.get("env", [])}
    out = {env[name] for name in ("PGDATA", "IFINU_BACKUP_STORE") if env.get(name, "").startswith("/")}
    if file := env.get("IFINU_HEARTBEAT_FILE"):
        out.add(file.rpartition("/")[0])
    if container["name"] == "evolution-api":
        out |= {"/evolution/instances", "/evolution/store"}
    if container["name"] == "migrate" and "evolution" in container["image"]:
        out |= {"/evolution/prisma/migrations", env["HOME"]}
    return out


@pytest.mark.parametrize("story", STORIES)
def test_every_directory_that_a_program_writes_to_is_a_volume(story):
    for document in rendered(story).values():
        if (template := template_of(document)) is None:
            continue
        pod = template["spec"]
        claims = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        for container in containers(pod):
            image = next(image for image in WRITES if re.search(rf"(^|/){image}[:@]", container["image"]))
            places = writable(pod, container, claims)
            for path in WRITES[image] | configured_directories(container):
                assert any(path == place or path.startswith(f"{place}/") for place in places), (container["name"], path)


def test_the_proxy_and_the_queue_write_only_to_their_volumes():
    objects = rendered("default")
    guard = objects["ConfigMap", "evolution-guard"]["data"]["guard.conf"]
    paths = re.findall(r"^\s*(?:pid|\w+_temp_path) ([^\s;]+)", guard, re.MULTILINE)
    assert len(paths) == 6
    assert all(path.startswith("/tmp/") for path in paths)
    assert re.search(r"^\s*access_log off;", guard, re.MULTILINE)
    conf = objects["ConfigMap", "redis-queue"]["data"]["redis.conf"]
    assert re.search(r"^dir /data$", conf, re.MULTILINE)
    assert not re.search(r"^logfile ", conf, re.MULTILINE)


@pytest.mark.parametrize("story", STORIES)
def test_every_volume_in_memory_or_on_the_node_has_a_limit(story):
    """
    A node with a full disk or memory evicts pods.
    """
    for owner, template in rendered(story).templates():
        for volume in template["spec"]["volumes"]:
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], (owner, volume["name"])


@pytest.mark.parametrize("story", STORIES)
def test_every_container_has_a_memory_limit(story):
    """
    The drill's containers are exempt, since it is short.
    """
    for container in rendered(story).containers():
        if container.owner != "CronJob/ifinu-restore-drill" or container.kind == "containers":
            assert "memory" in container.spec["resources"]["limits"], container.name
            assert "cpu" not in container.spec["resources"]["limits"], (
                container.name
            )  # a CPU limit would only slow it down


def test_additions_of_the_user_are_rendered():
    pull = [{"name": "registry"}]
    affinity = {"nodeAffinity": {}}
    added = {
        "affinity": affinity,
        "priorityClassName": "high",
        "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "x"}],
        "extraVolumes": [{"name": "windows", "configMap": {"name": "windows"}}],
        "extraVolumeMounts": [{"name": "windows", "mountPath": "/etc/windows", "readOnly": True}],
        "podAnnotations": {"note": "x"},
    }
    names = {"worker": "ifinu-worker", "webhook": "ifinu-webhook", "recorder": "ifinu-recorder"}
    names["scheduler"] = "ifinu-scheduler"
    names |= {"metrics": "ifinu-metrics", "flower": "ifinu-flower", "evolution": "evolution-api"}
    backup = {"enabled": True, "podAnnotations": {"note": "x"}, "priorityClassName": "high"}
    objects = render(
        {
            "imagePullSecrets": pull,
            "backup": backup,
            **dict.fromkeys(names, added),
            "scheduler": {**added, "enabled": True},
            "webhook": {**added, "payments": {"existingSecret": "payments"}},
            "reconciliation": {**added, "enabled": True, "providers": ["woovi"]},
        }
    )
    assert len(objects.of("CronJob")) == 4
    for name in objects.of("CronJob"):
        template = template_of(objects["CronJob", name])
        assert template is not None
        assert template["metadata"]["annotations"] == {"note": "x"}
        assert (template["spec"]["priorityClassName"], template["spec"]["imagePullSecrets"]) == ("high", pull)
    for name in names.values():
        kind = "StatefulSet" if name == "evolution-api" else "Deployment"
        template = template_of(objects[kind, name])
        assert template is not None
        pod = template["spec"]
        assert (pod["imagePullSecrets"], pod["affinity"], pod["priorityClassName"]) == (pull, affinity, "high")
        assert template["metadata"]["annotations"]["note"] == "x"
        assert added["extraVolumes"][0] in pod["volumes"]
        (main, *_) = pod["containers"]
        assert added["extraEnv"][0] in main["env"]
        assert added["extraVolumeMounts"][0] in main["volumeMounts"]
