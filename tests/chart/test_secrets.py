"""Passwords: only in Secrets, without public defaults, and kept once generated."""

from __future__ import annotations

import base64
import json
import re

import pytest
from cluster import cluster, path_of, secret, secret_path
from helm_binaries import MAJORS
from rendering import CHART, NAMESPACE, RELEASE, STORIES, Object, Rendered, documents, render, rendered, run

KNOWN: dict[str, Object] = {
    "redis": {"auth": {"value": "0redis0password0"}},
    "postgres": {
        "auth": {
            "postgresPassword": "0postgres0password0",
            "ifinuPassword": "0ledger0password0",
            "evolutionPassword": "0evolution0password0",
        }
    },
    "evolution": {"apiKey": {"value": "0global0key0"}},
    "webhook": {"secret": {"value": "0webhook0secret0" * 3}},
    "phoneKey": {"value": "0phone0key0" * 4},
    "flower": {"auth": {"value": "ops:0flower0password0"}},
}
SECRETS = {
    ("redis-queue", "redis-password"): "0redis0password0",
    ("evolution-postgres", "postgres-password"): "0postgres0password0",
    ("evolution-postgres", "ifinu-password"): "0ledger0password0",
    ("evolution-postgres", "evolution-password"): "0evolution0password0",
    ("evolution-api", "api-key"): "0global0key0",
    ("ifinu-secrets", "webhook-secret"): "0webhook0secret0" * 3,
    ("ifinu-secrets", "phone-key"): "0phone0key0" * 4,
    ("ifinu-secrets", "flower-auth"): "ops:0flower0password0",
}
ELSEWHERE: dict[str, Object] = {
    "redis": {"auth": {"existingSecret": "a"}},
    "postgres": {"auth": {"existingSecret": "b"}},
    "evolution": {"apiKey": {"existingSecret": "c"}},
    "webhook": {"secret": {"existingSecret": "d"}},
    "phoneKey": {"existingSecret": "e"},
    "flower": {"auth": {"existingSecret": "f"}},
}


def opened(objects: Rendered) -> dict[tuple[str, str], str]:
    """The decoded values of the Secrets, by Secret and key, without Alertmanager's configuration."""
    return {
        (name, key): base64.b64decode(value).decode()
        for name, secret in objects.of("Secret").items()
        for key, value in secret.get("data", {}).items()
    }


@pytest.mark.parametrize("story", [s for s in STORIES if s != "external"])
def test_a_given_password_is_in_its_secret_and_nowhere_else(story):
    objects = render(KNOWN, story=story)
    assert opened(objects) == SECRETS
    for key, document in objects.items():
        if key[0] != "Secret":
            text = json.dumps(document)
            for password in SECRETS.values():
                assert password not in text, key
                assert base64.b64encode(password.encode()).decode() not in text, key


@pytest.mark.parametrize("story", [s for s in STORIES if s != "external"])
def test_generated_passwords_differ_in_each_render(story):
    """
    No password has a default, so two renders differ in each.
    """
    first, second = (opened(render({"logLevel": level}, story=story)) for level in ("info", "debug"))
    assert first.keys() == second.keys() == SECRETS.keys()
    assert [key for key in first if first[key] == second[key]] == []
    assert len({*first.values(), *second.values()}) == 2 * len(first)
    for (_, key), password in first.items():
        # Of the required length, and valid in a URL.
        assert re.fullmatch(r"ops:[A-Za-z0-9]{40}" if key == "flower-auth" else r"[A-Za-z0-9]{40}", password)


@pytest.mark.parametrize("story", STORIES)
def test_with_existing_secrets_no_secret_is_made(story):
    objects = render(ELSEWHERE, story=story)
    assert objects.of("Secret").keys() <= {"ifinu-alertmanager-config"}
    names = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for container in objects.containers()
        for variable in container.spec.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert names <= set("abcdef")


def test_the_keys_of_an_existing_secret_can_be_configured():
    values = {
        "redis": {"auth": {"existingSecret": "a", "existingSecretKey": "pass"}},
        "evolution": {"apiKey": {"existingSecret": "a", "existingSecretKey": "global"}},
        "webhook": {"secret": {"existingSecret": "a", "existingSecretKey": "hook"}},
        "phoneKey": {"existingSecret": "a", "existingSecretKey": "hash"},
    }
    env = render(values).container("Deployment", "ifinu-worker").env
    found = {
        name: v["valueFrom"]["secretKeyRef"] for name, v in env.items() if "secretKeyRef" in v.get("valueFrom", {})
    }
    assert found == {
        "IFINU_REDIS_PASSWORD": {"name": "a", "key": "pass"},
        "IFINU_EVOLUTION_API_KEY": {"name": "a", "key": "global"},
        "IFINU_WEBHOOK_SECRET": {"name": "a", "key": "hook"},
        "IFINU_PHONE_KEY": {"name": "a", "key": "hash"},
        "IFINU_DATABASE_PASSWORD": {"name": "evolution-postgres", "key": "ifinu-password"},
    }


def test_no_password_is_generated_for_an_external_database():
    """
    A generated password would not match the external database.
    """
    external = {"enabled": True, "url": "postgresql://ifinu@db.example.com/ifinu"}
    auth = {"ifinuPassword": "given"}
    objects = render({"postgres": {"external": external, "auth": auth}, "simulator": {"enabled": True}})
    assert {key: v for key, v in opened(objects).items() if key[0] == "evolution-postgres"} == {
        ("evolution-postgres", "ifinu-password"): "given"
    }


@pytest.mark.parametrize("story", STORIES)
def test_secrets_remain_after_the_release_is_uninstalled(story):
    """
    The volumes remain too and need the passwords. Hooks are not part of a release.
    """
    for name, made in rendered(story).of("Secret").items():
        if name != "ifinu-alertmanager-config":
            assert made["metadata"]["annotations"] == {
                "helm.sh/hook": "pre-install,pre-upgrade",
                "helm.sh/resource-policy": "keep",
            }


# -- kept once generated: Helm looks them up in the cluster


@pytest.mark.parametrize("major", MAJORS)
def test_a_secret_in_the_cluster_is_rendered_only_to_add_or_change_a_key(tmp_path, major):
    """
    It keeps all its keys: Flower's password stays while Flower is disabled.
    """
    live = {
        "redis-queue": {"redis-password": "liveredis"},
        "evolution-postgres": {"postgres-password": "live-postgres", "ifinu-password": "live-ledger"},
        "ifinu-secrets": {"phone-key": "live-phone-key", "webhook-secret": "live-hook", "flower-auth": "live:flower"},
    }
    objects = {secret_path(name): secret(name, values) for name, values in live.items()}
    arguments = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=server")
    with cluster(tmp_path, objects) as kubeconfig:

        def secrets(*given: str) -> dict[tuple[str, str], str]:
            return opened(documents(run(*arguments, *given, major=major, kubeconfig=kubeconfig)))

        made = secrets("--set", "flower.enabled=false")
        given = secrets(
            "--set", f"redis.auth.value=given,postgres.auth.evolutionPassword=given,webhook.secret.value={'h' * 32}"
        )
        same = secrets("--set", "redis.auth.value=liveredis")
    assert {name for name, _ in made} == {name for name, _ in same} == {"evolution-postgres", "evolution-api"}
    assert made["evolution-postgres", "ifinu-password"] == "live-ledger"
    assert len(made["evolution-postgres", "evolution-password"]) == len(made["evolution-api", "api-key"]) == 40
    assert given["redis-queue", "redis-password"] == given["evolution-postgres", "evolution-password"] == "given"
    assert {key: value for (name, key), value in given.items() if name == "ifinu-secrets"} == {
        "phone-key": "live-phone-key", "webhook-secret": "h" * 32, "flower-auth": "live:flower",
    }  # fmt: skip


@pytest.mark.parametrize("major", MAJORS)
def test_no_upgrade_and_no_rollback_changes_a_password_or_stops_a_pod(tmp_path, major):
    """
    Install, change a password and add pods; upgrade with autoscalers and without Flower; roll back to the first.
    """
    objects: dict[str, Object] = {}
    worker, gateway = path_of("Deployment", "ifinu-worker"), path_of("StatefulSet", "evolution-api")

    def data() -> dict[str, Object]:
        return {name: dict(objects[secret_path(name)]["data"]) for name, _ in SECRETS}

    def pods() -> tuple[int, int]:
        return objects[worker]["spec"]["replicas"], objects[gateway]["spec"]["replicas"]

    fixed = [f"{name}.autoscaling.enabled=false" for name in ("worker", "evolution")]
    fixed += ["worker.replicaCount=4", "evolution.replicaCount=3"]
    with cluster(tmp_path, objects) as kubeconfig:

        def do(command: str, *more: str) -> None:
            run(command, RELEASE, *more, "--namespace", NAMESPACE, major=major, kubeconfig=kubeconfig)

        do("install", str(CHART), "--set", ",".join(fixed))
        objects[secret_path("redis-queue")]["data"]["redis-password"] = base64.b64encode(b"changed").decode()
        changed = data()
        assert changed.keys() == {"redis-queue", "evolution-postgres", "evolution-api", "ifinu-secrets"}
        do("upgrade", str(CHART), "--set", "flower.enabled=false")
        assert (data(), pods()) == (changed, (4, 3))  # not the minimum of 2
        for path, count in ((worker, 9), (gateway, 5)):
            objects[path]["spec"]["replicas"] = count  # set by the autoscalers
        do("upgrade", str(CHART))
        assert (data(), pods()) == (changed, (9, 5))
        do("rollback", "1")
        assert data() == changed
