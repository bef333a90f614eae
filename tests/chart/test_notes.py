"""The notes that `helm install` prints."""

from __future__ import annotations

import functools
import json
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cluster import cluster
from commands import refuse_unknown
from helm_binaries import MAJORS
from rendering import CHART, NAMESPACE, RELEASE, STORIES, render, run
from test_secrets import ELSEWHERE, KNOWN, SECRETS

TUNED: dict[str, Any] = {"worker": {"rateLimit": "100/s", "concurrency": 20}}
FIXED: dict[str, Any] = {"worker": {"autoscaling": {"enabled": False}, "replicaCount": 3, "rateLimit": "90/m"}}


def notes(values: dict[str, Any] | None = None, story: str | None = None, major: int = 4) -> str:
    """The notes of an installation."""
    return _notes(json.dumps(values or {}), story, major)


@functools.cache
def _notes(values: str, story: str | None, major: int) -> str:
    given = ["--values", str(STORIES[story])] if story else []
    arguments = ("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", *given, "--values", "-")
    if major == 3:  # Helm asks the cluster for its version and API
        arguments += ("--disable-openapi-validation",)
    with tempfile.TemporaryDirectory() as directory, cluster(Path(directory), {}) as kubeconfig:
        text = run(*arguments, major=major, values=values, kubeconfig=kubeconfig)
    return text.partition("\nNOTES:\n")[2]


def bare(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize(
    ("values", "capacity", "latency"),
    [
        ({}, "2 to 20 workers x 50/s = 100 to 1000 messages a second", "200 ms (10 sends at a time"),
        (TUNED, "2 to 20 workers x 100/s = 200 to 2000 messages a second", "200 ms (20 sends at a time"),
        (
            {"worker": {"autoscaling": {"minReplicas": 5, "maxReplicas": 50}}},
            "5 to 50 workers x 50/s = 250 to 2500 messages a second",
            "200 ms (10 sends at a time",
        ),
        (
            {"worker": {"rateLimit": "3000/m"}},
            "2 to 20 workers x 3000/m = 100 to 1000 messages a second",
            "200 ms (10 sends at a time",
        ),
        (
            {"worker": {"rateLimit": "100/h"}},
            "2 to 20 workers x 100/h = 0.06 to 0.56 messages a second",
            "360000 ms (10 sends at a time",
        ),
        (FIXED, "3 to 3 workers x 90/m = 4.5 to 4.5 messages a second", "6667 ms (10 sends at a time"),
    ],
)
def test_the_notes_state_the_capacity(values, capacity, latency, major):
    text = bare(notes(values, major=major))
    assert capacity in text
    assert f"as long as the gateway answers within {latency}" in text


@pytest.mark.parametrize("story", STORIES)
def test_both_majors_of_helm_say_the_same(story):
    assert notes(story=story, major=3).split() == notes(story=story, major=4).split()


@pytest.mark.parametrize("story", STORIES)
def test_every_command_in_the_notes_exists(story):
    lines = [line.split("   #")[0].strip() for line in notes(story=story).splitlines()]
    typed = [shlex.split(line) for line in lines if line.startswith(("kubectl ", "helm "))]
    assert len(typed) >= 5
    objects = render(story=story)
    for words in typed:
        assert NAMESPACE in words, words
        if "ifinu" in words[words.index("--") :] if "--" in words else False:
            refuse_unknown(words[words.index("--") + 2 :])
        for word in words:
            if named := re.fullmatch(r"(deployment|service)/([\w-]+)", word):
                assert (named[1].capitalize(), named[2]) in objects, words
    # The parts that people need later.
    assert ["kubectl", "-n", NAMESPACE, "get", "hpa", "-w"] in typed
    assert any(words[-3:] == ["ifinu", "load", "1000"] for words in typed)
    assert ["helm", "test", RELEASE, "-n", NAMESPACE] in typed


def test_the_notes_say_how_to_watch_the_queue_and_flower():
    text = notes()
    assert "exec deployment/redis-queue -- redis-cli LLEN ifinu:fila:whatsapp" in text
    assert "port-forward service/ifinu-flower-service 5555" in text
    assert "get secret ifinu-secrets -o jsonpath='{.data.flower-auth}' | base64 -d" in text
    assert "redis-cli" not in notes(story="external")
    assert "get secret ifinu -o jsonpath='{.data.flower-auth}'" in notes(story="external")
    assert "flower" not in notes({"flower": {"enabled": False}}).lower()


def test_the_notes_say_that_payments_may_be_missed():
    webhook = {"payments": {"existingSecret": "payments"}}
    assert "ifinu pay reconcile" in notes({"webhook": webhook})
    assert "ifinu pay reconcile" not in notes()
    asked = {"enabled": True, "providers": ["stripe"]}
    assert "ifinu pay reconcile" not in notes({"webhook": webhook, "reconciliation": asked})


def test_the_notes_ask_for_a_load_test_number_if_none_is_set():
    asked = "--set sandboxNumber=…"
    assert asked in notes()
    assert asked not in notes({"sandboxNumber": "11987654321"})
    assert asked not in notes(story="simulator")


def test_the_notes_say_why_replicas_of_whatsapp_web_are_wrong():
    assert "WHATSAPP-BUSINESS" in notes(story="replicated")
    assert "the number is banned" in bare(notes(story="replicated"))
    for story in set(STORIES) - {"replicated"}:
        assert "TOPOLOGY" not in notes(story=story)


def test_each_recommendation_is_shown_until_it_is_followed():
    recommended = "scaling by the backlog is recommended"
    assert recommended in bare(notes())
    assert recommended not in bare(notes(story="keda"))
    assert recommended not in bare(notes(story="queue-metric"))
    assert "NO BACKUPS" in notes()
    assert "NO BACKUPS" not in notes(story="large")


@pytest.mark.parametrize("story", STORIES)
def test_the_notes_warn_that_the_simulator_sends_nothing(story):
    text = notes(story=story)
    assert ("nothing is sent to anybody" in text) == (story == "simulator")
    assert ("PAIR A PHONE" in text) == (story not in ("simulator", "external"))


@pytest.mark.parametrize("left", [None, *ELSEWHERE])
def test_the_notes_explain_generated_secrets(left):
    """
    All Secrets exist but, at most, one.
    """
    values = {key: value for key, value in ELSEWHERE.items() if key != left}
    made = bool(render(values).of("Secret"))
    assert made == (left is not None)
    assert ("SECRETS were made" in notes(values)) == made


def test_the_notes_have_no_passwords():
    text = notes(KNOWN)
    assert "SECRETS were made" not in text  # all passwords were given
    for password in SECRETS.values():
        assert password not in text
    assert not re.search(r"\b[A-Za-z0-9]{40}\b", notes())
