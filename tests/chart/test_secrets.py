"""Passwords: nowhere but in Secrets, none that everybody has, and kept once they are made."""

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
    """What is in the Secrets, by Secret and key, but for Alertmanager's configuration, which is none."""
    return {
        (name, key): base64.b64decode(value).decode()
        for name, secret in objects.of("Secret").items()
        for key, value in secret.get("data", {}).items()
    }


@pytest.mark.parametrize("story", [s for s in STORIES if s != "external"])
def test_a_password_that_was_given_is_in_its_secret_and_nowhere_else(story):
    objects = render(KNOWN, story=story)
    assert opened(objects) == SECRETS
    for key, document in objects.items():
        if key[0] != "Secret":
            text = json.dumps(document)
            for password in SECRETS.values():
                assert password not in text, key
                assert base64.b64encode(password.encode()).decode() not in text, key


@pytest.mark.parametrize("story", [s for s in STORIES if s != "external"])
def test_no_password_is_made_up_twice_the_same(story):
    """
    None has a default: two renders differ in each of them.
    """
    first, second = (opened(render({"logLevel": level}, story=story)) for level in ("info", "debug"))
    assert first.keys() == second.keys() == SECRETS.keys()
    assert [key for key in first if first[key] == second[key]] == []
    assert len({*first.values(), *second.values()}) == 2 * len(first)
    for (_, key), password in first.items():
        # As the processes want them, and fit to stand in a URL.
        assert re.fullmatch(r"ops:[A-Za-z0-9]{40}" if key == "flower-auth" else r"[A-Za-z0-9]{40}", password)


@pytest.mark.parametrize("story", STORIES)
def test_where_every_secret_is_somebody_elses_none_is_made(story):
    objects = render(ELSEWHERE, story=story)
    assert objects.of("Secret").keys() <= {"ifinu-alertmanager-config"}
    names = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for container in objects.containers()
        for variable in container.spec.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert names <= set("abcdef")


def test_a_secret_of_somebody_else_may_have_keys_of_its_own():
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


def test_of_a_database_outside_nothing_is_made_up():
    """
    Who made it knows its passwords; one of ours would open nothing.
    """
    external = {"enabled": True, "url": "postgresql://ifinu@db.example.com/ifinu"}
    auth = {"ifinuPassword": "given"}
    objects = render({"postgres": {"external": external, "auth": auth}, "simulator": {"enabled": True}})
    assert {key: v for key, v in opened(objects).items() if key[0] == "evolution-postgres"} == {
        ("evolution-postgres", "ifinu-password"): "given"
    }


@pytest.mark.parametrize("story", STORIES)
def test_secrets_stay_when_the_release_goes(story):
    """
    The volumes stay too, and know the passwords. Hooks are no part of a release.
    """
    for name, made in rendered(story).of("Secret").items():
        if name != "ifinu-alertmanager-config":
            assert made["metadata"]["annotations"] == {
                "helm.sh/hook": "pre-install,pre-upgrade",
                "helm.sh/resource-policy": "keep",
            }


# -- kept, once made: Helm asks the cluster


@pytest.mark.parametrize("major", MAJORS)
def test_a_secret_that_is_in_the_cluster_is_rendered_only_where_something_in_it_is_missing_or_given(tmp_path, major):
    """
    And with all that is in it: what was made for Flower stays while Flower is off.
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
    Installed, a password changed, pods added; then upgraded with autoscalers and without Flower, and back to the first.
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
        assert (data(), pods()) == (changed, (4, 3))  # not the least, which is 2
        for path, count in ((worker, 9), (gateway, 5)):
            objects[path]["spec"]["replicas"] = count  # the autoscalers' doing
        do("upgrade", str(CHART))
        assert (data(), pods()) == (changed, (9, 5))
        do("rollback", "1")
        assert data() == changed
