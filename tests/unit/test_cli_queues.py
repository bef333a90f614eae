import json
from datetime import UTC, datetime, timedelta

import fakeredis
import pytest
from command_line import Shell

from ifinu.broker import LOW, NORMAL, QUEUES, URGENT, Keys, backlog
from ifinu.broker.keys import NUMBERS


@pytest.fixture
def client(monkeypatch):
    server = fakeredis.FakeServer()
    monkeypatch.setattr("ifinu.broker.connections.connect", lambda url: fakeredis.FakeRedis(server=server))
    return fakeredis.FakeRedis(server=server)


@pytest.fixture
def ifinu(capsys, monkeypatch, client):
    return Shell(capsys, monkeypatch)


def message(number, **fields):
    body = {"id": f"n{number}", "tipo_notificacao": "lembrete", "telefone": "(77) 99861-6740", "texto": "segredo"}
    return json.dumps(body | fields).encode()


def test_a_survey_counts_every_place(client):
    keys = Keys.of(NORMAL)
    due = datetime.now(UTC) + timedelta(seconds=60)
    client.lpush(keys.ready, "a", "b")
    client.zadd(keys.delayed, {"c": due.timestamp() * 1000, "d": due.timestamp() * 1000 + 5000})
    client.hset(keys.in_flight, mapping={"t1": "e", "t2": "f", "t3": "g"})
    client.lpush(keys.dead, "h")
    client.set(keys.paused, "2026-12-01T00:00:00+00:00")
    urgent, normal, low = backlog.survey(client)
    assert urgent == backlog.Backlog(URGENT, 0, 0, None, 0, 0, None)
    assert low == backlog.Backlog(LOW, 0, 0, None, 0, 0, None)
    assert (normal.ready, normal.delayed, normal.in_flight, normal.dead, normal.unsettled) == (2, 2, 3, 1, 7)
    assert normal.paused_since == "2026-12-01T00:00:00+00:00"
    assert 55 < (normal.next_due_in_s or 0) <= 60


def test_a_survey_counts_lanes_once_a_number_is_registered(client):
    client.set(f"{NORMAL}:na_espera", 0)
    assert [one.in_lanes for one in backlog.survey(client)] == [None, None, None]
    client.sadd(NUMBERS, "acme")
    client.set(f"{NORMAL}:na_espera", 4)
    client.lpush(NORMAL, "a")
    urgent, normal, _ = backlog.survey(client)
    assert (urgent.in_lanes, normal.in_lanes, normal.ready, normal.unsettled) == (0, 4, 1, 5)
    assert normal.document()["in_lanes"] == 4
    client.delete(NUMBERS)  # what waits for a number that is gone still waits
    assert [one.in_lanes for one in backlog.survey(client)] == [None, 4, None]


def test_size(ifinu, client):
    client.lpush(NORMAL, "a", "b")
    assert [one["ready"] for one in ifinu("queue", "size", "--json").json] == [2]
    assert [one["queue"] for one in ifinu("queue", "size", "-q", "all", "--json").json] == list(QUEUES)
    assert NORMAL in ifinu("queue", "size").out


def test_peek_shows_what_is_next_and_no_personal_data(ifinu, client):
    client.lpush(NORMAL, *(message(i, nome="Maria Segredo") for i in range(5)))
    ended = ifinu("queue", "peek", "-n", "2", "--json")
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {
            "queue": NORMAL,
            "id": f"n{i}",
            "kind": "lembrete",
            "phone": "+55 77 9****-6740",
            "bytes": 120,
            "problem": None,
        }
        for i in (0, 1)
    ]
    table = ifinu("queue", "peek").out
    assert "n4" in table
    for secret in ("99861", "segredo", "Segredo"):
        assert secret not in ended.out + table
    assert client.llen(NORMAL) == 5


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\xff", "not_utf8: byte 0 is not UTF-8"),
        (b"{", "not_json: "),
        (b"[1]", "not_an_object: a JSON list, not an object"),
        (message(1, telefone="99861674"), "invalid: telefone: has no area code"),
        (b'{"id":"x"}', "invalid: tipo_notificacao: is required"),
        (b'{"headers":1,"properties":2,"body":3}', "bad_envelope: "),
    ],
)
def test_peek_shows_the_dead_letter_reason_of_a_bad_message(ifinu, client, raw, problem):
    client.lpush(NORMAL, raw)
    (line,) = ifinu("queue", "peek", "--json").out.splitlines()
    assert json.loads(line)["problem"].startswith(problem)


def test_pause_and_resume(ifinu, client):
    assert ifinu("queue", "pause", "--json").json == {NORMAL: "paused"}
    since = client.get(Keys.of(NORMAL).paused)
    assert datetime.fromisoformat(since.decode()).tzinfo is UTC
    assert ifinu("queue", "pause", "--json").json == {NORMAL: "was paused already"}
    assert client.get(Keys.of(NORMAL).paused) == since
    assert ifinu("queue", "resume", "-q", "all", "--json").json == {
        URGENT: "was not paused",
        NORMAL: "resumed",
        LOW: "was not paused",
    }
    assert not client.exists(Keys.of(NORMAL).paused)


def test_purge_does_nothing_without_a_yes(ifinu, client):
    client.lpush(NORMAL, "a")
    ended = ifinu("queue", "purge")
    assert ended.code == 2
    assert "--yes" in ended.err
    assert client.llen(NORMAL) == 1
