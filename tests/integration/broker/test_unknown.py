"""Messages in doubt: where each is found, and the effects of a person's decision."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import redis
from holders import Holder
from processes import Queue
from waiting import hold, put_aside, register, take

from ifinu.broker import LOW, NORMAL, DeadLetters, Filter, Keys, dead_letters, intake, lanes
from ifinu.broker.claims import Claims, ClaimState, MessageRef, Resend, Verdict
from ifinu.broker.events import Event, Name
from ifinu.broker.headers import LINE, TOKEN
from ifinu.broker.keys import EVENTS, UNKNOWN, claim_key, script
from ifinu.broker.purge import purge
from ifinu.broker.unknown import Decision, Doubt, Place, Unknowns

ID = "n1"
FIELDS = {"id": ID, "tipo_notificacao": "lembrete", "instancia": "loja-1"}
RAW = json.dumps(FIELDS).encode()
LINE_OF_IT = lanes.line(None, "loja-1", "")
WAIT_MS = 60_000


class Bench:
    """One id, and the steps that bring it into doubt."""

    def __init__(self, client: redis.Redis, queue: Queue, holder: Holder) -> None:
        self.client, self.queue, self.holder = client, queue, holder
        self.claims = Claims(client, ttl_s=60)
        self.unknowns = Unknowns(client, ttl_s=60)
        self.token = ""

    def take(self, raw: bytes = RAW) -> str:
        """Push a message and fetch it as a living worker. Returns its tag."""
        self.queue.push(raw)
        return self.fetch()

    def fetch(self) -> str:
        ((tag, _),) = self.holder.fetch(1)
        return tag

    def verdict(self, tag: str, token: str = "") -> Verdict:
        answer = self.claims.claim(
            MessageRef(NORMAL, tag, token), Event(Name.UNKNOWN, ID), digest="d", tenant=None, pseudonym="p", seen="r"
        )
        self.token = self.token or answer.token
        return answer.verdict

    def look_up(self) -> bytes:
        """The look-up message, as a worker writes it; the same one for each call."""
        headers = intake.admit(RAW, queue=NORMAL, tag="t", max_bytes=10_000).headers
        message = json.loads(
            intake.successor(RAW, headers, reply_to=None, retries=0, **{TOKEN: self.token, LINE: LINE_OF_IT})
        )
        return json.dumps({**message, "since": "0"}).encode()

    def postpone(self, tag: str, state: str = "unknown") -> None:
        keys = Keys.of(NORMAL)
        script("postpone")(
            self.client, (keys.in_flight, keys.deadlines, keys.delayed, claim_key(ID), UNKNOWN),
            (tag, self.look_up(), WAIT_MS, state, ID),
        )  # fmt: skip

    def come_due(self) -> str:
        """Fetch the delayed message. Returns its tag."""
        self.client.zadd(Keys.of(NORMAL).delayed, {self.look_up(): 1})
        return self.fetch()

    def die(self, tag: str) -> None:
        self.client.zadd(Keys.of(NORMAL).deadlines, {tag: 1})
        self.holder.sweep()

    def bury(self, tag: str, raw: bytes, reason: str = "unknown", state: str = "unknown") -> None:
        record = dead_letters.encode(raw, reason=reason, error="e", now=datetime.now(UTC))
        self.holder.leases.bury(tag, record, Event(Name.HELD, ID), state=ClaimState(state))

    def doubt(self) -> Doubt:
        doubt = self.unknowns.find(ID)
        assert doubt is not None
        assert self.unknowns.all() == [doubt]
        return doubt

    def state(self) -> str | None:
        state = self.unknowns.state(ID)
        return None if state == "none" else state

    def events(self) -> list[str]:
        return [entry[b"event"].decode() for _, entry in self.client.xrange(EVENTS)]

    def letters(self) -> int:
        return self.client.llen(Keys.of(NORMAL).dead)


@pytest.fixture
def bench(client: redis.Redis, queue: Queue, holder: Holder) -> Bench:
    return Bench(client, queue, holder)


# -- the places


def delayed(bench: Bench) -> None:
    tag = bench.take()
    bench.verdict(tag)
    bench.postpone(tag)


def ready(bench: Bench) -> None:
    """The worker that sent it died, and so did the one that looked it up."""
    tag = bench.take()
    bench.verdict(tag)
    bench.die(tag)
    tag = bench.fetch()
    assert bench.verdict(tag) is Verdict.LOOK_UP
    bench.die(tag)


def lane(bench: Bench) -> None:
    """Its number is held when its look-up is due."""
    delayed(bench)
    register(bench.client, "loja-1")
    hold(bench.client, "loja-1")
    bench.client.zadd(Keys.of(NORMAL).delayed, {bench.look_up(): 1})
    put_aside(bench.client)


def in_flight(bench: Bench) -> None:
    delayed(bench)
    assert bench.verdict(bench.come_due(), bench.token) is Verdict.LOOK_UP


def held(bench: Bench) -> None:
    in_flight(bench)
    (tag,) = bench.client.hkeys(Keys.of(NORMAL).in_flight)
    bench.bury(tag.decode(), bench.look_up())


def gone(bench: Bench) -> None:
    delayed(bench)
    assert purge(bench.client, Keys.of(NORMAL), delayed=True) == (1, 1)


PLACES = {
    Place.DELAYED: delayed, Place.READY: ready, Place.LANE: lane, Place.IN_FLIGHT: in_flight, Place.HELD: held,
    Place.GONE: gone,
}  # fmt: skip


@pytest.mark.parametrize("place", Place)
def test_an_id_in_doubt_is_found_where_its_message_is(bench: Bench, place: Place):
    PLACES[place](bench)
    bench.client.lpush(LOW, *(b'{"id": "other"}' for _ in range(1200)))  # more than a page
    bench.client.lpush(NORMAL, RAW)  # a duplicate, on a queue where a look-up could be, changes nothing
    doubt = bench.doubt()
    where = (doubt.place, doubt.queue, doubt.kind, doubt.instance)
    known = (NORMAL, "lembrete", "loja-1")
    assert where == ((place, *known) if place is not Place.GONE else (place, None, None, None))
    assert (doubt.state, doubt.resent, doubt.cancelled) == ("unknown", False, False)
    assert doubt.since is not None
    assert abs(datetime.now(UTC) - doubt.since) < timedelta(minutes=1)
    assert (doubt.due is not None) == (place is Place.DELAYED)
    assert (doubt.letter is not None) == (place is Place.HELD)


@pytest.mark.parametrize("reason", ["expired", "revoked"])
def test_an_id_whose_worker_died_is_found_with_the_letter_of_a_message_that_ended_before_its_claim(
    bench: Bench, reason: str
):
    tag = bench.take()
    bench.verdict(tag)
    bench.die(tag)
    bench.bury(bench.fetch(), RAW, reason, "dead")
    doubt = bench.doubt()
    assert (doubt.place, doubt.letter and doubt.letter.reason) == (Place.HELD, reason)
    assert bench.unknowns.resolve(doubt, Decision.RESEND).done
    assert bench.verdict(bench.fetch()) is Verdict.LOOK_UP


def test_a_resent_and_a_cancelled_id_are_marked_as_such(bench: Bench):
    in_flight(bench)
    assert bench.claims.cancel(ID) == "unknown"
    assert bench.doubt().cancelled
    assert bench.claims.uncancel(ID) == (True, "unknown")
    (tag,) = bench.client.hkeys(Keys.of(NORMAL).in_flight)
    assert (
        bench.claims.resend(MessageRef(NORMAL, tag.decode()), Event(Name.RESENDING, ID), tenant=None, pseudonym="p")
        is Resend.GO
    )
    doubt = bench.doubt()
    assert (doubt.state, doubt.resent, doubt.place) == ("sending", True, Place.IN_FLIGHT)
    assert bench.unknowns.resolve(doubt, Decision.DISCARD) == (False, "sending")


@pytest.mark.parametrize(("reason", "place"), [("error", Place.HELD), ("id_reused", Place.DELAYED)])
def test_the_letter_of_another_message_with_the_same_id_is_not_its_own(bench: Bench, reason: str, place: Place):
    delayed(bench)
    bench.bury(bench.take(), RAW, reason, "dead")
    assert bench.doubt().place is place


def test_a_message_that_killed_its_workers_is_held_though_another_owned_its_claim(bench: Bench):
    ready(bench)
    bench.bury(bench.fetch(), RAW, "poison", "dead")
    assert bench.doubt().place is Place.HELD


def test_without_claims_no_id_is_in_doubt(bench: Bench):
    bench.verdict(bench.take())
    assert bench.unknowns.all() == []
    assert bench.unknowns.find(ID) is None
    assert bench.unknowns.find("missing") is None


# -- resolving


def follow(bench: Bench) -> Verdict | None:
    """The verdict for its message when it comes; None if no message is left."""
    if bench.client.zcard(Keys.of(NORMAL).delayed):
        return bench.verdict(bench.come_due(), bench.token)
    if bench.client.llen(NORMAL):
        return bench.verdict(bench.fetch())
    if lanes.release(bench.client, "loja-1"):
        ((tag, _),) = take(bench.client)
        return bench.verdict(tag, bench.token)
    return None


@pytest.mark.parametrize(
    ("place", "decision", "state", "event", "then"),
    [
        (Place.HELD, Decision.SENT, "sent", "sent", None),
        (Place.HELD, Decision.DISCARD, "cancelled", "cancelled", None),
        (Place.HELD, Decision.RESEND, None, "replayed", Verdict.GO),
        (Place.DELAYED, Decision.SENT, "sent", "sent", Verdict.DUPLICATE),
        (Place.DELAYED, Decision.DISCARD, "cancelled", "cancelled", Verdict.CANCELLED),
        (Place.DELAYED, Decision.RESEND, "waiting", "retrying", Verdict.GO),
        (Place.READY, Decision.SENT, "sent", "sent", Verdict.DUPLICATE),
        (Place.READY, Decision.DISCARD, "cancelled", "cancelled", Verdict.CANCELLED),
        (Place.READY, Decision.RESEND, None, "replayed", Verdict.GO),
        (Place.LANE, Decision.SENT, "sent", "sent", Verdict.DUPLICATE),
        (Place.LANE, Decision.DISCARD, "cancelled", "cancelled", Verdict.CANCELLED),
        (Place.LANE, Decision.RESEND, "waiting", "retrying", Verdict.GO),
        (Place.IN_FLIGHT, Decision.SENT, "sent", "sent", None),
        (Place.IN_FLIGHT, Decision.DISCARD, "cancelled", "cancelled", None),
        (Place.GONE, Decision.SENT, "sent", "sent", None),
        (Place.GONE, Decision.DISCARD, "cancelled", "cancelled", None),
        (Place.GONE, Decision.RESEND, None, "replayed", None),
    ],
)
def test_a_persons_decision_ends_the_doubt_once(
    bench: Bench, place: Place, decision: Decision, state: str | None, event: str, then: Verdict | None
):
    PLACES[place](bench)
    doubt = bench.doubt()
    assert bench.unknowns.resolve(doubt, decision) == (True, "")
    assert (bench.state(), bench.events()[-1]) == (state, event)
    assert (bench.unknowns.all(), bench.letters()) == ([], 0)
    before = len(bench.events())
    assert bench.unknowns.resolve(doubt, decision) == (False, state or "none")
    assert len(bench.events()) == before
    assert follow(bench) is then
    assert bench.client.ttl(claim_key(ID)) <= 60


def test_the_gateways_message_id_is_kept_and_reported(bench: Bench):
    held(bench)
    bench.unknowns.resolve(bench.doubt(), Decision.SENT, key_id="3EB0AA")
    assert bench.client.hget(claim_key(ID), "key_id") == b"3EB0AA"
    ((_, entry),) = bench.client.xrevrange(EVENTS, count=1)
    assert json.loads(entry[b"data"]) == {
        "kind": "lembrete", "queue": NORMAL, "instance": "loja-1", "by": "person", "key_id": "3EB0AA",
    }  # fmt: skip


@pytest.mark.parametrize("decision", [Decision.SENT, Decision.DISCARD])
def test_a_look_up_under_way_cannot_restore_the_doubt(bench: Bench, decision: Decision):
    in_flight(bench)
    (tag,) = bench.client.hkeys(Keys.of(NORMAL).in_flight)
    bench.unknowns.resolve(bench.doubt(), decision)
    assert (
        bench.claims.resend(MessageRef(NORMAL, tag.decode()), Event(Name.RESENDING, ID), tenant=None, pseudonym="p")
        is Resend.LOST
    )
    bench.postpone(tag.decode())
    assert bench.unknowns.all() == []
    assert bench.verdict(bench.come_due(), bench.token) is not Verdict.LOOK_UP


def test_a_message_being_looked_up_is_not_resent_at_the_same_time(bench: Bench):
    delayed(bench)
    before = bench.doubt()
    tag = bench.come_due()
    assert bench.verdict(tag, bench.token) is Verdict.LOOK_UP
    for doubt in (before, bench.doubt()):
        assert bench.unknowns.resolve(doubt, Decision.RESEND) == (False, "looked_up")
    assert bench.state() == "unknown"


def test_a_message_is_resent_though_the_worker_of_its_look_up_died(bench: Bench):
    in_flight(bench)
    (tag,) = bench.client.hkeys(Keys.of(NORMAL).in_flight)
    bench.die(tag.decode())
    doubt = bench.doubt()
    assert doubt.place is Place.READY
    assert bench.unknowns.resolve(doubt, Decision.RESEND).done
    assert bench.state() == "waiting"
    assert bench.verdict(bench.fetch(), bench.token) is Verdict.GO


def test_a_message_resent_by_a_person_is_not_resent_automatically(bench: Bench):
    delayed(bench)
    bench.unknowns.resolve(bench.doubt(), Decision.RESEND)
    tag = bench.come_due()
    assert bench.verdict(tag, bench.token) is Verdict.GO
    bench.postpone(tag)
    tag = bench.come_due()
    assert bench.verdict(tag, bench.token) is Verdict.LOOK_UP
    assert (
        bench.claims.resend(MessageRef(NORMAL, tag), Event(Name.RESENDING, ID), tenant=None, pseudonym="p")
        is Resend.AGAIN
    )


@pytest.mark.parametrize("place", [Place.HELD, Place.DELAYED, Place.GONE])
def test_a_cancelled_message_is_not_resent_until_the_cancellation_is_withdrawn(bench: Bench, place: Place):
    PLACES[place](bench)
    bench.claims.cancel(ID)
    assert bench.unknowns.resolve(bench.doubt(), Decision.RESEND) == (False, "cancelled")
    assert bench.doubt().place is place
    bench.claims.uncancel(ID)
    assert bench.unknowns.resolve(bench.doubt(), Decision.RESEND) == (True, "")


@pytest.mark.parametrize("place", [Place.HELD, Place.DELAYED, Place.GONE])
@pytest.mark.parametrize(("decision", "state"), [(Decision.SENT, "sent"), (Decision.DISCARD, "cancelled")])
def test_an_id_in_doubt_outlives_its_claim(bench: Bench, place: Place, decision: Decision, state: str):
    PLACES[place](bench)
    bench.client.delete(claim_key(ID))
    doubt = bench.doubt()
    assert (doubt.place, doubt.state) == (place, "")
    assert bench.unknowns.resolve(doubt, decision).done
    assert bench.state() == state
    assert 0 < bench.client.ttl(claim_key(ID)) <= 60
    assert bench.unknowns.all() == []


def test_a_dead_letter_that_was_purged_leaves_an_id_that_can_be_resolved(bench: Bench):
    held(bench)
    letters = DeadLetters(bench.client, NORMAL)
    assert letters.clear(Filter(), datetime.now(UTC), letters.purge) == 1
    assert bench.unknowns.all() == []
    doubt = bench.unknowns.find(ID)
    assert doubt is not None
    assert doubt.place is Place.GONE
    assert bench.unknowns.resolve(doubt, Decision.SENT).done
    assert bench.state() == "sent"


def test_only_one_of_two_decisions_takes_effect(bench: Bench):
    held(bench)
    doubt = bench.doubt()
    assert bench.unknowns.resolve(doubt, Decision.RESEND).done
    assert bench.unknowns.resolve(doubt, Decision.SENT) == (False, "none")
    assert bench.client.llen(NORMAL) == 1


# -- cancelling, and withdrawing a cancellation


def untried(bench: Bench) -> None:
    pass


def consumed(bench: Bench) -> None:
    """The id was cancelled before its message came."""
    bench.claims.cancel(ID)
    tag = bench.take()
    assert bench.verdict(tag) is Verdict.CANCELLED
    settle(bench, tag, "cancelled")


def waiting(bench: Bench) -> None:
    tag = bench.take()
    bench.verdict(tag)
    bench.postpone(tag, "waiting")


def thrown_away(bench: Bench) -> None:
    """A try had failed; its retry came after the cancellation."""
    waiting(bench)
    bench.claims.cancel(ID)
    tag = bench.come_due()
    assert bench.verdict(tag, bench.token) is Verdict.CANCELLED
    settle(bench, tag, "cancelled")


def dead(bench: Bench) -> None:
    tag = bench.take()
    bench.verdict(tag)
    bench.bury(tag, RAW, "timeout", "dead")


def sending(bench: Bench) -> None:
    bench.verdict(bench.take())


def sent(bench: Bench) -> None:
    tag = bench.take()
    bench.verdict(tag)
    settle(bench, tag, "sent")


def settle(bench: Bench, tag: str, state: str) -> None:
    script("settle")(
        bench.client,
        (*Keys.of(NORMAL)[2:4], claim_key(ID), UNKNOWN, EVENTS, NORMAL),
        (tag, state, "", 60_000, ID, state, "{}"),
    )


@pytest.mark.parametrize(
    ("reach", "withdrawn", "then"),
    [
        (untried, (True, "cancelled"), Verdict.GO),
        (consumed, (True, "cancelled"), Verdict.GO),
        (waiting, (True, "waiting"), Verdict.GO),
        (dead, (True, "dead"), Verdict.GO),
        (thrown_away, (False, "cancelled"), Verdict.CANCELLED),
        (sending, (False, "sending"), Verdict.DUPLICATE),
        (sent, (False, "sent"), Verdict.DUPLICATE),
    ],
)
def test_a_cancellation_is_withdrawn_unless_it_took_effect(
    bench: Bench, reach: Callable[[Bench], None], withdrawn: tuple[bool, str], then: Verdict
):
    reach(bench)
    bench.claims.cancel(ID)
    before = bench.events()
    assert bench.claims.uncancel(ID) == withdrawn
    assert bench.events() == before + ["uncancelled"] * withdrawn[0]
    assert bench.claims.uncancel(ID).done is False
    assert bench.verdict(bench.take(), bench.token) is then


@pytest.mark.parametrize("reach", [untried, waiting, dead])
def test_without_a_cancellation_nothing_is_withdrawn(bench: Bench, reach: Callable[[Bench], None]):
    reach(bench)
    assert bench.claims.uncancel(ID) == (False, bench.state() or "")
    assert "uncancelled" not in bench.events()


# -- purging


def retried_twice(bench: Bench) -> None:
    waiting(bench)
    tag = bench.come_due()
    assert bench.verdict(tag, bench.token) is Verdict.GO
    bench.postpone(tag, "waiting")


def sent_again_and_waiting(bench: Bench) -> None:
    """The resend certainly failed; the outcome of the first send is unknown."""
    in_flight(bench)
    (tag,) = bench.client.hkeys(Keys.of(NORMAL).in_flight)
    ref = MessageRef(NORMAL, tag.decode(), bench.token)
    assert bench.claims.resend(ref, Event(Name.RESENDING, ID), tenant=None, pseudonym="p") is Resend.GO
    bench.postpone(tag.decode(), "waiting")


def orphaned(bench: Bench) -> None:
    """Its worker died during the send."""
    tag = bench.take()
    bench.verdict(tag)
    bench.die(tag)


def second_of_sent(bench: Bench) -> None:
    sent(bench)
    bench.queue.push(RAW)


def second_of_waiting(bench: Bench) -> None:
    waiting(bench)
    bench.client.rename(Keys.of(NORMAL).delayed, "elsewhere")
    bench.queue.push(RAW)


def second_of_sending(bench: Bench) -> None:
    sending(bench)
    bench.queue.push(RAW)


def second_of_dead(bench: Bench) -> None:
    dead(bench)
    bench.queue.push(RAW)


def put_off_after_death(bench: Bench) -> None:
    """Another message with the id of a dead letter waits for its window, and has no claim."""
    dead(bench)
    payload = json.loads(bench.look_up())
    payload["headers"][TOKEN] = "another"
    bench.client.zadd(Keys.of(NORMAL).delayed, {json.dumps(payload): 1})


def called_off(bench: Bench) -> None:
    waiting(bench)
    bench.claims.cancel(ID)


def replayed_though_called_off(bench: Bench) -> None:
    dead(bench)
    bench.claims.cancel(ID)
    letters = DeadLetters(bench.client, NORMAL)
    assert letters.clear(Filter(), datetime.now(UTC), letters.replay) == 1


@pytest.mark.parametrize(
    ("reach", "events", "state", "in_doubt"),
    [
        (lambda bench: bench.queue.push(RAW), ["unqueued"], None, 0),
        (lambda bench: bench.queue.push(*[RAW] * 75), ["unqueued", "unqueued"], None, 0),  # one of each page
        (waiting, ["unqueued"], None, 0),
        (retried_twice, ["unqueued"], None, 0),
        (delayed, ["unknown"], "unknown", 1),
        (ready, ["unknown"], "unknown", 1),
        (orphaned, ["unknown"], "unknown", 1),
        (sent_again_and_waiting, ["unknown"], "unknown", 1),
        (second_of_sent, [], "sent", 0),
        (second_of_waiting, [], "waiting", 0),
        (second_of_sending, [], "sending", 0),
        (second_of_dead, [], "dead", 0),
        (put_off_after_death, ["unqueued"], "dead", 0),
        (called_off, ["cancelled"], "cancelled", 0),
        (replayed_though_called_off, ["cancelled"], "dead", 0),
    ],
)
def test_a_purge_ends_waiting_ids_and_leaves_those_in_doubt(
    bench: Bench, reach: Callable[[Bench], None], events: list[str], state: str | None, in_doubt: int
):
    reach(bench)
    before = bench.events()
    there = bench.client.llen(NORMAL) + bench.client.zcard(Keys.of(NORMAL).delayed)
    assert purge(bench.client, Keys.of(NORMAL), delayed=True) == (there, in_doubt)
    assert bench.events()[len(before) :] == events
    assert bench.state() == state
    assert bench.client.zrange(UNKNOWN, 0, -1) == [ID.encode()] * in_doubt
    assert (bench.client.pttl(claim_key(ID)) == -1) is (state == "unknown")  # no expiry until a person has decided
    assert bench.client.keys("*purga*") == []


def test_a_message_of_a_dead_id_that_is_purged_leaves_it_dead_in_the_ledger(bench: Bench):
    put_off_after_death(bench)
    purge(bench.client, Keys.of(NORMAL), delayed=True)
    ((_, entry),) = bench.client.xrevrange(EVENTS, count=1)
    data = json.loads(entry[b"data"])
    assert data == {"kind": "lembrete", "queue": NORMAL, "reason": "purged", "first": "dead"}


def test_an_unreadable_message_is_purged_without_an_event(bench: Bench):
    bench.queue.push(b"\xff\xfe", b"{", b"[]", b"", RAW, b'{"id": "\\ud800"}', b'{"id": 1.5}')
    bench.client.zadd(Keys.of(NORMAL).delayed, {b"\x00": 1})
    assert purge(bench.client, Keys.of(NORMAL), delayed=True) == (8, 0)
    assert [entry[b"id"] for _, entry in bench.client.xrange(EVENTS)] == [ID.encode()]


def test_a_purge_deletes_the_messages_that_a_dead_purge_had_set_aside(bench: Bench):
    waiting(bench)
    bench.queue.push(*[json.dumps({"id": f"m{n}"}).encode() for n in range(250)])
    keys = Keys.of(NORMAL)
    for key in (keys.ready, keys.delayed):
        bench.client.rename(key, f"{key}:purga")
    bench.queue.push(b"{}")
    assert purge(bench.client, keys, delayed=True) == (252, 0)
    assert (bench.state(), bench.client.keys("*fila*")) == (None, [])


def test_a_purge_and_workers_share_the_messages_and_each_has_one_end(bench: Bench):
    """
    A second purge runs at the same time too.
    """
    bench.queue.push(*[json.dumps({"id": f"m{n}"}).encode() for n in range(2_000)])
    keys = Keys.of(NORMAL)
    with ThreadPoolExecutor(2) as pool:
        purges = [pool.submit(purge, bench.client, keys, delayed=True) for _ in range(2)]
        taken = [raw for _ in range(50) for _, raw in bench.holder.fetch(5)]
        deleted = sum(each.result().deleted for each in purges)
    assert deleted + len(taken) + bench.client.llen(NORMAL) == 2_000
    assert deleted > 0
    gone = [entry[b"id"].decode() for _, entry in bench.client.xrange(EVENTS)]
    assert len(gone) == len(set(gone)) == deleted
    assert not set(gone) & {json.loads(raw)["id"] for raw in taken}


def test_a_purge_keeps_cancellations(bench: Bench):
    called_off(bench)
    purge(bench.client, Keys.of(NORMAL), delayed=True)
    assert bench.verdict(bench.take()) is Verdict.CANCELLED
