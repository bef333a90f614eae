"""Passwords: nowhere but in Secrets, none that everybody has, and kept once they are made."""

from __future__ import annotations

import base64
import json
import re

import pytest
from cluster import cluster
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
    The volumes stay too, and know the passwords.
    """
    for name, secret in rendered(story).of("Secret").items():
        if name != "ifinu-alertmanager-config":
            assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


# -- kept, once made: Helm asks the cluster


@pytest.mark.parametrize("major", MAJORS)
def test_a_password_that_is_in_the_cluster_is_kept(tmp_path, major):
    """
    What an upgrade finds it leaves, what it does not find it makes, and what is given wins.
    """
    live = {
        "redis-queue": {"redis-password": "live-redis"},
        "evolution-postgres": {"postgres-password": "live-postgres", "ifinu-password": "live-ledger"},
        "ifinu-secrets": {"phone-key": "live-phone-key", "webhook-secret": "live-hook", "flower-auth": "live:flower"},
    }
    given = ("--set", "redis.auth.value=given")
    arguments = (
        "template",
        RELEASE,
        str(CHART),
        "--namespace",
        NAMESPACE,
        "--dry-run=server",
        "--disable-openapi-validation",
    )
    with cluster(tmp_path, live) as kubeconfig:
        kept = opened(documents(run(*arguments, major=major, kubeconfig=kubeconfig)))
        changed = opened(documents(run(*arguments, *given, major=major, kubeconfig=kubeconfig)))
    expected = {(name, key): value for name, secret in live.items() for key, value in secret.items()}
    made = SECRETS.keys() - expected.keys()
    assert {key: kept[key] for key in expected} == expected
    assert {key: changed[key] for key in expected} == expected | {("redis-queue", "redis-password"): "given"}
    assert made == {("evolution-postgres", "evolution-password"), ("evolution-api", "api-key")}
    for key in made:
        assert len(kept[key]) == 40
        assert kept[key] != changed[key]
