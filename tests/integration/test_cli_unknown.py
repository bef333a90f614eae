"""`ifinu unknown` and `ifinu cancel` against a real Valkey, a simulator and workers."""

from __future__ import annotations

import json
import time

import pytest
import redis
from command_line import Shell
from processes import Fleet, Queue, Simulated, raw, wait_until

from ifinu import cancel
from ifinu.broker.keys import EVENTS, UNKNOWN, claim_key
from ifinu.embedded import Valkey
from ifinu.errors import BrokerUnavailable, InvalidNotification

HOLD = {"IFINU_ON_UNKNOWN": "hold", "IFINU_UNKNOWN_GRACE_S": "1"}
NOT_SENT, SENT_THEN_RESET = "77 99860-0011", "77 99860-0004"


@pytest.fixture
def ifinu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, valkey: Valkey) -> Shell:
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    return Shell(capsys, monkeypatch)


def states(queue: Queue, *numbers: int) -> list[str | None]:
    found = [queue.client.hget(claim_key(f"test_{number}"), "state") for number in numbers]
    return [state.decode() if state else None for state in found]


def events_of(queue: Queue) -> list[tuple[str, str]]:
    return [(entry[b"id"].decode(), entry[b"event"].decode()) for _, entry in queue.client.xrange(EVENTS)]


# -- unknown


def test_a_held_message_is_resolved_each_way(fleet: Fleet, queue: Queue, simulator: Simulated, ifinu: Shell):
    queue.push(*(raw(number, telefone=NOT_SENT) for number in (1, 2, 3)), raw(4, telefone=SENT_THEN_RESET))
    fleet.start(**HOLD).ready()
    wait_until(lambda: len(queue.dead()) == 3 and queue.idle(), seen=queue.counts)
    assert simulator.total() == 1  # one of them was sent, and was found
    table = ifinu("unknown", "list")
    assert table.code == 0
    assert "3 in doubt; 3 need your decision" in table.out
    assert table.out.count("held in the dead letters (unknown)") == 3
    found = ifinu("unknown", "list", "--json")
    assert found.json["total"] == 3
    places = sorted((one["id"], one["place"], one["kind"], one["resent"]) for one in found.json["unknown"])
    assert places == [(f"test_{n}", "held", "lembrete", False) for n in (1, 2, 3)]
    assert "99860" not in table.out + found.out

    simulator.control.set_fault(endings={"0011": ["ok"]})
    assert ifinu("unknown", "resolve", "test_1", "--sent").out == "test_1: recorded as sent\n"
    assert ifinu("unknown", "resolve", "test_2", "--discard").out == "test_2: will not be sent\n"
    refused = ifinu("unknown", "resolve", "test_3", "--resend")
    assert (refused.code, refused.out) == (2, "")
    assert "add --yes" in refused.err
    done = ifinu("unknown", "resolve", "test_3", "--resend", "--yes")
    assert (done.code, done.out) == (0, "test_3: back on its queue; it is sent in its turn\n")
    wait_until(lambda: states(queue, 3) == ["sent"] and queue.idle(), seen=queue.counts)
    assert simulator.total() == 2
    assert states(queue, 1, 2, 4) == ["sent", "cancelled", "sent"]
    assert queue.dead() == []
    assert queue.client.zcard(UNKNOWN) == 0
    assert ifinu("unknown", "list").out == "Nothing is in doubt.\n"
    assert dict(events_of(queue)) == {"test_1": "sent", "test_2": "cancelled", "test_3": "sent", "test_4": "sent"}


def in_an_hour(queue: Queue, count: int) -> None:
    """Wait for delayed messages, whose next look-up is 5 seconds away, and postpone them, so that a test has time."""
    wait_until(lambda: queue.counts()["delayed"] == count, seen=queue.counts)
    due_ms = (time.time() + 3_600) * 1000
    waiting = queue.client.zrange(queue.keys.delayed, 0, -1)
    queue.client.zadd(queue.keys.delayed, dict.fromkeys(waiting, due_ms), xx=True)


def test_a_message_being_looked_up_is_resolved_each_way(fleet: Fleet, queue: Queue, simulator: Simulated, ifinu: Shell):
    """
    The worker's grace is long.
    """
    queue.push(*(raw(number, telefone=NOT_SENT) for number in (1, 2, 3)))
    fleet.start(IFINU_UNKNOWN_GRACE_S="60").ready()
    in_an_hour(queue, 3)
    assert ifinu("unknown", "list").out.count("look-up in ") == 3
    simulator.control.set_fault(endings={"0011": ["ok"]})
    assert ifinu("unknown", "resolve", "test_1", "--sent", "--key-id", "3EB0AA").code == 0
    assert ifinu("unknown", "resolve", "test_2", "--discard").code == 0
    again = ifinu("unknown", "resolve", "test_3", "--resend", "--yes", "--json").json
    assert (again["done"], again["decision"]) == (True, "resend")
    assert again["due"] is not None
    posts = simulator.control.summary()["posts"]["total"]
    waiting = queue.client.zrange(queue.keys.delayed, 0, -1)
    queue.client.zadd(queue.keys.delayed, dict.fromkeys(waiting, 1), xx=True)
    wait_until(queue.idle, seen=queue.counts)
    assert states(queue, 1, 2, 3) == ["sent", "cancelled", "sent"]
    assert (simulator.total(), simulator.control.summary()["posts"]["total"]) == (1, posts + 1)
    assert queue.client.hget(claim_key("test_1"), "key_id") == b"3EB0AA"
    names = [name for id_, name in events_of(queue) if id_ in ("test_1", "test_2")]
    assert sorted(names) == ["cancelled", "duplicate", "sent", "unknown", "unknown"]


def test_an_id_not_in_doubt_is_left_alone(queue: Queue, ifinu: Shell):
    queue.client.hset(claim_key("n1"), "state", "delivered")
    ended = ifinu("unknown", "resolve", "n1", "--sent")
    assert (ended.code, ended.out) == (1, "n1: not in doubt: its state is delivered\n")
    ended = ifinu("unknown", "resolve", "missing", "--discard", "--json")
    assert ended.code == 1
    assert ended.json == {"id": "missing", "decision": "discard", "done": False, "state": "none", "due": None}
    assert queue.client.keys() == [b"ifinu:claim:n1"]


@pytest.mark.parametrize("how", [(), ("--sent", "--discard"), ("--discard", "--key-id", "x"), ("--resend",)])
def test_resolve_refuses_unclear_arguments(queue: Queue, ifinu: Shell, how: tuple[str, ...]):
    queue.client.hset(claim_key("n1"), mapping={"state": "unknown", "since": "1"})
    queue.client.zadd(UNKNOWN, {"n1": 1})
    ended = ifinu("unknown", "resolve", "n1", *how)
    assert (ended.code, ended.out) == (2, "")
    assert queue.client.zcard(UNKNOWN) == 1


def test_an_overdue_or_purged_look_up_is_shown_as_such(fleet: Fleet, queue: Queue, ifinu: Shell):
    queue.push(raw(1, telefone=NOT_SENT))
    worker = fleet.start(IFINU_UNKNOWN_GRACE_S="60").ready()
    in_an_hour(queue, 1)
    assert "look-up in " in ifinu("unknown", "list").out
    assert ifinu("unknown", "list", "--json").json["worker_answers"] is None  # nothing is overdue
    ((message, due_ms),) = queue.client.zrange(queue.keys.delayed, 0, 0, withscores=True)
    assert ifinu("queue", "pause").code == 0
    overdue = {message: due_ms - 7_200_000}
    queue.client.zadd(queue.keys.delayed, overdue)
    wait_until(lambda: "look-up waits on ifinu:fila:whatsapp, which is paused" in ifinu("unknown", "list").out)

    def found():
        listed = ifinu("unknown", "list", "--json").json
        return listed["overdue"], listed["worker_answers"]

    wait_until(lambda: found() == (1, True), seen=found)
    worker.kill()
    assert ifinu("queue", "resume").code == 0
    queue.client.delete(queue.keys.ready)
    queue.client.zadd(queue.keys.delayed, overdue)
    listed = ifinu("unknown", "list").out
    assert "look-up overdue since " in listed
    assert listed.endswith("1 look-ups are overdue and no worker answers: start one with `ifinu worker`.\n")
    assert found() == (1, False)
    ended = ifinu("queue", "purge", "--delayed", "--yes")
    assert ended.out == f"{queue.keys.ready}: 1 deleted\n"
    assert ended.err == "1 of them may have been sent and are no longer looked up; see `ifinu unknown list`\n"
    assert "its message was purged" in ifinu("unknown", "list").out
    done = ifinu("unknown", "resolve", "test_1", "--resend", "--yes")
    assert done.out == "test_1: its id is free again, but its message was purged: push it again\n"
    assert (states(queue, 1), queue.client.zcard(UNKNOWN)) == ([None], 0)


# -- cancel


def test_cancel_before_the_push_while_a_retry_waits_and_too_late(
    fleet: Fleet, queue: Queue, simulator: Simulated, ifinu: Shell
):
    fleet.start(IFINU_RETRY_BACKOFF_S="600").ready()
    queue.push(raw(1), raw(2, telefone="77 99860-0003"))
    wait_until(lambda: states(queue, 1, 2) == ["sent", "waiting"], seen=queue.counts)
    ended = ifinu("cancel", "test_1", "test_2", "test_3")
    assert ended.code == 1
    assert ended.out.splitlines() == [
        "test_1: too late: it was sent",
        "test_2: cancelled; its retry will not be sent",
        "test_3: cancelled; its message will not be sent",
    ]
    (retry,) = queue.client.zrange(queue.keys.delayed, 0, -1)
    queue.client.zadd(queue.keys.delayed, {retry: 1})  # it is due now
    queue.push(raw(3))
    wait_until(lambda: states(queue, 2, 3) == ["cancelled"] * 2 and queue.idle(), seen=queue.counts)
    assert simulator.total() == 1
    assert queue.dead() == []
    again = ifinu("cancel", "--undo", "test_1", "test_2", "test_3", "--json")
    assert again.code == 1
    assert [json.loads(line) for line in again.out.splitlines()] == [
        {"id": "test_1", "state": "sent", "withdrawn": False},
        {"id": "test_2", "state": "cancelled", "withdrawn": False},
        {"id": "test_3", "state": "cancelled", "withdrawn": True},
    ]
    queue.push(raw(3))
    wait_until(lambda: states(queue, 3) == ["sent"], seen=queue.counts)
    assert simulator.total() == 2


def test_cancel_takes_a_file(ifinu: Shell, queue: Queue, tmp_path):
    file = tmp_path / "paid.txt"
    file.write_bytes("\ufeffn1\r\n\n n2 \n".encode())
    ended = ifinu("cancel", "n0", "--file", str(file))
    assert ended.code == 0
    assert [line.partition(":")[0] for line in ended.out.splitlines()] == ["n0", "n1", "n2"]
    ended = ifinu("cancel", "--file", "-", "--json", stdin=b"n1\nn3\n")
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"id": "n1", "state": "cancelled", "cancelled": True},
        {"id": "n3", "state": "", "cancelled": True},
    ]
    assert [name for _, name in events_of(queue)] == ["cancelled"] * 4
    assert all(queue.client.ttl(claim_key(f"n{number}")) > 89 * 86_400 for number in range(4))


@pytest.mark.parametrize(
    ("arguments", "stdin", "error"),
    [
        ((), b"", "give an ID or --file"),
        (("--file", "-"), b"\xff\n", "-, line 1: is not an id"),
        (("--file", "-"), b"\n" + b"x" * 201, "-, line 2: is not an id"),
        (("--file", "/nowhere"), b"", "/nowhere: No such file"),
        (("n1", " "), b"", "id: is not 1 to 200 characters"),
    ],
)
def test_cancel_refuses_an_invalid_id(
    ifinu: Shell, client: redis.Redis, arguments: tuple[str, ...], stdin: bytes, error: str
):
    ended = ifinu("cancel", *arguments, stdin=stdin)
    assert (ended.code, ended.out) == (2, "")
    assert error in ended.err
    assert client.keys() == []


@pytest.mark.parametrize(
    ("state", "code", "line"),
    [
        ("dead", 0, "cancelled; a replay of its dead letter will not send it"),
        ("unknown", 0, "cancelled; it may have been sent already, and will not be sent again"),
        ("cancelled", 0, "was cancelled already"),
        ("sending", 1, "too late: it is being sent"),
        ("expired", 1, "too late: it ended without being sent (expired)"),
    ],
)
def test_cancel_explains_its_effect_for_each_state(ifinu: Shell, client: redis.Redis, state: str, code: int, line: str):
    client.hset(claim_key("n1"), "state", state)
    ended = ifinu("cancel", "n1")
    assert (ended.code, ended.out) == (code, f"n1: {line}\n")


# -- the function


def test_a_program_can_cancel_too(client: redis.Redis, valkey: Valkey, monkeypatch: pytest.MonkeyPatch):
    assert cancel(" n1 ", client=client) == ""
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    assert cancel("n1") == "cancelled"
    assert client.hget(claim_key("n1"), "cancelled") == b"1"


@pytest.mark.parametrize("given", ["", "  ", "x" * 201, "\ud800", None])
def test_cancelling_an_invalid_id_raises(client: redis.Redis, given: str):
    with pytest.raises(InvalidNotification, match="id: is not 1 to 200 characters"):
        cancel(given, client=client)
    assert client.keys() == []


def test_a_program_gets_one_clear_error_when_redis_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(BrokerUnavailable, match="whether 'n1' is cancelled"):
        cancel("n1")
