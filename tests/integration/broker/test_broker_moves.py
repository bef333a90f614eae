from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from holders import KEYS, Account, Holder, named, now_ms
from processes import wait_until

from ifinu.broker import LOW, NORMAL, URGENT, Keys


def test_a_batch_is_taken_and_in_flight_with_its_bytes_and_a_lease_in_one_step(account: Account, holder: Holder):
    account.push(*named(5))
    before = now_ms(holder.client)
    taken = holder.fetch(3)
    after = now_ms(holder.client)
    assert [raw for _, raw in taken] == named(3)
    assert holder.client.hgetall(KEYS.in_flight) == {tag.encode(): raw for tag, raw in taken}
    for _, deadline in holder.client.zrange(KEYS.deadlines, 0, -1, withscores=True):
        assert before + 60_000 <= deadline <= after + 60_000
    account.balance(ready=2, in_flight=3)


def test_messages_are_served_in_order_of_arrival(account: Account, holder: Holder):
    account.push(*named(25))
    taken = [raw for want in (1, 7, 500) for _, raw in holder.fetch(want)]
    assert taken == named(25)
    account.balance(in_flight=25)


def test_a_batch_is_filled_from_the_queues_in_their_order(client: redis.Redis, holder: Holder):
    for name in (LOW, NORMAL, URGENT):
        client.lpush(name, *(f"{name}-{i}" for i in range(3)))
    queues = [Keys.of(name) for name in (URGENT, NORMAL, LOW)]
    taken = [[raw.decode() for _, raw in holder.fetch(4, *queues)] for _ in range(3)]
    assert taken == [
        [*(f"{URGENT}-{i}" for i in range(3)), f"{NORMAL}-0"],
        [f"{NORMAL}-1", f"{NORMAL}-2", f"{LOW}-0", f"{LOW}-1"],
        [f"{LOW}-2"],
    ]
    assert [client.hlen(queue.in_flight) for queue in queues] == [3, 3, 3]


def test_two_messages_with_the_same_bytes_are_two_messages(account: Account, holder: Holder):
    account.push(b"same", b"same", b"same")
    tags = [tag for tag, _ in holder.fetch(3)]
    assert len(set(tags)) == 3
    holder.leases.ack(tags[1])
    account.acked = 1
    account.balance(in_flight=2)
    holder.leases.give_back_all()
    assert account.ready() == [b"same", b"same"]
    account.balance(ready=2)


@pytest.mark.parametrize("raw", [b"", b"\x00\xff\xfe", b"\r\n$-1\r\n", b"x" * 1_000_000])
def test_any_bytes_are_held_and_requeued_unchanged(account: Account, holder: Holder, raw: bytes):
    account.push(raw)
    ((tag, taken),) = holder.fetch(1)
    assert (taken, holder.leases.raw(tag)) == (raw, raw)
    holder.leases.give_back([tag])
    assert account.ready() == [raw]
    account.balance(ready=1)


def test_an_empty_queue_returns_nothing_and_no_due_time(account: Account, holder: Holder):
    assert holder.answer(10) == [-1, 0]
    account.balance()


# -- the end of a message


def test_an_acknowledged_message_is_gone_and_a_second_acknowledgement_does_nothing(account: Account, holder: Holder):
    account.push(*named(3))
    tags = [tag for tag, _ in holder.fetch(3)]
    for _ in range(2):
        holder.leases.ack(tags[1])
    account.acked = 1
    assert [holder.leases.holds(tag) for tag in tags] == [True, False, True]
    assert holder.leases.count() == 2
    account.balance(in_flight=2)


def test_requeued_messages_are_served_next_in_their_old_order(account: Account, holder: Holder):
    account.push(*named(1_500))
    taken = holder.fetch(500) + holder.fetch(500) + holder.fetch(300)
    holder.leases.give_back([tag for tag, _ in taken[100:110]])
    assert account.ready() == named(10, 100) + named(200, 1_300)
    account.balance(ready=210, in_flight=1_290)


def test_requeueing_a_whole_batch_restores_the_queue(account: Account, holder: Holder):
    account.push(*named(1_500))
    for want in (500, 500, 300):
        holder.fetch(want)
    for _ in range(2):
        holder.leases.give_back_all()
        assert account.ready() == named(1_500)
        account.balance(ready=1_500)


def test_a_message_is_buried_once(account: Account, holder: Holder):
    account.push(*named(2))
    (tag, _), _ = holder.fetch(2)
    for record in ("first", "second"):
        holder.bury(tag, record)
    assert holder.client.lrange(KEYS.dead, 0, -1) == [b"first"]
    account.balance(in_flight=1, dead=1)


@pytest.mark.parametrize("end", ["ack", "bury", "give_back"])
def test_a_worker_that_lost_a_message_to_another_can_no_longer_end_it(
    account: Account, holder_of: Callable[..., Holder], end: str
):
    account.push(b"m")
    slow, quick = holder_of(0.001), holder_of()
    ((tag, _),) = slow.fetch(1)
    wait_until(lambda: now_ms(slow.client) > slow.client.zscore(KEYS.deadlines, tag))
    quick.sweep()
    ((other, _),) = quick.fetch(1)
    if end == "bury":
        slow.bury(tag)
    else:
        {"ack": slow.leases.ack, "give_back": lambda tag: slow.leases.give_back([tag])}[end](tag)
    assert quick.leases.holds(other)
    account.balance(in_flight=1)


# -- the delayed


def test_delayed_messages_queue_when_they_are_due_the_earliest_first_and_behind_the_backlog(
    account: Account, holder: Holder
):
    account.push(*named(2))
    now = now_ms(holder.client)
    due = {"third": now - 1, "first": now - 3_000, "second": now - 2_000, "later": now + 60_000}
    holder.client.zadd(KEYS.delayed, due)
    account.pushed += len(due)
    answer = holder.answer(4)
    assert answer[4::4] == [b"m0", b"m1", b"first", b"second"]
    assert 59_000 < answer[0] <= 60_000
    account.balance(ready=1, in_flight=4, delayed=1)


def test_two_messages_due_at_the_same_time_are_both_served(account: Account, holder: Holder):
    holder.client.zadd(KEYS.delayed, {"a": 1_000, "b": 1_000})
    account.pushed = 2
    assert sorted(raw for _, raw in holder.fetch(5)) == [b"a", b"b"]
    account.balance(in_flight=2)


def test_an_empty_fetch_returns_the_time_until_the_next_message_of_all_queues(client: redis.Redis, holder: Holder):
    now = now_ms(client)
    for name, after_ms in ((URGENT, 50_000), (NORMAL, 20_000), (LOW, 40_000)):
        client.zadd(Keys.of(name).delayed, {"x": now + after_ms})
    wait_ms, paused = holder.answer(5, *(Keys.of(name) for name in (URGENT, NORMAL, LOW)))
    assert 19_000 < wait_ms <= 20_000
    assert paused == 0


@pytest.mark.parametrize("want", [7, 40, 500])
def test_any_number_due_at_once_is_served_in_order_among_new_messages(account: Account, holder: Holder, want: int):
    """
    Some of those that come meanwhile are due later and some were just pushed; neither kind starves the other.
    """
    start = now_ms(holder.client) - 10_000
    holder.client.zadd(KEYS.delayed, {f"d{number:04}": start + number for number in range(2_000)})
    account.pushed = 2_000
    served: list[bytes] = []
    for late in range(2_000, 2_040):
        account.push(b"new%04d" % late)
        holder.client.zadd(KEYS.delayed, {f"d{late:04}": start + late})
        account.pushed += 1
        served += [raw for _, raw in holder.fetch(want)]
        holder.sweep()
    while batch := holder.fetch(want):
        served += [raw for _, raw in batch]
    for kind, numbers in ((b"d", range(2_040)), (b"new", range(2_000, 2_040))):
        assert [raw for raw in served if raw.startswith(kind)] == [b"%b%04d" % (kind, number) for number in numbers]
    account.balance(in_flight=2_080)


def test_messages_that_are_delayed_again_and_again_do_not_hold_up_new_ones(account: Account, holder: Holder):
    """
    Like messages of an instance on hold: each is due again as soon as it was fetched.
    """
    account.push(*named(300))
    again = {f"again{number:03}": 1 for number in range(500)}
    holder.client.zadd(KEYS.delayed, again)
    fresh: list[bytes] = []
    for _ in range(40):
        taken = holder.fetch(40)
        fresh += [raw for _, raw in taken if raw.startswith(b"m")]
        back = [(tag, raw) for tag, raw in taken if raw.startswith(b"again")]
        for tag, raw in back:
            holder.leases.ack(tag)
            holder.client.zadd(KEYS.delayed, {raw: now_ms(holder.client)})
    assert fresh == named(300)


def test_the_length_of_the_list_includes_due_messages_after_fetches_and_sweeps(account: Account, holder: Holder):
    """
    An autoscaler reads LLEN alone.
    """
    holder.client.zadd(KEYS.delayed, {f"d{number:04}": 1 for number in range(1_000)})
    account.pushed = 1_000
    holder.fetch(1)
    account.balance(ready=199, in_flight=1, delayed=800)
    holder.sweep()
    holder.sweep()
    account.balance(ready=999, in_flight=1)


def test_a_sweep_moves_due_messages_even_without_a_fetch(account: Account, holder: Holder):
    holder.client.zadd(KEYS.delayed, {"b": 2_000, "a": 1_000, "later": now_ms(holder.client) + 60_000})
    account.pushed = 3
    holder.sweep()
    assert account.ready() == [b"a", b"b"]
    account.balance(ready=2, delayed=1)


def test_a_paused_queue_serves_nothing_and_the_others_do(account: Account, holder: Holder):
    account.push(*named(2))
    holder.client.lpush(LOW, b"low")
    holder.client.set(KEYS.paused, "1")
    assert [raw for _, raw in holder.fetch(5, KEYS, Keys.of(LOW))] == [b"low"]
    assert holder.answer(5, KEYS, Keys.of(LOW)) == [-1, 1]
    holder.client.delete(KEYS.paused)
    assert [raw for _, raw in holder.fetch(5)] == named(2)
    account.balance(in_flight=2)
