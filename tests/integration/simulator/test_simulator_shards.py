"""Gateway processes that share a database, as seen by a client of one address."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from shards import HOSTS, pods

from ifinu.errors import ConfigurationError
from ifinu.simulator import Cluster


@pytest.fixture
def running() -> Iterator[Cluster]:
    with pods({"pod-0": ["a"], "pod-1": ["b"]}) as started:
        yield started


def ask(running: Cluster, pod: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"apikey": "a-key-of-the-tests", "Content-Type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection(HOSTS[pod], running.port, timeout=10)) as line:
        line.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())


def send(running: Cluster, pod: str, instance: str) -> tuple[int, Any]:
    return ask(running, pod, "POST", f"/message/sendText/{instance}", {"number": "5577998616740", "text": "oi"})


def state(running: Cluster, pod: str, instance: str) -> str | None:
    return ask(running, pod, "GET", f"/instance/connectionState/{instance}")[1]["instance"].get("state")


def names(running: Cluster, pod: str) -> list[str]:
    return [row["name"] for row in ask(running, pod, "GET", "/instance/fetchInstances")[1]]


def test_each_process_holds_its_own_instances_and_knows_of_the_others(running: Cluster):
    assert send(running, "pod-0", "a")[0] == send(running, "pod-1", "b")[0] == 201
    assert send(running, "pod-0", "b")[0] == 500
    assert [state(running, pod, "b") for pod in HOSTS] == [None, "open", None]
    assert [names(running, pod) for pod in HOSTS] == [["a"], ["b"], []]
    taken = {"instanceName": "b", "integration": "WHATSAPP-BAILEYS"}
    assert ask(running, "pod-2", "POST", "/instance/create", taken)[0] == 403
    assert [one.instance for one in running.sends] == ["a", "b"]
    assert running.summary()["sends"]["total"] == 2


def test_deleting_at_the_wrong_process_erases_another_ones_instance(running: Cluster):
    assert ask(running, "pod-0", "DELETE", "/instance/delete/b")[0] == 200
    assert send(running, "pod-1", "b")[0] == 404


def test_a_process_finds_the_rows_of_the_one_it_took_over_from(running: Cluster):
    key_id = send(running, "pod-0", "a")[1]["key"]["id"]
    running.kill("pod-0")
    running.move("a", "pod-1")
    assert running.holder("a") == "pod-1"
    found = ask(running, "pod-1", "POST", "/chat/findMessages/a", {"where": {"key": {"id": key_id}}})[1]
    assert [record["key"]["id"] for record in found["messages"]["records"]] == [key_id]
    assert send(running, "pod-1", "a")[0] == 201


def test_a_process_back_at_another_address_connects_its_instances(running: Cluster):
    running.kill("pod-1")
    assert "pod-1" not in running.addresses
    with pytest.raises(ConnectionRefusedError):
        send(running, "pod-1", "b")
    running.revive("pod-1", "127.0.0.9")
    assert running.addresses["pod-1"] == "127.0.0.9"
    running.kill("pod-1")
    running.revive("pod-1")
    assert state(running, "pod-1", "b") == "open"


def test_an_instance_moves_only_to_an_existing_process(running: Cluster):
    with pytest.raises(ConfigurationError, match="no such process"):
        running.move("a", "pod-9")


def test_a_code_stays_until_whatsapp_replaces_it():
    for qr_ms, same in ((60_000, True), (0, False)):
        with pods({"pod-0": ["a"]}, pairing_ms=60_000, qr_ms=qr_ms) as running:
            ask(running, "pod-0", "DELETE", "/instance/logout/a")
            first, second = (ask(running, "pod-0", "GET", "/instance/connect/a")[1] for _ in range(2))
            assert ((first["code"], first["count"]) == (second["code"], second["count"])) is same


def test_whatsapp_remembers_a_number_when_its_process_dies():
    rules = {"bans": {"a": {"gap_ms": 60_000, "ban_after": 3}}, "endings": {}}
    with pods({"pod-0": ["a"]}, script=rules) as running:
        assert [send(running, "pod-0", "a")[0] for _ in range(2)] == [201, 400]
        running.kill("pod-0")
        running.revive("pod-0")
        status, body = send(running, "pod-0", "a")
        assert (status, body["response"]["message"]) == (400, ["Error: rate-overlimit"])
        assert running.numbers()["a"]["sends"] == 1
