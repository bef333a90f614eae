from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from holders import KEYS, SHORT_S, Account, Holder, named, now_ms
from processes import Queue, redis_server, wait_until

from ifinu.broker import NORMAL
from ifinu.broker.claims import Claims, MessageRef, Verdict
from ifinu.broker.events import Event, Name


def test_the_messages_of_a_dead_worker_come_back_in_their_order(account: Account, holder_of: Callable[..., Holder]):
    account.push(*named(60))
    dead = holder_of(SHORT_S)
    for want in (11, 20, 25):
        dead.fetch(want)
    dead.die()
    holder_of(SHORT_S).leases.watch(KEYS)
    wait_until(lambda: account.queue.counts()["ready"] == 60, seen=account.queue.counts)
    assert account.ready() == named(60)
    account.balance(ready=60)


def test_the_messages_of_a_worker_that_lives_stay_with_it(account: Account, holder_of: Callable[..., Holder]):
    """
    The worker holds them for several leases while another worker sweeps all the time.
    """
    account.push(*named(1_100))
    keeper, sweeper = holder_of(SHORT_S), holder_of(SHORT_S)
    keeper.leases.watch(KEYS)
    sweeper.leases.watch(KEYS)
    for _ in range(3):
        keeper.fetch(500)
    until = now_ms(keeper.client) + 4 * keeper.leases.lease_ms
    wait_until(lambda: min(s for _, s in keeper.client.zrange(KEYS.deadlines, 0, -1, withscores=True)) > until)
    assert keeper.leases.count() == 1_100
    account.balance(in_flight=1_100)


def test_a_worker_sweeps_only_after_a_whole_lease_in_contact_with_redis(
    account: Account, holder_of: Callable[..., Holder]
):
    account.push(*named(5))
    dead = holder_of(0.001)
    dead.fetch(5)
    dead.die()
    started = time.monotonic()
    holder_of(1.0).leases.watch(KEYS)
    wait_until(lambda: account.queue.counts()["ready"] == 5, seen=account.queue.counts)
    assert time.monotonic() - started >= 1.0
    account.balance(ready=5)


def test_a_worker_drops_a_message_whose_lease_it_lost(account: Account, holder_of: Callable[..., Holder]):
    account.push(b"m")
    holder = holder_of(SHORT_S)
    ((tag, _),) = holder.fetch(1)
    wait_until(lambda: now_ms(holder.client) > holder.client.zscore(KEYS.deadlines, tag))
    holder.sweep()
    holder.leases.watch(KEYS)
    wait_until(lambda: not holder.leases.holds(tag))
    account.balance(ready=1)


def test_a_redis_outage_longer_than_a_lease_takes_no_message_from_a_living_worker(
    tmp_path: Path, holder_of: Callable[..., Holder]
):
    with redis_server(tmp_path / "own", {"appendfsync": "always"}) as server:
        keeper, sweeper = holder_of(1.0, server.url), holder_of(1.0, server.url)
        account = Account(Queue(keeper.client))
        account.push(*named(5))
        keeper.leases.watch(KEYS)
        sweeper.leases.watch(KEYS)
        tags = [tag for tag, _ in keeper.fetch(5)]
        last_deadline = max(keeper.client.zmscore(KEYS.deadlines, tags)) / 1000
        server.kill()
        wait_until(lambda: time.time() > last_deadline + 1)
        server.start()
        reached = wait_until(lambda: min(keeper.client.zmscore(KEYS.deadlines, tags)) / 1000 > time.time())
        assert reached
        # Long enough for a sweep by the other worker, if it were to sweep too soon.
        until = time.time() + 2
        wait_until(lambda: min(keeper.client.zmscore(KEYS.deadlines, tags)) / 1000 > until)
        assert keeper.leases.count() == 5
        account.balance(in_flight=5)
        keeper.leases._stopping = sweeper.leases._stopping = True


# -- Redis is away, full, or forgetful


def test_commands_that_failed_during_a_redis_outage_are_repeated_afterwards(
    tmp_path: Path, holder_of: Callable[..., Holder]
):
    with redis_server(tmp_path / "own", {"appendfsync": "always"}) as server:
        holder = holder_of(5.0, server.url)
        account = Account(Queue(holder.client))
        account.push(*named(6))
        tags = [tag for tag, _ in holder.fetch(6)]
        server.kill()
        holder.leases.ack(tags[0])
        holder.bury(tags[1])
        holder.leases.give_back(tags[2:4])
        assert [holder.leases.holds(tag) for tag in tags] == [False] * 4 + [True] * 2
        server.start()
        account.balance(in_flight=6)
        holder.leases.watch(KEYS)
        wait_until(lambda: account.queue.counts()["in_flight"] == 2, seen=account.queue.counts)
        account.acked = 1
        assert account.ready() == named(2, 2)
        account.balance(in_flight=2, ready=2, dead=1)
        holder.leases._stopping = True


def test_an_owed_command_that_redis_refuses_holds_up_neither_the_others_nor_the_leases(
    account: Account, holder_of: Callable[..., Holder]
):
    """
    The key of the dead letters has the wrong type. The message stays in flight; everything else goes on.
    """
    account.push(*named(3))
    holder = holder_of(SHORT_S)
    tags = [tag for tag, _ in holder.fetch(3)]
    holder.client.set(KEYS.dead, "not a list")
    holder.bury(tags[0])
    holder.leases.ack(tags[1])
    holder.leases.watch(KEYS)
    wait_until(lambda: holder.client.hexists(KEYS.in_flight, tags[1]) is False)
    until = now_ms(holder.client) + 4 * holder.leases.lease_ms
    wait_until(lambda: holder.client.zscore(KEYS.deadlines, tags[2]) > until)
    # Its lease was not renewed while the command was owed: it is swept, and another worker may hold it by now.
    wait_until(lambda: holder.client.hkeys(KEYS.in_flight) == [tags[2].encode()])
    holder.client.delete(KEYS.dead)
    account.acked = 1
    account.balance(in_flight=1, ready=1)


def test_every_move_works_after_the_server_lost_its_scripts(account: Account, holder: Holder):
    account.push(*named(6))
    tags = []
    moves: list[Callable[[], Any]] = [
        lambda: tags.extend(tag for tag, _ in holder.fetch(5)),
        lambda: holder.leases.ack(tags[0]),
        lambda: holder.bury(tags[1]),
        lambda: holder.leases.give_back([tags[2]]),
        holder.leases._renew,
        holder.sweep,
    ]
    for move in moves:
        holder.client.script_flush()
        move()
        assert not holder.leases._pending
    account.acked = 1
    account.balance(ready=2, in_flight=2, dead=1)


def test_a_full_redis_can_be_drained(account: Account, holder: Holder):
    """
    Redis refuses new data; every move within it goes on.
    """
    account.push(*named(20))
    tags = [tag for tag, _ in holder.fetch(5)]
    holder.client.zadd(KEYS.delayed, {"due": 1})
    account.pushed += 1
    used = holder.client.info("memory")["used_memory"]
    holder.client.config_set("maxmemory", used // 2)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            holder.client.lpush(NORMAL, "more")
        holder.leases._renew()
        claim = Claims(holder.client, 60).claim(
            MessageRef(NORMAL, tags[0]), Event(Name.UNKNOWN, "inv-1"), digest="", tenant=None, pseudonym="p", seen="s"
        )
        assert claim.verdict is Verdict.GO
        holder.leases.ack(tags[0])
        holder.bury(tags[1])
        holder.leases.give_back([tags[2]])
        holder.sweep()
        holder.fetch(5)
        assert not holder.leases._pending
    finally:
        holder.client.config_set("maxmemory", 0)
    account.acked = 1
    account.balance(ready=12, in_flight=7, dead=1)


@pytest.mark.parametrize("wrong", ["ready", "delayed", "in_flight", "deadlines", "suspects"])
def test_a_key_of_the_wrong_type_makes_a_fetch_fail_before_anything_has_moved(
    account: Account, holder: Holder, wrong: str
):
    name = getattr(KEYS, wrong)
    if wrong != "ready":
        account.push(*named(3))
    holder.client.set(name, "not ours")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        holder.fetch(3)
    holder.client.delete(name)
    account.balance(**({} if wrong == "ready" else {"ready": 3}))
