from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from holders import Holder
from processes import Queue

from ifinu.broker import NORMAL, DeadLetters, Filter, Keys
from ifinu.broker.claims import Claim, Claims, ClaimState, MessageRef, Resend, Verdict
from ifinu.broker.dead_letters import encode
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, UNKNOWN, claim_key, optout_key, script
from ifinu.broker.leases import Settled

ID = "n1"
SEEN = "ifinu:visto:K7Q2-M9XT:of-this-phone"
WHOM: dict[str, Any] = {"tenant": "t1", "pseudonym": "p1"}


@pytest.fixture
def claims(client: redis.Redis) -> Claims:
    return Claims(client, ttl_s=60)


class Bench:
    """One id, the messages that carry it, and its events in the stream."""

    def __init__(self, claims: Claims, queue: Queue, holder: Holder) -> None:
        self.claims, self.queue, self.holder = claims, queue, holder

    def take(self, raw: bytes = b"m") -> str:
        """Fetch a message as a living worker. Returns its tag."""
        self.queue.push(raw)
        ((tag, _),) = self.holder.fetch(1)
        return tag

    def claim(self, tag: str, *, token: str = "", digest: str = "d") -> Claim:
        return self.claims.claim(
            MessageRef(NORMAL, tag, token),
            Event(Name.UNKNOWN, ID, {"reason": "worker_died"}),
            digest=digest,
            **WHOM,
            seen=SEEN,
        )

    def verdict(self, tag: str, **how: Any) -> tuple[str, str]:
        answer = self.claim(tag, **how)
        return answer.verdict, answer.before

    def die(self, tag: str) -> None:
        """The message's worker dies, and a sweep finds the message."""
        self.queue.client.zadd(self.queue.keys.deadlines, {tag: 1})
        self.holder.sweep()

    def settle(
        self, tag: str, state: str = "sent", key_id: str = "3EB0", then: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        outcome = Settled(ClaimState(state), Event(Name(state), ID), key_id)
        self.holder.leases.settle(tag, outcome, queue=NORMAL, ttl_s=60, then=then)

    def waiting(self) -> list[bytes]:
        """The messages on the list, the next one first."""
        return list(reversed(self.queue.client.lrange(NORMAL, 0, -1)))  # type: ignore[arg-type]

    def postpone(self, tag: str, state: str, message: str = "later") -> None:
        keys = Keys.of(NORMAL)
        script("postpone")(
            self.queue.client,
            (keys.in_flight, keys.deadlines, keys.delayed, f"ifinu:claim:{ID}", UNKNOWN),
            (tag, message, 0, state, ID),
        )

    def bury(self, tag: str, state: str) -> None:
        name = Name.HELD if state == "unknown" else Name.DEAD
        self.holder.leases.bury(tag, "record", Event(name, ID), state=ClaimState(state))

    def events(self) -> list[str]:
        return [entry[b"event"].decode() for _, entry in self.queue.client.xrange(EVENTS)]

    def state(self, id_: str = ID) -> str | None:
        """The state of an id's claim; None if there is none."""
        state = self.queue.client.hget(claim_key(id_), "state")
        return state.decode() if isinstance(state, bytes) else None

    def in_doubt(self) -> list[bytes]:
        return self.queue.client.zrange(UNKNOWN, 0, -1)


@pytest.fixture
def bench(claims: Claims, queue: Queue, holder: Holder) -> Bench:
    return Bench(claims, queue, holder)


def test_the_first_message_of_an_id_may_be_sent_and_the_second_may_not(bench: Bench):
    a, b = bench.take(), bench.take()
    assert bench.verdict(a) == (Verdict.GO, "")
    assert bench.verdict(b) == (Verdict.DUPLICATE, "sending")
    assert bench.verdict(a) == (Verdict.GO, "sending")  # the same message asks again, since its answer was lost
    assert bench.events() == []


def test_a_message_whose_worker_died_during_the_send_is_looked_up_and_reported_unknown_once(bench: Bench):
    a = bench.take()
    bench.claim(a)
    bench.die(a)
    ((b, _),) = bench.holder.fetch(1)
    answer = bench.claim(b)
    assert (answer.verdict, answer.before, answer.token) == (Verdict.LOOK_UP, "sending", a)
    assert answer.since == answer.started
    assert bench.verdict(b) == (Verdict.LOOK_UP, "unknown")  # asked again, since its answer was lost
    assert bench.events() == ["unknown"]
    assert bench.in_doubt() == [ID.encode()]
    assert bench.verdict(bench.take()) == (Verdict.DUPLICATE, "unknown")


def test_a_worker_may_die_during_the_look_up_too(bench: Bench):
    """
    The first message has no token; it is recognised by its tag.
    """
    a = bench.take()
    bench.claim(a)
    for _ in range(3):
        bench.die(a)
        ((a, _),) = bench.holder.fetch(1)
        assert bench.claim(a).verdict is Verdict.LOOK_UP
    assert bench.events() == ["unknown"]


@pytest.mark.parametrize(("state", "verdict"), [("waiting", Verdict.GO), ("unknown", Verdict.LOOK_UP)])
def test_only_the_awaited_message_of_an_id_may_be_sent(bench: Bench, state: str, verdict: Verdict):
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, state)
    assert bench.in_doubt() == ([ID.encode()] if state == "unknown" else [])
    assert bench.verdict(bench.take()) == (Verdict.DUPLICATE, state)
    assert bench.verdict(bench.take(), token="another") == (Verdict.DUPLICATE, state)
    assert bench.verdict(bench.take(), token=token) == (verdict, state)


@pytest.mark.parametrize("doubt", ["its holder died", "postponed", "buried"])
def test_an_id_in_doubt_does_not_expire_until_it_is_settled(bench: Bench, doubt: str):
    """
    After a week no record would be left that the message may have been sent.
    """
    a = bench.take()
    bench.claim(a)
    match doubt:
        case "its holder died":
            bench.die(a)
            bench.claim(bench.take())
        case "postponed":
            bench.postpone(a, "unknown")
        case "buried":
            bench.bury(a, "unknown")
    assert bench.queue.client.ttl("ifinu:claim:n1") == -1
    bench.settle(a)
    assert 0 < bench.queue.client.ttl("ifinu:claim:n1") <= 60


def test_the_webhooks_evidence_for_a_reference_comes_with_the_look_up(bench: Bench):
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, "unknown")
    bench.queue.client.set(SEEN, "3EB0AA")
    assert bench.claim(bench.take(), token=token).seen == "3EB0AA"


def test_a_message_in_doubt_is_sent_again_once(bench: Bench):
    a = bench.take()
    token = bench.claim(a).token
    resending = Event(Name.RESENDING, ID)
    bench.postpone(a, "unknown")
    b = bench.take()
    first = bench.claim(b, token=token)
    assert bench.claims.resend(MessageRef(NORMAL, a), resending, **WHOM) is Resend.LOST
    for _ in range(2):  # asked twice, since the answer may be lost
        assert bench.claims.resend(MessageRef(NORMAL, b), resending, **WHOM) is Resend.GO
    assert bench.events() == ["resending"]
    bench.die(b)
    ((c, _),) = bench.holder.fetch(1)
    again = bench.claim(c, token=token)
    assert (again.verdict, again.resent, again.since) == (Verdict.LOOK_UP, True, first.since)
    assert again.started
    assert first.started
    assert again.started >= first.started
    assert bench.claims.resend(MessageRef(NORMAL, c), resending, **WHOM) is Resend.AGAIN


def test_a_resend_that_did_not_take_place_may_be_tried_again(bench: Bench):
    """
    The gateway went away: the message is requeued, and is in doubt as before.
    """
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, "unknown")
    b = bench.take()
    bench.claim(b, token=token)
    bench.claims.resend(MessageRef(NORMAL, b), Event(Name.RESENDING, ID), **WHOM)
    bench.claims.release(ID, b)
    bench.holder.leases.give_back([b])
    ((c, _),) = bench.holder.fetch(1)
    assert bench.claim(c, token=token).verdict is Verdict.LOOK_UP
    assert bench.claims.resend(MessageRef(NORMAL, c), Event(Name.RESENDING, ID), **WHOM) is Resend.GO


@pytest.mark.parametrize(
    ("digest", "verdict"), [("d", Verdict.DUPLICATE), ("", Verdict.DUPLICATE), ("e", Verdict.REUSED)]
)
def test_other_content_under_a_used_id_is_distinguished_from_a_duplicate(bench: Bench, digest: str, verdict: Verdict):
    bench.claim(bench.take())
    assert bench.verdict(bench.take(), digest=digest)[0] == verdict


def test_an_outcome_is_recorded_once_even_after_the_lease_was_lost(bench: Bench, client: redis.Redis):
    """
    Otherwise the worker that holds the message by then would send it again.
    """
    a = bench.take()
    bench.claim(a)
    bench.die(a)
    ((b, _),) = bench.holder.fetch(1)
    bench.claim(b)
    for _ in range(2):
        bench.settle(a)
    assert bench.verdict(b) == (Verdict.DUPLICATE, "sent")
    assert client.hget("ifinu:claim:n1", "key_id") == b"3EB0"
    assert 0 < client.ttl("ifinu:claim:n1") <= 60
    assert bench.events() == ["unknown", "sent"]
    assert bench.in_doubt() == []


def test_a_released_claim_is_undone_and_only_its_own_message_can_release_it(bench: Bench, claims: Claims):
    a = bench.take()
    bench.claim(a)
    claims.release(ID, "b")
    assert bench.state(ID) == "sending"
    claims.release(ID, a)
    assert bench.state(ID) is None


@pytest.mark.parametrize(
    ("state", "event", "in_doubt", "then"),
    [("dead", "dead", [], Verdict.GO), ("unknown", "held", [b"n1"], Verdict.DUPLICATE)],
)
def test_a_dead_letter_ends_its_claim(bench: Bench, state: str, event: str, in_doubt: list[bytes], then: Verdict):
    a = bench.take()
    bench.claim(a)
    bench.bury(a, state)
    assert bench.events() == [event]
    assert bench.in_doubt() == in_doubt
    assert bench.verdict(bench.take())[0] is then


def test_dead_lettering_a_second_message_does_not_affect_the_first(bench: Bench):
    bench.claim(bench.take())
    b = bench.take()
    bench.claim(b, digest="e")
    bench.bury(b, "dead")
    assert bench.events() == ["duplicate"]
    assert bench.state(ID) == "sending"


@pytest.mark.parametrize(
    ("state", "event", "in_doubt", "then"),
    [("waiting", "dead", [], Verdict.GO), ("unknown", "held", [b"n1"], Verdict.DUPLICATE)],
)
def test_a_message_that_ends_before_its_claim_ends_the_wait_of_its_id(
    bench: Bench, state: str, event: str, in_doubt: list[bytes], then: Verdict
):
    """
    As poison, or as a revoked task. Otherwise its id would wait for it for ever.
    """
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, state)
    b, c = bench.take(), bench.take()
    bench.holder.leases.bury(b, "another's", Event(Name.DEAD, ID), state=ClaimState.DEAD)
    assert bench.state(ID) == state
    bench.holder.leases.bury(c, "its own", Event(Name.DEAD, ID), state=ClaimState.DEAD, token=token)
    assert bench.events() == ["duplicate", event]
    assert bench.in_doubt() == in_doubt
    assert bench.verdict(bench.take())[0] is then


def test_a_message_that_ends_before_its_claim_leaves_a_dead_workers_send_in_doubt(bench: Bench):
    """
    Its worker died during the send, and then it expired. It may have been sent, so the id must not be forgotten.
    """
    a = bench.take()
    bench.claim(a)
    bench.die(a)
    ((b, _),) = bench.holder.fetch(1)
    bench.holder.leases.bury(b, "expired", Event(Name.DEAD, ID), state=ClaimState.DEAD)
    assert bench.events() == ["held"]
    assert bench.in_doubt() == [ID.encode()]
    assert bench.verdict(bench.take()) == (Verdict.LOOK_UP, "unknown")


def test_a_resend_that_certainly_failed_leaves_the_first_send_in_doubt(bench: Bench):
    """
    Its retries ran out. The id must not become free, since the first send may have reached the person.
    """
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, "unknown")
    b = bench.take()
    bench.claim(b, token=token)
    bench.claims.resend(MessageRef(NORMAL, b), Event(Name.RESENDING, ID), **WHOM)
    bench.postpone(b, "waiting")
    assert bench.in_doubt() == [ID.encode()]
    c = bench.take()
    assert bench.verdict(c, token=token) == (Verdict.GO, "waiting")
    bench.bury(c, "dead")
    assert bench.events() == ["resending", "held"]
    assert bench.in_doubt() == [ID.encode()]
    assert bench.verdict(bench.take()) == (Verdict.DUPLICATE, "unknown")


@pytest.mark.parametrize("act", ["replay", "purge"])
def test_replaying_or_purging_a_second_messages_letter_does_not_affect_the_first(bench: Bench, act: str):
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, "unknown")
    b = bench.take()
    raw = json.dumps({"id": ID}).encode()
    record = encode(raw, reason="id_reused", error="", now=datetime.now(UTC))
    bench.holder.leases.bury(b, record, Event(Name.DEAD, ID), state=ClaimState.DEAD)
    letters = DeadLetters(bench.queue.client, NORMAL)
    (letter,) = letters.find(Filter(), datetime.now(UTC))
    assert getattr(letters, act)(letter)
    assert bench.in_doubt() == [ID.encode()]
    assert bench.verdict(bench.take()) == (Verdict.DUPLICATE, "unknown")
    assert bench.verdict(bench.take(), token=token)[0] is Verdict.LOOK_UP


# -- cancelled, and not wanted


def in_no_state(bench: Bench) -> dict[str, Any]:
    return {}


def waiting(bench: Bench) -> dict[str, Any]:
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, "waiting")
    return {"token": token}


def dead(bench: Bench) -> dict[str, Any]:
    a = bench.take()
    bench.claim(a)
    bench.bury(a, "dead")
    return {}


def sending(bench: Bench) -> dict[str, Any]:
    bench.claim(bench.take())
    return {}


def sent(bench: Bench) -> dict[str, Any]:
    a = bench.take()
    bench.claim(a)
    bench.settle(a)
    return {}


@pytest.mark.parametrize(
    ("reach", "before", "then"),
    [
        (in_no_state, "", Verdict.CANCELLED),
        (waiting, "waiting", Verdict.CANCELLED),
        (dead, "dead", Verdict.CANCELLED),
        (sending, "sending", Verdict.DUPLICATE),
        (sent, "sent", Verdict.DUPLICATE),
    ],
)
def test_an_id_is_cancelled_unless_it_is_too_late(
    bench: Bench, reach: Callable[[Bench], dict[str, Any]], before: str, then: Verdict
):
    how = reach(bench)
    earlier = bench.events().count("cancelled")
    assert bench.claims.cancel(ID) == before
    assert bench.claims.cancel(ID) in (before, "cancelled")
    assert bench.events().count("cancelled") - earlier == (then is Verdict.CANCELLED)
    assert bench.claim(bench.take(), **how).verdict is then


def test_an_id_cancelled_while_in_doubt_is_not_resent(bench: Bench):
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, "unknown")
    assert bench.claims.cancel(ID) == "unknown"
    b = bench.take()
    assert bench.claim(b, token=token).verdict is Verdict.LOOK_UP
    assert bench.claims.resend(MessageRef(NORMAL, b), Event(Name.RESENDING, ID), **WHOM) is Resend.CANCELLED


@pytest.mark.parametrize(("confirmation", "verdict"), [("", Verdict.OPTED_OUT), (ID, Verdict.GO)])
def test_an_opted_out_person_gets_the_confirmation_and_nothing_more(bench: Bench, confirmation: str, verdict: Verdict):
    entry = json.dumps({"at": 1, "source": "cli", "phone": "x", "confirmation": confirmation})
    bench.queue.client.hset(optout_key("t1"), "p1", entry)
    assert bench.verdict(bench.take()) == (verdict, "")


@pytest.mark.parametrize(("confirmation", "answer"), [("", Resend.OPTED_OUT), (ID, Resend.GO)])
def test_a_message_in_doubt_is_not_resent_after_an_opt_out(bench: Bench, confirmation: str, answer: Resend):
    a = bench.take()
    token = bench.claim(a).token
    bench.postpone(a, "unknown")
    b = bench.take()
    assert bench.claim(b, token=token).verdict is Verdict.LOOK_UP
    entry = json.dumps({"at": 1, "source": "cli", "phone": "x", "confirmation": confirmation})
    bench.queue.client.hset(optout_key("t1"), "p1", entry)
    assert bench.claims.resend(MessageRef(NORMAL, b), Event(Name.RESENDING, ID), **WHOM) is answer


# -- what follows it once it was sent

CODES = [("n1#pix", b"pix"), ("n1#boleto", b"boleto")]


def test_payment_codes_follow_a_sent_message_once_and_are_served_next(bench: Bench):
    a = bench.take()
    bench.claim(a)
    bench.queue.push(b"another")
    bench.settle(a, then=CODES)
    assert bench.waiting() == [b"pix", b"boleto", b"another"]
    bench.settle(a, then=CODES)  # settled again, because the answer was lost
    assert bench.waiting() == [b"pix", b"boleto", b"another"]


@pytest.mark.parametrize("state", ["expired", "suppressed", "cancelled"])
def test_no_payment_code_follows_an_unsent_message(bench: Bench, state: str):
    a = bench.take()
    bench.claim(a)
    bench.settle(a, state, then=CODES)
    assert bench.waiting() == []


def test_no_payment_code_follows_a_message_cancelled_during_its_send(bench: Bench):
    a = bench.take()
    bench.claim(a)
    assert bench.claims.cancel(ID) == "sending"
    bench.settle(a, then=CODES)
    assert bench.waiting() == []
    assert bench.state(ID) == "sent"


def test_waiting_payment_codes_are_cancelled_with_their_message(bench: Bench):
    a = bench.take()
    bench.claim(a)
    bench.settle(a, then=CODES)
    assert bench.claims.cancel(ID) == "sent"
    assert [bench.state(id_) for id_, _ in CODES] == ["cancelled", "cancelled"]


# -- poison


def test_a_message_is_suspect_only_after_its_worker_died_and_each_start_is_counted(bench: Bench, claims: Claims):
    bench.queue.push(b"harmful")
    ((tag, _),) = bench.holder.fetch(1)
    assert claims.starts(NORMAL, "0" * 40) == 0
    for start in (1, 2, 3):
        bench.die(tag)
        _, tag, _, digest = bench.holder.answer(1)[2:]
        assert claims.starts(NORMAL, digest.decode()) == start
        tag = tag.decode()
    bench.queue.push(b"harmless")
    assert bench.holder.answer(1)[5] == b""
