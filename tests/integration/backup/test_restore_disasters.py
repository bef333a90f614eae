"""
Disasters: servers are lost, and restored from a backup older than the loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import ledger_rows
import pytest
import redis
from backups import OTHERS, counts, dead_ids, dead_letters, fill, harm, run, until_idle
from command_line import Shell
from integration.ledger.recording import record
from processes import Fleet, Queue, Simulated, fleet_of, numbered, raw, stopping, wait_until
from waiting import put_aside

from ifinu.broker import NORMAL, QUEUES, Keys, lanes
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import UNKNOWN, claim_key, number_key
from ifinu.broker.optouts import ALL, OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.embedded import Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.reconciliation import reconcile
from ifinu.ledger.states import State
from ifinu.numbers import cache, registry
from ifinu.numbers.registry import Number

PACE = {"IFINU_RATE_LIMIT": "200/s", "IFINU_RATE_BURST": "20"}


@contextlib.contextmanager
def workers_of(directory: Path, redis_url: str, simulator: Simulated) -> Iterator[Fleet]:
    directory.mkdir()
    with stopping(fleet_of(directory, redis_url, simulator.url)) as workers:
        yield workers


def record_all(redis_url: str, ledger_url: str) -> None:
    """Write all events so far to the ledger."""
    engine = connect(ledger_url)
    with redis.Redis.from_url(redis_url) as client:
        record(client, redis_url, engine)
    engine.dispose()


def send_the_rest(ifinu: Shell, client: redis.Redis, url: str, simulator: Simulated, directory: Path) -> None:
    """Start workers at a restored Redis: they send nothing until a person resumes the queues, and then everything."""
    total = simulator.total()
    with workers_of(directory, url, simulator) as workers:
        workers.start(**PACE).ready()
        # While paused, they only requeue the messages of dead workers.
        wait_until(lambda: not any(n["in_flight"] for n in counts(client).values()), 30, lambda: counts(client))
        assert simulator.total() == total
        assert ifinu("queue", "resume", "--queue", "all").code == 0
        until_idle(client)


NONE: dict[str, set[str]] = {"lost": set(), "twice": set()}


@pytest.mark.fault
@pytest.mark.timeout(400)
def test_a_lost_redis_is_restored_without_losing_or_repeating_a_message(
    ifinu: Shell, queue: Queue, valkey: Valkey, fleet: Fleet, simulator: Simulated, target: Valkey,
    fresh: redis.Redis, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """
    The backup is taken while messages are sent, and hundreds are sent after it. The ledger was not lost.
    """
    fill(queue, 1_500, due_in_s=2)
    queue.client.rpush(queue.keys.ready, *dead_letters(queue, 5))
    simulator.control.set_fault(latency_ms=500)  # so that most are left, however long the backup takes
    worker = fleet.start(**PACE).ready()
    wait_until(lambda: simulator.total() > 50, 60, queue.counts)
    assert ifinu("backup", "--without", "evolution").code == 0
    simulator.control.set_fault(latency_ms=60)
    at_backup = simulator.total()
    wait_until(lambda: simulator.total() > at_backup + 400, 60, queue.counts)
    assert worker.terminate() == 0
    record_all(valkey.url, ledger_url)
    valkey.kill()

    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    ended = ifinu("restore", "--only", "redis", "--yes", "--json", "--gateway-kept")
    assert ended.code == 0, ended.err
    report = ended.json["queue"]
    assert report["waiting"] == sum(n["ready"] + n["delayed"] + n["in_flight"] for n in counts(fresh).values())
    assert report["waiting"] > 1_000
    assert report["settled"] >= 400
    assert all(fresh.exists(Keys.of(name).paused) for name in QUEUES)

    simulator.control.set_fault()
    send_the_rest(ifinu, fresh, target.url, simulator, tmp_path / "after")
    assert harm(simulator, 1_500, OTHERS) == NONE
    assert dead_ids(Queue(fresh)) == {f"bad_{n}": "invalid" for n in range(5)}
    record_all(target.url, ledger_url)
    states = run(ledger_url, "SELECT state, count(*) FROM notifications WHERE id ~ '^test_' GROUP BY 1")
    assert states == [("sent", 1_500 + OTHERS)]


@pytest.mark.fault
@pytest.mark.timeout(400)
@pytest.mark.parametrize("gateway_kept", [True, False])
def test_messages_being_sent_at_the_time_of_the_backup_are_looked_up(
    ifinu: Shell, queue: Queue, valkey: Valkey, fleet: Fleet, simulator: Simulated, target: Valkey,
    fresh: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway_kept: bool,
):  # fmt: skip
    """
    A worker dies in the middle of forty sends, half of which arrived; then Redis is lost. Look-ups find those that
    arrived. The others are resent if the gateway's data was kept; otherwise they are left to a person, and not lost.
    """
    simulator.control.set_fault(rates={"hang": 1.0}, hang_ms=600_000)
    worker = fleet.start(IFINU_CONCURRENCY="40", **PACE).ready()
    queue.push(*numbered(20))
    wait_until(lambda: simulator.total() == 20, 30, queue.counts)
    simulator.control.set_fault(rates={"hang_unsent": 1.0}, hang_ms=600_000)
    queue.push(*numbered(40)[20:])
    wait_until(lambda: len(in_state(queue.client, "sending")) == 40, 30, queue.counts)
    worker.kill()
    queue.push(*numbered(60)[40:])  # these were never started
    assert ifinu("backup", "--without", "evolution").code == 0
    valkey.kill()

    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    options = ["--gateway-kept"] if gateway_kept else []
    ended = ifinu("restore", "--only", "redis", "--yes", "--json", *options)
    assert ended.code == 0, ended.err
    report = ended.json["queue"]
    assert (report["waiting"], report["settled"], report["in_doubt"]) == (60, 0, 40)
    assert len(in_state(fresh, "unknown")) == fresh.zcard(UNKNOWN) == 40

    simulator.control.set_fault(rates={})
    send_the_rest(ifinu, fresh, target.url, simulator, tmp_path / "after")
    unsent = {f"test_{n}" for n in range(20, 40)}
    if gateway_kept:
        assert harm(simulator, 60) == NONE
        assert dead_ids(Queue(fresh)) == {}
        return
    assert harm(simulator, 60) == {"lost": unsent, "twice": set()}
    assert dead_ids(Queue(fresh)) == dict.fromkeys(unsent, "unknown")
    assert {one["id"] for one in ifinu("unknown", "list", "--json").json["unknown"]} == unsent


def in_state(client: redis.Redis, state: str) -> set[str]:
    """The ids whose claim is in this state."""
    keys = list(client.scan_iter(claim_key("*")))
    found = {key.decode().removeprefix(claim_key("")): client.hget(key, "state") for key in keys}
    return {name for name, value in found.items() if value == state.encode()}


@pytest.mark.fault
@pytest.mark.timeout(400)
def test_a_whole_cluster_is_restored(
    ifinu: Shell, queue: Queue, valkey: Valkey, fleet: Fleet, simulator: Simulated, target: Valkey, fresh: redis.Redis,
    fresh_urls: tuple[str, str], ledger_url: str, evolution_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """
    Both databases and Redis are restored into new servers; the rest is sent, and recorded after the ledger's last
    event.
    """
    fill(queue, 600, due_in_s=2)
    worker = fleet.start(**PACE).ready()
    wait_until(lambda: simulator.total() > 200, 60, queue.counts)
    assert worker.terminate() == 0
    record_all(valkey.url, ledger_url)
    assert ifinu("backup").code == 0
    before = run(ledger_url, "SELECT * FROM notifications ORDER BY id")
    gateways = run(evolution_url, 'SELECT * FROM "Instance" ORDER BY id')
    valkey.kill()

    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", fresh_urls[0])
    monkeypatch.setenv("IFINU_EVOLUTION_DATABASE_URL", fresh_urls[1])
    ended = ifinu("restore", "--yes")
    assert ended.code == 0, ended.err
    assert "compared row by row" in ended.err
    assert "Messages sent after it cannot be detected" in " ".join(ended.out.split())
    assert run(fresh_urls[0], "SELECT * FROM notifications ORDER BY id") == before
    assert run(fresh_urls[1], 'SELECT * FROM "Instance" ORDER BY id') == gateways
    assert run(fresh_urls[0], "SELECT cause FROM gaps") == [("restored",)]

    send_the_rest(ifinu, fresh, target.url, simulator, tmp_path / "after")
    assert harm(simulator, 600, OTHERS) == NONE
    record_all(target.url, fresh_urls[0])
    assert run(fresh_urls[0], "SELECT count(*) FROM notifications WHERE state = 'sent' AND id ~ '^test_'") == [
        (600 + OTHERS,)
    ]
    assert run(fresh_urls[0], "SELECT count(*) FROM gaps WHERE cause <> 'restored'") == [(0,)]


@pytest.mark.timeout(240)
def test_opt_outs_cancellations_and_purges_since_the_backup_are_applied_to_redis(
    ifinu: Shell, queue: Queue, valkey: Valkey, fleet: Fleet, simulator: Simulated, target: Valkey,
    fresh: redis.Redis, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """
    Opt-outs and opt-ins, a cancelled id, a purged dead letter, and an id that is pushed again.
    """
    client = queue.client
    optouts = OptOuts(client, Pseudonyms.load(client, None))
    out, back = "+5577998616740", "+5577998616741"
    optouts.add("t1", back, source="whatsapp")
    queue.push(raw("called_off", telefone="77 998616742"), raw("to_out", telefone=out, usuario_id="t1"))
    simulator.control.set_fault(endings={"9999": ["not_on_whatsapp"]})
    queue.push(raw("deleted", telefone="77 99861-9999"), raw("dead", telefone="77 99861-9999"))
    assert ifinu("queue", "pause").code == 0
    worker = fleet.start(**PACE).ready()
    assert ifinu("backup", "--without", "evolution").code == 0

    optouts.add("t1", out, source="whatsapp")
    optouts.remove("t1", back)
    assert ifinu("cancel", "test_called_off").code == 0
    queue.push(*numbered(5))  # pushed after the backup
    assert ifinu("queue", "resume").code == 0
    until_idle(client)
    assert ifinu("dlq", "purge", "--id", "test_deleted", "--yes").code == 0
    assert worker.terminate() == 0
    record_all(valkey.url, ledger_url)
    assert simulator.total() == 5
    valkey.kill()

    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    ended = ifinu("restore", "--only", "redis", "--yes", "--json")
    assert ended.code == 0, ended.err
    report = ended.json["queue"]
    assert report["claims"] == {"sent": 5, "suppressed": 1, "cancelled": 2}
    assert (report["waiting"], report["settled"], report["in_doubt"], report["opt_outs"]) == (4, 3, 0, 2)
    there = {one.phone: one.source for one in OptOuts(fresh, Pseudonyms.load(fresh, None)).all(ALL)}
    assert there == {"+55 77 9****-6740": "whatsapp"}

    Queue(fresh).push(*numbered(5))  # by a producer that repeats the lost messages
    send_the_rest(ifinu, fresh, target.url, simulator, tmp_path / "after")
    assert simulator.total() == 5
    assert dead_ids(Queue(fresh)) == {"test_dead": "number_not_on_whatsapp"}


def test_messages_in_lanes_are_reconciled_and_what_their_number_sent_since_counts(
    ifinu: Shell, queue: Queue, valkey: Valkey, target: Valkey, fresh: redis.Redis, ledger_url: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """
    Meanwhile the recorder has written its copy of the registry into the new server.
    """
    engine = connect(ledger_url)
    registry.register(engine, Number("loja", datetime.now(UTC), tenant="t1"))
    cache.load(queue.client, engine)
    put_aside(queue.client, *(raw(name, instancia="loja", usuario_id="t1") for name in ("one", "two", "three")))
    assert ifinu("backup", "--without", "evolution").code == 0
    now = datetime.now(UTC)
    ledger_rows.notification(engine, "test_one", State.SENT, now, sent_at=now, instance="loja")
    valkey.kill()
    cache.load(fresh, engine)

    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    ended = ifinu("restore", "--only", "redis", "--yes", "--json")
    assert ended.code == 0, ended.err
    report = ended.json["queue"]
    assert (report["waiting"], report["settled"], report["in_doubt"]) == (3, 1, 0)
    assert fresh.hget(claim_key("test_one"), "state") == b"sent"
    assert lanes.total(fresh, NORMAL) == 3
    assert [lane.length for lane in lanes.counts(fresh)] == [3]
    assert fresh.hget(number_key("loja"), "hoje") == b"1"
    engine.dispose()


def test_an_outcome_older_than_the_backup_is_left_to_its_claim(
    ifinu: Shell, queue: Queue, valkey: Valkey, fleet: Fleet, simulator: Simulated, target: Valkey,
    fresh: redis.Redis, ledger_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
):  # fmt: skip
    """
    An expired id may be used again, as `IFINU_CLAIM_TTL` says, although the ledger still has it.
    """
    queue.push(*numbered(1))
    worker = fleet.start().ready()
    wait_until(lambda: simulator.total() == 1)
    until_idle(queue.client)
    assert worker.terminate() == 0
    record_all(valkey.url, ledger_url)
    run(ledger_url, "UPDATE notifications SET state_ms = state_ms - 864000000")  # ten days ago
    queue.client.delete(claim_key("test_0"))
    queue.push(*numbered(1))
    assert ifinu("backup", "--without", "evolution").code == 0
    valkey.kill()
    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    ended = ifinu("restore", "--only", "redis", "--yes", "--json")
    assert (ended.code, ended.json["queue"]["settled"]) == (0, 0), ended.err
    send_the_rest(ifinu, fresh, target.url, simulator, tmp_path / "after")
    assert simulator.total() == 2


def test_an_id_purged_since_the_backup_is_not_blocked_by_the_restore(
    ifinu: Shell, queue: Queue, valkey: Valkey, ledger_url: str
):
    """
    The message is back, and a person purges it again; `cancelled` would refuse its id for months.
    """
    client, since = queue.client, datetime.now(UTC)
    message = raw("purged", telefone="77 99861-6740")
    Event(Name.RETRYING, "test_purged", {"attempts": 1}).write(client)
    queue.push(message)
    assert ifinu("queue", "purge", "--yes").code == 0
    record_all(valkey.url, ledger_url)
    queue.push(message)  # as in the backup
    ledger = connect(ledger_url)
    reconciled = reconcile(client, ledger, since, claim_ttl_s=60, resend=False)
    ledger.dispose()
    assert (dict(reconciled.claims), reconciled.waiting, reconciled.settled, reconciled.in_doubt) == ({}, 1, 0, 0)
    assert client.exists(claim_key("test_purged")) == 0
