"""Redis and its model side by side: each step is done to both, and both must agree."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from itertools import count
from typing import Any

import redis
from holders import KEYS, Holder
from promises import FREE, JUNK, Life, Sends, Task

from ifinu.broker import NORMAL
from ifinu.broker.claims import Claims, ClaimState, MessageRef, Resend, Verdict
from ifinu.broker.dead_letters import DeadLetter, DeadLetters, encode
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, UNKNOWN, claim_key, optout_key, script
from ifinu.broker.leases import Settled

IDS = ("a", "b", "c")
TENANT = "t1"
TTL_S = 3_600.0  # no claim and no lease expires during a test
TIMEOUT_S = 60.0  # a machine may stall, and a repeated command would arrive out of the model's order
PASSED = 1  # the score of a deadline or due time in the past
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def agree(seen: object, expected: object) -> None:
    """Assert that Redis equals the model, with both values: pytest shows the values of asserts only in test files."""
    assert seen == expected, f"\n  seen:     {seen}\n  expected: {expected}"


class Modelled:
    """
    A model of one queue, two workers and three ids.

    Attributes:
        ready, delayed, flight, dead: The expected messages of each place; `delayed` maps each to whether it is due.
        expired: The tags with an expired lease that no sweep has found yet.
        tasks: The messages that the workers believe they hold.
        settled: The outcomes that workers have settled.
        events: The events that this step must write.
    """

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.client.flushall()
        self.workers = [Holder(url, TTL_S, TIMEOUT_S) for _ in range(2)]
        for number, worker in enumerate(self.workers):
            worker.leases._id = f"w{number}."  # sweeps go by the order of tags, which must be the same in each run
        self.claims = Claims(self.client, TTL_S)
        self.letters = DeadLetters(self.client, NORMAL)
        self.numbers = count()
        self.ready: Counter[bytes] = Counter()
        self.delayed: dict[bytes, bool] = {}
        self.flight: dict[str, bytes] = {}
        self.expired: set[str] = set()
        self.dead: dict[bytes, bytes] = {}  # record -> message
        self.tasks: dict[str, Task] = {}
        self.settled: list[tuple[Task, str]] = []
        self.lives = {name: Life() for name in IDS}
        self.opted_out: set[str] = set()
        self.events: list[tuple[str, str]] = []
        self.read = "-"

    def close(self) -> None:
        for worker in self.workers:
            worker.die()
        self.claims._runner.close()
        self.client.close()

    # -- moves of the queue

    def push(self, raw: bytes) -> None:
        self.client.lpush(KEYS.ready, raw)
        self.ready[raw] += 1

    def fetch(self, worker: int, want: int) -> None:
        self._move_due()
        taken = self.workers[worker].fetch(want)
        assert len(taken) == min(want, self.ready.total())
        for tag, raw in taken:
            assert self.ready[raw] > 0
            assert tag not in self.flight
            self.ready[raw] -= 1
            self.flight[tag] = raw
            self.tasks[tag] = Task(tag, raw, worker)

    def renew(self, worker: int) -> None:
        leases = self.workers[worker].leases
        self.expired -= leases._held.keys()
        leases._renew()
        assert leases._held.keys() <= self.flight.keys()

    def lose(self, worker: int, *, dies: bool) -> None:
        """Expire the worker's leases. If it only stalled, it later acts on its messages as if it held them."""
        mine = [tag for tag, task in self.tasks.items() if task.worker == worker]
        lost = [tag for tag in mine if tag in self.flight]
        if lost:
            self.client.zadd(KEYS.deadlines, dict.fromkeys(lost, PASSED), xx=True)
        self.expired.update(lost)
        if dies:
            self.workers[worker].leases._held.clear()
            for tag in mine:
                del self.tasks[tag]

    def sweep(self) -> None:
        self._move_due()
        self.workers[0].sweep()
        for tag in self.expired:
            self.ready[self.flight.pop(tag)] += 1
        self.expired.clear()

    def make_due(self, raw: bytes) -> None:
        self.client.zadd(KEYS.delayed, {raw: PASSED}, xx=True)
        self.delayed[raw] = True

    def _move_due(self) -> None:
        self.ready.update(raw for raw, due in self.delayed.items() if due)
        self.delayed = {raw: due for raw, due in self.delayed.items() if not due}

    # -- what a worker does with a message

    def claim(self, task: Task) -> None:
        life = self.lives[task.id]
        before, expected = life.state, life.verdict(task, self.flight, task.id in self.opted_out)
        for _ in range(2):  # the first answer may be lost
            asked = self._ask(task)
            agree(asked.verdict, expected)
        task.phase, task.shown = expected.value, asked.token
        if expected is Verdict.GO and life.tag != task.tag:
            life.sends.begin(task.tag)
            resent = life.resent and before == "waiting"
            token = life.token if before == "waiting" else task.tag
            self.lives[task.id] = Life("sending", task.tag, token, task.content, resent=resent, sends=life.sends)
        elif expected is Verdict.LOOK_UP:
            if before == "sending":
                self._expect(Name.UNKNOWN, task)
            life.state, life.tag, life.letter = "unknown", task.tag, b""

    def _ask(self, task: Task) -> Any:
        return self.claims.claim(
            MessageRef(NORMAL, task.tag, task.token),
            Event(Name.UNKNOWN, task.id),
            digest=task.content,
            tenant=TENANT,
            pseudonym=task.id,
            seen=task.id,
        )

    def resend(self, task: Task) -> None:
        life = self.lives[task.id]
        if life.tag != task.tag or life.state != "unknown":
            expected = Resend.LOST
        elif life.cancelled:
            expected = Resend.CANCELLED
        elif life.resent:
            expected = Resend.AGAIN
        else:
            expected = Resend.OPTED_OUT if task.id in self.opted_out else Resend.GO
        ref, event = MessageRef(NORMAL, task.tag), Event(Name.RESENDING, task.id)
        for _ in range(1 + (expected is Resend.GO)):  # the first answer may be lost
            agree(self.claims.resend(ref, event, tenant=TENANT, pseudonym=task.id), expected)
        match expected:
            case Resend.GO:
                life.sends.begin_again(task.tag, self.flight)
                life.state, life.resent, task.phase = "sending", True, "go"
                self._expect(Name.RESENDING, task)
            case Resend.AGAIN:
                self.bury(task, "unknown")
            case Resend.CANCELLED:
                self.settle(task, "cancelled")
            case Resend.OPTED_OUT:
                self.settle(task, "suppressed")
            case Resend.LOST:
                self.acknowledge(task)

    # -- how a message ends

    def settle(self, task: Task, state: str) -> None:
        """A `sent` counts from any worker; any other outcome counts only from the one that holds the message."""
        outcome = Settled(ClaimState(state), Event(Name(state), task.id), "3EB0")
        self.workers[task.worker].leases.settle(task.tag, outcome, queue=NORMAL, ttl_s=TTL_S)
        self.settled.append((task, state))
        life, held = self.lives[task.id], self._leaves(task)
        anothers = life.state in ("sending", "unknown") and life.tag != task.tag
        if state != "sent" and (not held or anothers or life.state == "sent"):
            return
        if life.state != state:
            self._expect(Name(state), task)
        life.state, life.tag, life.sends.over = state, "", True

    def acknowledge(self, task: Task) -> None:
        self.workers[task.worker].leases.ack(task.tag, Event(Name.DUPLICATE, task.id))
        if self._leaves(task):
            self._expect(Name.DUPLICATE, task)

    def postpone(self, task: Task, state: str, name: Name | None, *, token: str) -> None:
        """The event is written if the worker's message owns the claim, or no message does."""
        body = {"n": next(self.numbers), "id": task.id, "content": task.content, "token": token}
        raw, due_ms = json.dumps(body).encode(), 3_600_000
        keys = (KEYS.in_flight, KEYS.deadlines, KEYS.delayed, claim_key(task.id), UNKNOWN, *([EVENTS] if name else []))
        arguments = (task.tag, raw, due_ms, state, task.id, *([name.value, "{}"] if name else []))
        for _ in range(2):  # the first answer may be lost
            script("postpone")(self.client, keys, arguments)
        if not self._leaves(task):
            return
        self.delayed[raw] = False
        life = self.lives[task.id]
        mine = life.tag == task.tag
        if name and (mine or life.state in FREE):
            self._expect(name, task)
        if mine:
            life.state, life.tag = state, ""
            if state == "waiting":
                life.sends.did_not_happen(task.tag)
            else:
                life.purged = False

    def bury(self, task: Task, state: str) -> None:
        """A message that was resent may have been sent the first time, so its doubt outlasts a second failure."""
        record = encode(task.raw, reason="test", error=f"{next(self.numbers)}", now=NOW).encode()
        name = Name.HELD if state == "unknown" else Name.DEAD
        self.workers[task.worker].leases.bury(task.tag, record, Event(name, task.id), state=ClaimState(state))
        if not self._leaves(task):
            return
        self.dead[record] = task.raw
        life = self.lives.get(task.id, Life())
        if life.tag != task.tag and life.state == "sending" and life.tag not in self.flight:
            life.state, life.purged = "unknown", False
            self._expect(Name.HELD, task)
        elif life.tag != task.tag:
            self._expect(Name.DEAD if life.state in FREE else Name.DUPLICATE, task)
        elif state == "unknown" or life.resent:
            life.state, life.tag, life.letter, life.purged = "unknown", "", record, False
            self._expect(Name.HELD, task)
        else:
            life.state, life.tag, life.sends = "dead", "", Sends()
            self._expect(Name.DEAD, task)

    def give_back(self, task: Task) -> None:
        self.workers[task.worker].leases.give_back([task.tag])
        if self._leaves(task):
            self.ready[task.raw] += 1

    def release(self, task: Task) -> None:
        """Undo the claim: its send certainly did not take place."""
        self.claims.release(task.id, task.tag)
        life = self.lives[task.id]
        if life.tag != task.tag:
            return
        life.sends.did_not_happen(task.tag, undone=life.resent)
        if life.resent:
            life.state, life.resent = "unknown", False
        else:
            self.lives[task.id] = Life(sends=life.sends)

    def _leaves(self, task: Task) -> bool:
        """Remove the message from the worker. Returns whether it was still in flight."""
        self.tasks.pop(task.tag, None)
        self.expired.discard(task.tag)
        return self.flight.pop(task.tag, None) is not None

    # -- what people do

    def cancel(self, name: str) -> None:
        life = self.lives[name]
        agree(self.claims.cancel(name), life.state)
        if life.state in ("", "waiting", "dead", "unknown") and not life.cancelled:
            life.cancelled = True
            if life.state != "unknown":
                self.events.append((Name.CANCELLED, name))
            life.state = life.state or "cancelled"

    def opt_out_or_in(self, name: str) -> None:
        if name in self.opted_out:
            self.client.hdel(optout_key(TENANT), name)
        else:
            self.client.hset(optout_key(TENANT), name, '{"confirmation": ""}')
        self.opted_out ^= {name}

    def decide(self, letter: DeadLetter, *, replays: bool) -> None:
        """Replay or purge a letter. This affects only the letter's own claim; a second call does nothing."""
        assert letter.raw == self.dead.pop(letter.record)
        act = self.letters.replay if replays else self.letters.purge
        assert [act(letter), act(letter)] == [True, False]
        if replays:
            self.ready[letter.raw] += 1
        if letter.id is None:
            return
        life = self.lives[letter.id]
        its_own = life.state == "unknown" and life.letter == letter.record
        if not replays:
            life.purged |= its_own
            self.events.append((Name.PURGED, letter.id))
        elif its_own or life.state in FREE:
            if life.cancelled:  # a replay does not undo a cancellation
                life.state = "dead"
            else:
                self.lives[letter.id] = Life()
            self.events.append((Name.REPLAYED, letter.id))

    # -- what is true after each step

    def check(self) -> None:
        with self.client.pipeline() as pipe:  # one trip, since there are thousands of steps
            pipe.lrange(KEYS.ready, 0, -1).zrange(KEYS.delayed, 0, -1, withscores=True).hgetall(KEYS.in_flight)
            pipe.zrange(KEYS.deadlines, 0, -1, withscores=True).lrange(KEYS.dead, 0, -1)
            pipe.zrange(UNKNOWN, 0, -1).xrange(EVENTS, min=self.read)
            for name in IDS:
                pipe.hgetall(claim_key(name))
            *messages, unknown, events = (seen := pipe.execute())[: -len(IDS)]
        self.every_message_is_in_one_place_with_its_bytes(*messages)
        self.every_claim_has_the_state_of_its_id(dict(zip(IDS, seen[-len(IDS) :], strict=True)))
        self.every_id_in_doubt_is_listed(unknown)
        self.each_event_was_written_once_and_no_other(events)
        self.every_waiting_id_has_a_message()

    def every_message_is_in_one_place_with_its_bytes(
        self, ready: Any, delayed: Any, flight: Any, deadlines: Any, dead: Any
    ) -> None:
        agree(Counter(ready), +self.ready)
        agree({raw: score == PASSED for raw, score in delayed}, self.delayed)
        agree(flight, {tag.encode(): raw for tag, raw in self.flight.items()})
        agree({tag.decode(): score == PASSED for tag, score in deadlines}, {t: t in self.expired for t in self.flight})
        agree(sorted(dead), sorted(self.dead))

    def every_claim_has_the_state_of_its_id(self, claims: dict[str, Any]) -> None:
        for name, life in self.lives.items():
            kept = claims[name]
            said = {field: kept.get(field.encode(), b"").decode() for field in ("state", "tag", "token")}
            flags = {field: field.encode() in kept for field in ("cancelled", "resent")}
            if life.state not in ("sending", "waiting", "unknown"):
                flags["resent"] = life.resent
            agree({**said, **flags}, life.fields())

    def every_id_in_doubt_is_listed(self, unknown: Any) -> None:
        listed = {name.decode() for name in unknown}
        agree(listed, {name for name, life in self.lives.items() if life.in_doubt()})

    def each_event_was_written_once_and_no_other(self, entries: Any) -> None:
        if entries:
            self.read = f"({entries[-1][0].decode()}"
        agree([(e[b"event"].decode(), e[b"id"].decode()) for _, e in entries], self.events)
        self.events.clear()

    def every_waiting_id_has_a_message(self) -> None:
        alive = [*self.ready.elements(), *self.delayed, *self.flight.values()]
        bodies = [json.loads(raw) for raw in alive if raw != JUNK]
        for name, life in self.lives.items():
            mine = [body for body in bodies if body["id"] == name]
            awaited = any(body.get("token") == life.token for body in mine)
            if life.state == "waiting":
                assert awaited
            if life.state == "unknown" and not life.purged:
                assert awaited or life.letter in self.dead or (life.tag and mine)

    def _expect(self, name: Name, task: Task) -> None:
        self.events.append((name, task.id))
