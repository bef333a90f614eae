from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import kombu
import pytest
import redis
from holders import KEYS, Account, Consumer, wire, wires
from processes import wait_until

from ifinu.broker import LOW, NORMAL, URGENT, leases
from ifinu.broker.claims import ClaimState
from ifinu.broker.connections import ScriptRunner
from ifinu.broker.headers import WAIT
from ifinu.broker.intake import TASK
from ifinu.broker.keys import EVENTS, script


def test_a_consumer_gets_raw_json_as_calls_in_order_and_holds_it_until_it_acknowledges(
    account: Account, connection: kombu.Connection
):
    account.push(*wires(30))
    consumer = Consumer(connection)
    consumer.drain(lambda: len(consumer.messages) == 30)
    assert consumer.ids() == [f"id-{number}" for number in range(30)]
    account.balance(in_flight=30)
    for message in consumer.messages:
        message.ack()
    account.acked = 30
    account.balance()


def test_the_prefetch_count_bounds_the_messages_taken(account: Account, connection: kombu.Connection):
    account.push(*wires(30))
    consumer = Consumer(connection, prefetch=8)
    consumer.drain(lambda: len(consumer.messages) == 8)
    account.balance(in_flight=8, ready=22)
    for message in list(consumer.messages):
        message.ack()
    consumer.drain(lambda: len(consumer.messages) == 16)
    account.acked = 8
    account.balance(in_flight=8, ready=14)


def test_a_rejected_message_is_dead_lettered_and_a_requeued_one_is_served_next(
    account: Account, connection: kombu.Connection
):
    account.push(*wires(3))
    consumer = Consumer(connection, prefetch=2)
    consumer.drain(lambda: len(consumer.messages) == 2)
    rejected, requeued = consumer.messages
    rejected.reject()
    requeued.requeue()
    consumer.drain(lambda: len(consumer.messages) == 4)
    assert consumer.ids() == ["id-0", "id-1", "id-1", "id-2"]
    assert [(letter["reason"], letter["raw"]) for letter in account.queue.dead()] == [("rejected", wire(0).decode())]
    account.balance(in_flight=2, dead=1)


def test_a_message_with_half_a_surrogate_pair_is_not_redelivered_for_ever(
    account: Account, connection: kombu.Connection
):
    poison = b'{"id":"\\ud800","tipo_notificacao":"\\udfff"}'
    account.push(poison)
    consumer = Consumer(connection)
    consumer.drain(lambda: consumer.messages)
    tag = consumer.messages[0].delivery_tag
    consumer.channel.bury(tag, reason="invalid", error="\ud800: unknown field", event_fields={"id": consumer.ids()[0]})
    (letter,) = account.queue.dead()
    assert (letter["raw"].encode(), letter["id"], letter["error"]) == (poison, None, "\ud800: unknown field")
    account.balance(dead=1)


def test_a_message_that_is_no_task_is_dead_lettered_and_the_rest_of_its_batch_delivered(
    account: Account, connection: kombu.Connection
):
    account.push(wire(0), b"{not json", b"\xff", wire(1))
    consumer = Consumer(connection)
    consumer.drain(lambda: len(consumer.messages) == 2)
    assert [letter["reason"] for letter in account.queue.dead()] == ["not_json", "not_utf8"]
    account.balance(in_flight=2, dead=2)


def test_a_message_that_makes_its_consumer_fail_is_dead_lettered_and_the_next_one_served(
    account: Account, connection: kombu.Connection
):
    account.push(*wires(2))
    consumer = Consumer(connection)
    got = consumer.messages

    def choke(message: Any) -> None:
        if message.headers["id"] == "id-0":
            raise RuntimeError("77998616740")
        got.append(message)

    consumer.consumer.on_message = choke
    consumer.drain(lambda: got)
    (letter,) = account.queue.dead()
    assert (letter["reason"], letter["error"], letter["id"]) == ("undeliverable", "RuntimeError", "id-0")
    account.balance(in_flight=1, dead=1)


@pytest.mark.parametrize("error", [OSError, redis.exceptions.ConnectionError, SystemExit])
def test_a_message_that_ends_its_consumer_three_times_is_poison_and_the_others_are_served(
    account: Account, connection: kombu.Connection, error: type[BaseException]
):
    """
    A message under way when the connection was lost or the worker ended is only a suspect; its next delivery decides.
    """
    account.push(*wires(3))
    consumer = Consumer(connection)
    got = consumer.messages

    def choke(message: Any) -> None:
        if message.headers["id"] == "id-1":
            raise error("again")
        got.append(message)

    consumer.consumer.on_message = choke
    for _ in range(3):
        with pytest.raises(error, match="again"):
            consumer.drain(lambda: False)
    consumer.drain(lambda: account.queue.counts()["dead"])
    assert sorted(consumer.ids()) == ["id-0", "id-2"]
    (letter,) = account.queue.dead()
    assert (letter["reason"], letter["raw"]) == ("poison", wire(1).decode())
    account.balance(in_flight=2, dead=1)


def test_a_message_present_at_a_lost_connection_is_not_poison_once_it_was_delivered(
    account: Account, connection: kombu.Connection
):
    account.push(wire(0))
    consumer = Consumer(connection)
    lose = iter([True, True])

    def once(message: Any) -> None:
        if next(lose, False):
            raise OSError("lost")
        consumer.messages.append(message)

    consumer.consumer.on_message = once
    for _ in range(2):
        with pytest.raises(OSError, match="lost"):
            consumer.drain(lambda: False)
    consumer.drain(lambda: consumer.messages)
    assert list(account.queue.client.hvals(KEYS.suspects)) == [b"0"]
    account.balance(in_flight=1)


def test_a_message_present_at_every_death_waits_while_another_suspect_is_tried(
    account: Account, connection: kombu.Connection
):
    """
    The deadly message runs in the pool, so fast that the loop hands over the same innocent message each time.
    """
    account.push(*wires(3))
    digests = [hashlib.sha1(message).hexdigest() for message in wires(3)]
    suspects = {f"{digests[1]}:handed": leases.DEATHS - 1, digests[1]: 0, digests[2]: 0}
    account.queue.client.hset(KEYS.suspects, mapping=suspects)
    consumer = Consumer(connection)
    with leases.one_suspect:
        consumer.drain(lambda: len(consumer.messages) == 2)
        assert consumer.ids() == ["id-0", "id-2"]
        account.balance(in_flight=2, delayed=1)
        assert account.queue.client.hget(KEYS.suspects, f"{digests[1]}:handed") == b"%d" % (leases.DEATHS - 1)
    account.queue.client.hset(KEYS.suspects, f"{digests[1]}:handed", 1)
    consumer.drain(lambda: len(consumer.messages) == 3)
    assert not account.queue.client.hexists(KEYS.suspects, f"{digests[1]}:handed")
    assert not leases.one_suspect.locked()
    account.balance(in_flight=3)


def test_unacknowledged_messages_of_a_closing_consumer_are_requeued_in_order(
    account: Account, connection: kombu.Connection
):
    account.push(*wires(12))
    consumer = Consumer(connection)
    consumer.drain(lambda: len(consumer.messages) == 12)
    consumer.messages[3].ack()
    account.acked = 1
    consumer.channel.close()
    assert account.ready() == wires(3) + wires(8, 4)
    account.balance(ready=11)


def test_messages_of_an_unfinished_fetch_are_requeued_when_its_channel_closes(
    account: Account, connection: kombu.Connection
):
    consumer = Consumer(connection)
    account.push(*wires(5))
    connection.transport.cycle._register_BRPOP(consumer.channel)  # sends the command; its answer is not read
    wait_until(lambda: account.queue.counts()["in_flight"] == 5, seen=account.queue.counts)
    consumer.channel.close()
    assert account.ready() == wires(5)
    assert consumer.messages == []
    account.balance(ready=5)


def test_a_consumer_goes_on_after_the_server_lost_its_scripts(
    account: Account, connection: kombu.Connection, client: redis.Redis
):
    consumer = Consumer(connection)
    account.push(wire(0))
    consumer.drain(lambda: len(consumer.messages) == 1)
    client.script_flush()
    account.push(wire(1))
    consumer.drain(lambda: len(consumer.messages) == 2)
    account.balance(in_flight=2)


def test_a_cancelled_queue_is_no_longer_served_and_keeps_its_messages(
    account: Account, connection: kombu.Connection, client: redis.Redis
):
    consumer = Consumer(connection, URGENT, NORMAL)
    client.lpush(URGENT, wire(0))
    consumer.drain(lambda: len(consumer.messages) == 1)
    consumer.consumer.cancel_by_queue(NORMAL)
    account.push(wire(1))
    client.lpush(URGENT, wire(2))
    consumer.drain(lambda: len(consumer.messages) == 2)
    assert consumer.ids() == ["id-0", "id-2"]
    account.balance(ready=1)


def test_queues_are_served_by_urgency_in_any_order_of_subscription(connection: kombu.Connection, client: redis.Redis):
    consumer = Consumer(connection, LOW, NORMAL, URGENT, prefetch=3)
    consumer.consumer.cancel_by_queue(URGENT)  # as Celery's `cancel_consumer` and `add_consumer` do
    consumer.consumer.add_queue(kombu.Queue(URGENT, kombu.Exchange(""), routing_key=URGENT))
    consumer.consumer.consume()
    for number, name in enumerate((LOW, NORMAL, URGENT)):
        client.lpush(name, *wires(2, start=10 * number))
    consumer.drain(lambda: len(consumer.messages) == 3)
    assert consumer.ids() == ["id-20", "id-21", "id-10"]


def test_a_paused_queue_that_is_not_empty_does_not_make_its_consumer_spin(
    account: Account, connection: kombu.Connection, client: redis.Redis
):
    """
    The consumer waits on the paused queue's key: such a wait would end at once, again and again.
    """
    account.push(*wires(3))
    client.set(KEYS.paused, "1")
    consumer = Consumer(connection, URGENT, NORMAL, LOW)

    def calls() -> int:
        return sum(stats["calls"] for name, stats in client.info("commandstats").items() if name == "cmdstat_evalsha")

    consumer.drain(lambda: calls() >= 2)
    before, start = calls(), time.monotonic()
    consumer.drain(lambda: time.monotonic() - start > 1)
    assert calls() - before <= 10 * (time.monotonic() - start)  # four a second, not thousands
    client.lpush(LOW, wire(7))
    consumer.drain(lambda: consumer.messages)
    client.delete(KEYS.paused)
    consumer.drain(lambda: len(consumer.messages) == 4)
    assert consumer.ids()[1:] == ["id-0", "id-1", "id-2"]
    account.balance(in_flight=3)


def test_one_message_can_be_taken_without_consuming(account: Account, connection: kombu.Connection):
    account.push(b"{not json", *wires(3))
    queue = kombu.Queue(NORMAL, channel=connection.default_channel)
    first = queue.get()
    assert first.headers["id"] == "id-0"
    account.balance(ready=2, in_flight=1, dead=1)
    assert queue.get(no_ack=True).headers["id"] == "id-1"
    account.acked = 1
    first.requeue()
    account.balance(ready=2, dead=1)
    assert [queue.get(no_ack=True).headers["id"] for _ in range(2)] == ["id-0", "id-2"]
    account.acked = 3
    assert queue.get() is None
    account.balance(dead=1)


def test_the_length_of_a_queue_is_its_backlog_and_a_purge_empties_it(account: Account, connection: kombu.Connection):
    account.push(*wires(7))
    queue = kombu.Queue(NORMAL, channel=connection.default_channel)
    assert queue.queue_declare(passive=True).message_count == 7
    message = queue.get()
    assert queue.queue_declare(passive=True).message_count == 6
    assert queue.purge() == 6
    assert [entry[b"event"] for _, entry in account.queue.client.xrange(EVENTS)] == [b"unqueued"] * 6
    account.acked = 6
    account.balance(in_flight=1)
    message.ack()


@pytest.mark.parametrize(
    ("after", "place"), [(timedelta(hours=1), "delayed"), (timedelta(hours=-1), "ready"), (None, "ready")]
)
def test_a_message_published_with_a_future_time_waits_in_redis(
    account: Account, connection: kombu.Connection, after: timedelta | None, place: str
):
    eta = after and (datetime.now(UTC) + after).isoformat()
    with connection.Producer() as producer:
        producer.publish([[], {}, {}], routing_key=NORMAL, headers={"task": TASK, "id": "i", "eta": eta})
    account.pushed = 1
    account.balance(**{place: 1})
    if place == "delayed":
        ((message, due_ms),) = account.queue.client.zrange(KEYS.delayed, 0, -1, withscores=True)
        assert eta is not None
        assert due_ms == pytest.approx(datetime.fromisoformat(eta).timestamp() * 1000, abs=1)
        assert json.loads(message)["headers"]["eta"] is None  # no worker delays it again


def losing_an_answer_to(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """Make the next command of this name run, and its connection break before its answer comes."""
    run, left = redis.Redis.execute_command, [word]

    def execute_command(self: redis.Redis, *args: Any, **options: Any) -> Any:
        answer = run(self, *args, **options)
        if args[0] in left:
            left.clear()
            raise redis.ConnectionError("Connection reset by peer")
        return answer

    monkeypatch.setattr(redis.Redis, "execute_command", execute_command)


@pytest.mark.parametrize("lost", ["TIME", "ZADD"])
@pytest.mark.parametrize(
    "headers", [{"eta": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}, {WAIT: 3_600_000}], ids=["eta", "wait"]
)
def test_a_message_published_again_after_a_lost_answer_waits_as_the_first_did(
    connection: kombu.Connection,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, Any],
    lost: str,
):
    losing_an_answer_to(monkeypatch, lost)
    with connection.Producer() as producer:
        producer.publish(
            [[], {}, {}], routing_key=NORMAL, headers={"task": TASK, "id": "i", **headers}, retry=True,
            retry_policy={"max_retries": 1},
        )  # fmt: skip
    assert client.llen(NORMAL) == 0
    assert client.zcard(KEYS.delayed) == (2 if lost == "ZADD" else 1)  # two messages with one id are one notification


def test_a_message_postponed_again_after_a_lost_answer_is_in_one_place(
    account: Account, connection: kombu.Connection, monkeypatch: pytest.MonkeyPatch
):
    account.push(wire(0))
    consumer = Consumer(connection)
    consumer.drain(lambda: consumer.messages)
    exchange, lost = ScriptRunner._exchange, []

    def losing_one_answer(self: ScriptRunner, *command: Any) -> Any:
        answer = exchange(self, *command)
        if not lost:
            lost.append(answer)
            raise redis.ConnectionError("Connection reset by peer")
        return answer

    script("postpone").load(account.queue.client)
    monkeypatch.setattr(ScriptRunner, "_exchange", losing_one_answer)
    message = consumer.messages[0]
    message.channel.leases.postpone(
        message.delivery_tag, "{}", 3_600.0, state=ClaimState.WAITING, notification_id="id-0", event=None
    )
    assert lost == [1]
    account.balance(delayed=1)


def test_an_envelope_not_yet_due_waits_unchanged_in_redis_and_not_in_a_worker(
    account: Account, connection: kombu.Connection
):
    """
    Stock Celery pushes such an envelope.
    """
    due = datetime.now(UTC) + timedelta(seconds=5)  # later than the others are fetched and looked at
    soon, later, past = (
        json.dumps(
            {
                "body": "[[], {}, {}]", "content-type": "application/json", "content-encoding": "utf-8",
                "headers": {"task": TASK, "id": name, "eta": eta.isoformat()}, "properties": {},
            }
        ).encode()
        for name, eta in (("soon", due), ("later", due + timedelta(hours=1)), ("past", due - timedelta(hours=1)))
    )  # fmt: skip
    account.push(soon, later, past)
    consumer = Consumer(connection)
    consumer.drain(lambda: consumer.messages)
    account.balance(in_flight=1, delayed=2)
    waiting = account.queue.client.zrange(KEYS.delayed, 0, -1, withscores=True)
    assert [raw for raw, _ in waiting] == [soon, later]
    assert waiting[0][1] == pytest.approx(due.timestamp() * 1000, abs=1)
    consumer.drain(lambda: len(consumer.messages) == 2)
    assert consumer.ids() == ["past", "soon"]
    assert datetime.now(UTC) >= due - timedelta(milliseconds=1)
    assert [message.headers["eta"] for message in consumer.messages] == [None, None]  # Celery does not delay it again
    account.balance(in_flight=2, delayed=1)


def test_messages_due_at_the_same_moment_are_served_in_order_of_arrival(account: Account, connection: kombu.Connection):
    """
    Some are published by us and some pushed as stock Celery does. Redis sorts equal due times by the message's bytes.
    """
    eta = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    names = [f"{number % 7}-{number}" for number in range(60)]
    with connection.Producer() as producer:
        for name in names[:30]:
            producer.publish([[], {}, {}], routing_key=NORMAL, headers={"task": TASK, "id": name, "eta": eta})
    stock = {"body": "[[], {}, {}]", "content-type": "application/json", "content-encoding": "utf-8", "properties": {}}
    for name in names[30:]:
        account.queue.push(json.dumps({**stock, "headers": {"id": name, "task": TASK, "eta": eta}}).encode())
    Consumer(connection).drain(lambda: account.queue.counts()["delayed"] == 60)
    waiting = account.queue.client.zrange(KEYS.delayed, 0, -1)
    assert [json.loads(raw)["headers"]["id"] for raw in waiting] == names


def test_a_delayed_message_wakes_an_idle_consumer_when_it_is_due(account: Account, connection: kombu.Connection):
    consumer = Consumer(connection)
    eta = (datetime.now(UTC) + timedelta(seconds=0.6)).isoformat()
    with connection.Producer() as producer:
        producer.publish([[], {}, {}], routing_key=NORMAL, headers={"task": TASK, "id": "i", "eta": eta})
    account.pushed = 1
    consumer.drain(lambda: consumer.messages)
    assert datetime.now(UTC) >= datetime.fromisoformat(eta) - timedelta(milliseconds=1)
    account.balance(in_flight=1)


def test_channels_of_one_process_share_its_leases(account: Account, connection: kombu.Connection):
    account.push(*wires(2))
    consumer = Consumer(connection)
    consumer.drain(lambda: len(consumer.messages) == 2)
    assert connection.default_channel.leases is consumer.channel.leases
    assert consumer.channel.leases.count() == 2
