"""The limits of numbers with a pace that are not their pace: new chats, reminders a person a day, pair gap."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from holders import Holder
from processes import Queue

from ifinu.broker import NORMAL, Keys
from ifinu.broker.claims import Claim, Claims, ClaimState, Limits, MessageRef, Verdict, forget_contacts
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import UNKNOWN, claim_key, conversations_key, number_key, script, senders_key
from ifinu.broker.leases import Settled

NUMBER, TENANT = "n1", "acme"
SENDERS = senders_key(NUMBER, "2026-11"), senders_key(NUMBER, "2026-10")
DAY_MS = 86_400_000
ZONE_MS = -3 * 3_600_000


class Bench:
    """Messages of several ids to several people, all by one number."""

    def __init__(self, client: redis.Redis, queue: Queue, holder: Holder) -> None:
        self.client, self.queue, self.holder = client, queue, holder
        self.claims = Claims(client, ttl_s=60)
        self.tags: dict[str, str] = {}

    def number(self, name: str = NUMBER, **fields: Any) -> None:
        self.client.hset(number_key(name), mapping={"par": 1, "fuso": ZONE_MS, **fields})

    def claim(
        self,
        id_: str,
        person: str = "p1",
        *,
        reminders: int | None = None,
        gap_ms: int | None = None,
        token: str = "",
        by: str = NUMBER,
    ) -> Claim:
        self.queue.push(id_.encode())
        ((tag, _),) = self.holder.fetch(1)
        self.tags[id_] = tag
        return self.claims.claim(
            MessageRef(NORMAL, tag, token),
            Event(Name.UNKNOWN, id_),
            digest="",
            tenant=TENANT,
            pseudonym=person,
            seen="ifinu:visto:none",
            limits=Limits(by, SENDERS, reminders, gap_ms),
        )

    def settle(self, id_: str, state: ClaimState = ClaimState.SENT, person: str = "p1") -> None:
        sender = (SENDERS[0], person, TENANT) if state is ClaimState.SENT else None
        outcome = Settled(state, Event(Name(state.value), id_), "3EB0", sender)
        self.holder.leases.settle(self.tags[id_], outcome, queue=NORMAL, ttl_s=60)

    def postpone(self, id_: str, state: str = "waiting") -> None:
        keys = Keys.of(NORMAL)
        script("postpone")(
            self.client,
            (keys.in_flight, keys.deadlines, keys.delayed, claim_key(id_), UNKNOWN),
            (self.tags[id_], f"{id_} later", 60_000, state, id_),
        )

    def bury(self, id_: str) -> None:
        self.holder.leases.bury(self.tags[id_], "record", Event(Name.DEAD, id_), state=ClaimState.DEAD)

    def release(self, id_: str) -> None:
        self.claims.release(id_, self.tags[id_])


@pytest.fixture
def bench(client: redis.Redis, queue: Queue, holder: Holder) -> Bench:
    return Bench(client, queue, holder)


def midnight() -> datetime:
    """The next midnight at the number's place."""
    now_ms = time.time() * 1000
    return datetime.fromtimestamp(((now_ms + ZONE_MS) // DAY_MS + 1) * DAY_MS / 1000 - ZONE_MS / 1000, UTC)


def test_a_number_writes_to_as_many_new_people_a_day_as_it_may(bench: Bench):
    bench.number(novos=1)
    first = bench.claim("a", "p1")
    assert (first.verdict, first.new) == (Verdict.GO, True)
    other = bench.claim("b", "p2")
    assert (other.verdict, other.until) == (Verdict.NEW_CHATS, midnight())
    assert bench.client.exists(claim_key("b")) == 0  # nothing is claimed: tomorrow it is a first message again


def test_a_person_that_the_number_wrote_to_before_is_no_new_chat(bench: Bench):
    bench.number(novos=0)
    for month, person in zip(SENDERS, ("p1", "p2"), strict=True):
        bench.client.hset(month, person, TENANT)
    for id_, person in (("a", "p1"), ("b", "p2")):
        claim = bench.claim(id_, person)
        assert (claim.verdict, claim.new) == (Verdict.GO, False)
    assert bench.claim("c", "p3").verdict is Verdict.NEW_CHATS


def test_the_second_message_to_a_new_person_and_a_retry_take_no_second_place(bench: Bench):
    bench.number(novos=1)
    bench.claim("a")
    bench.postpone("a")
    token = bench.client.hget(claim_key("a"), "token")
    assert isinstance(token, bytes)
    assert bench.claim("a", token=token.decode()).verdict is Verdict.GO
    assert bench.claim("b").verdict is Verdict.GO
    assert bench.claim("c", "p2").verdict is Verdict.NEW_CHATS


def test_a_number_without_a_cap_on_new_chats_still_reports_them(bench: Bench):
    bench.number()
    assert bench.claim("a").new
    bench.settle("a")
    assert not bench.claim("b").new


# -- the portfolio, whose messages are those with a gap: others answer at once


def talks(client: redis.Redis, began_h: dict[str, float]) -> None:
    """Conversations of the portfolio, by the hours since they began."""
    now_ms = time.time() * 1000
    client.zadd(conversations_key("meta"), {person: now_ms - hours * 3_600_000 for person, hours in began_h.items()})


def in_h(claim: Claim) -> float:
    """Hours until a limit ends."""
    assert claim.until is not None
    return round((claim.until - datetime.now(UTC)) / timedelta(hours=1), 2)


def test_the_numbers_of_a_portfolio_share_a_cap_of_conversations_in_24_hours(bench: Bench):
    for name in ("n1", "n2"):
        bench.number(name, grupo="meta", conversas=2)
    bench.number("n3", grupo="other", conversas=2)
    assert bench.claim("a", "p1", gap_ms=1).verdict is Verdict.GO
    assert bench.claim("b", "p2", gap_ms=1, by="n2").verdict is Verdict.GO
    third = bench.claim("c", "p3", gap_ms=1, by="n2")
    assert (third.verdict, in_h(third)) == (Verdict.PORTFOLIO, 24)
    assert bench.client.exists(claim_key("c")) == 0
    assert bench.claim("d", "p1", gap_ms=0, by="n2").verdict is Verdict.GO, "the conversation is open"
    assert bench.claim("e", "p3", by="n2").verdict is Verdict.GO, "an answer opens none"
    assert bench.claim("f", "p4", gap_ms=1, by="n3").verdict is Verdict.GO, "another portfolio"
    people = bench.client.zrange(conversations_key("meta"), 0, -1)
    assert people == [b"p1", b"p2"]
    assert 24 * 3600 < bench.client.ttl(conversations_key("meta")) <= 25 * 3600


def test_known_people_count_for_a_portfolio_since_the_cap_is_not_one_of_new_chats(bench: Bench):
    bench.number(grupo="meta", conversas=1)
    for person in ("p1", "p2"):
        bench.client.hset(SENDERS[0], person, TENANT)
    assert bench.claim("a", "p1", gap_ms=1).verdict is Verdict.GO
    assert bench.claim("b", "p2", gap_ms=1).verdict is Verdict.PORTFOLIO


def test_a_conversation_counts_for_24_hours_from_its_first_message(bench: Bench):
    bench.number(grupo="meta", conversas=2)
    talks(bench.client, {"p1": 23, "p2": 24.01})
    assert bench.claim("a", "p1", gap_ms=1).verdict is Verdict.GO
    assert bench.claim("b", "p3", gap_ms=1).verdict is Verdict.GO, "p2's is over"
    assert in_h(bench.claim("c", "p4", gap_ms=1)) == 1, "p1's began 23 hours ago"


def test_each_one_that_waits_for_a_portfolio_comes_back_for_a_place_that_no_other_waits_for(bench: Bench):
    bench.number(grupo="meta", conversas=3)
    talks(bench.client, {"p1": 20, "p2": 10, "p3": 5})
    waits = [in_h(bench.claim(person, person, gap_ms=1)) for person in ("q1", "q2", "q3", "q4")]
    assert waits == [4, 14, 19, 24]
    assert in_h(bench.claim("again", "q4", gap_ms=1)) == 24, "it does not wait for itself"
    bench.client.zadd("ifinu:grupo:meta:espera", {"q1": 1})  # its time has come, and its place was taken
    assert in_h(bench.claim("later", "q1", gap_ms=1)) == 24


@pytest.mark.parametrize(("tier", "waits_h"), [(2, 14), (1, 19), (0, 24)])
def test_a_tier_that_was_lowered_waits_for_as_many_ends_as_it_has_conversations_too_many(
    bench: Bench, tier: int, waits_h: int
):
    bench.number(grupo="meta", conversas=tier)
    talks(bench.client, {"p1": 20, "p2": 10, "p3": 5})
    assert in_h(bench.claim("a", "q1", gap_ms=1)) == waits_h


def test_a_portfolio_without_a_limit_counts_all_the_same(bench: Bench):
    bench.number(grupo="meta")
    for person in ("p1", "p2", "p3"):
        assert bench.claim(person, person, gap_ms=1).verdict is Verdict.GO
    assert bench.client.zcard(conversations_key("meta")) == 3


def test_a_person_who_is_forgotten_frees_no_place_of_a_portfolio(bench: Bench):
    bench.number(grupo="meta", conversas=1)
    bench.claim("a", "p1", gap_ms=1)
    forget_contacts(bench.client, "p1")
    assert bench.client.zscore(conversations_key("meta"), "p1") is None
    assert bench.claim("b", "p2", gap_ms=1).verdict is Verdict.PORTFOLIO


def test_a_person_gets_as_many_reminders_a_day_as_one_may(bench: Bench):
    bench.number()
    assert bench.claim("a", reminders=2).verdict is Verdict.GO
    assert bench.claim("b", reminders=2).verdict is Verdict.GO
    third = bench.claim("c", reminders=2)
    assert (third.verdict, third.until) == (Verdict.PERSON_CAP, midnight())
    assert bench.claim("d", "p2", reminders=2).verdict is Verdict.GO
    assert bench.claim("e").verdict is Verdict.GO  # a receipt does not count


@pytest.mark.parametrize(
    "end",
    [
        lambda bench: bench.settle("a", ClaimState.EXPIRED),
        lambda bench: bench.postpone("a"),
        lambda bench: bench.bury("a"),
        lambda bench: bench.release("a"),
    ],
    ids=["expired", "postponed", "dead", "released"],
)
def test_a_reminder_that_was_not_sent_does_not_count(bench: Bench, end: Callable[[Bench], None]):
    bench.number()
    bench.claim("a", reminders=1)
    assert bench.claim("b", reminders=1).verdict is Verdict.PERSON_CAP
    end(bench)
    assert bench.claim("c", reminders=1).verdict is Verdict.GO


@pytest.mark.parametrize(
    "end",
    [lambda bench: bench.settle("a"), lambda bench: bench.postpone("a", "unknown")],
    ids=["sent", "in doubt"],
)
def test_a_reminder_that_was_or_may_have_been_sent_counts(bench: Bench, end: Callable[[Bench], None]):
    bench.number()
    bench.claim("a", reminders=1)
    end(bench)
    assert bench.claim("b", reminders=1).verdict is Verdict.PERSON_CAP


def test_two_messages_to_a_person_keep_their_distance(bench: Bench):
    bench.number()
    bench.claim("a", gap_ms=6000)
    bench.settle("a")
    soon = bench.claim("b", gap_ms=6000)
    assert soon.verdict is Verdict.PAIR_GAP
    assert soon.until is not None
    assert timedelta(0) < soon.until - datetime.now(UTC) <= timedelta(seconds=6)
    assert bench.claim("c", "p2", gap_ms=6000).verdict is Verdict.GO
    assert bench.claim("d").verdict is Verdict.GO  # a payment code follows its message at once
    assert bench.claim("e", gap_ms=1).verdict is Verdict.GO  # the distance is over


def test_a_message_that_is_claimed_while_another_to_the_person_goes_out_keeps_its_distance(bench: Bench):
    bench.number()
    bench.claim("a", gap_ms=6000)
    assert bench.claim("b", gap_ms=6000).verdict is Verdict.PAIR_GAP
    bench.postpone("a")
    token = bench.client.hget(claim_key("a"), "token")
    assert isinstance(token, bytes)
    retry = bench.claim("a", gap_ms=6000, token=token.decode())
    assert retry.verdict is Verdict.GO  # it does not wait for itself


def test_a_look_up_reports_the_number_that_may_have_sent_it(bench: Bench):
    bench.number()
    bench.claim("a", reminders=1)
    bench.queue.client.zadd(bench.queue.keys.deadlines, {bench.tags["a"]: 1})
    bench.holder.sweep()
    ((tag, _),) = bench.holder.fetch(1)
    claim = bench.claims.claim(
        MessageRef(NORMAL, tag), Event(Name.UNKNOWN, "a"), digest="", tenant=TENANT, pseudonym="p1", seen="none"
    )
    assert (claim.verdict, claim.number) == (Verdict.LOOK_UP, NUMBER)
