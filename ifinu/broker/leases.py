"""
The messages that this process has in flight, and the thread that renews their leases.

Kombu ties an unacknowledged message to the channel it came through. A channel ends with its connection, while the send
that it started goes on; so here the process holds the message, whichever channel is open. A separate thread renews the
leases, since the event loop runs neither during a warm shutdown nor while it waits for a connection.

Commands that Redis cannot take while it is away (an ack, a message given back) are kept, and repeated when it is back.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import redis
import structlog

from ifinu.broker.claims import ClaimState
from ifinu.broker.clock import Difference
from ifinu.broker.connections import ScriptRunner
from ifinu.broker.events import Event
from ifinu.broker.keys import EVENTS, SENDERS_TTL_MS, UNKNOWN, Keys, Script, claim_key, number_key, script

log = structlog.get_logger(__name__)

DUPLICATE: Final = "duplicate"  # how a message ends whose id's claim is another message's
DEATHS = 3  # a message with which as many workers died in a row becomes a dead letter

# Held while a suspect message is handed over or runs: should this process die, no second message is blamed for it.
one_suspect = threading.Lock()

_SWEEP_MOST = 500
_UNPACED = ("", "")
_FREED = b"freed"


class _Held(NamedTuple):
    """
    A message of this process.

    Attributes:
        number: The number whose pace it keeps, or empty.
        in_doubt: Whether it may have been sent, which Redis does not know yet.
    """

    keys: Keys
    raw: bytes
    number: str = ""
    in_doubt: bool = False


class Settled(NamedTuple):
    """
    How a message ended.

    Attributes:
        state: The state that its id's claim ends in, or `DUPLICATE`.
        event: The event of that end, with the id.
        key_id: The gateway's id of the message, or empty.
        sender: Key of the last tenant per phone (`keys.senders_key`), the phone's pseudonym and the tenant; None if
            nothing was sent to the phone.
        took_s: Seconds that the gateway took for the send; None when it was not asked to send.
    """

    state: ClaimState | Literal["duplicate"]
    event: Event
    key_id: str = ""
    sender: tuple[str, str, str] | None = None
    took_s: float | None = None

    def __str__(self) -> str:
        """The state and the gateway's id: `sent 3EB0…`."""
        return f"{self.state} {self.key_id}".rstrip()


@dataclass(slots=True)
class Tally:
    """
    Counts for metrics, since the process started.

    Attributes:
        reaped: Messages of dead workers that this process gave back to their queues.
        lost: Messages of this process whose lease ran out.
        buried: Dead letters, by kind ("" if unreadable), state (`dead` or `unknown`) and reason.
    """

    reaped: int = 0
    lost: int = 0
    buried: Counter[tuple[str, ClaimState, str]] = field(default_factory=Counter)


class Leases:
    """
    The messages in flight of one process at one Redis server.

    Args:
        connect: Makes a client that nothing else uses; called once.
        lease_s: Seconds after which a message that its holder did not renew goes back to its queue.

    Attributes:
        managed: Whether a consumer gives back the messages that it does not start. Closing a channel then gives
            nothing back, so that messages being sent stay with this process.
        tally: Counts for metrics.
        clock: The difference between this machine's clock and Redis'.
        generation: That of the directory of numbers that this process has; empty while it has none.
        freed: Whether a message of this process has ended, and its number, for which others wait, may send again: then
            the channel fetches at once.
    """

    def __init__(self, connect: Callable[[], redis.Redis], lease_s: float) -> None:
        self.lease_s = lease_s
        self.managed = False
        self.tally = Tally()
        self.clock = Difference()
        self.generation = ""
        self.freed = False
        self._client = connect()
        self._runner = ScriptRunner(self._client)
        self._id = f"{uuid.uuid4().hex[:12]}."
        self._batches = itertools.count()
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._pending: deque[tuple[Script, Sequence[str], Sequence[Any]]] = deque()
        self._queues: set[Keys] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def lease_ms(self) -> int:
        return int(self.lease_s * 1000)

    def connect(self) -> None:
        """Connect before the first acknowledgement."""
        self._runner.open()

    def load(self) -> None:
        """Load the script that the event loop runs by its hash alone."""
        script("fetch").load(self._client)

    def watch(self, keys: Keys) -> None:
        """Sweep this queue from now on, and start the thread if it is not running."""
        with self._lock:
            self._queues = self._queues | {keys}
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._maintain, name="ifinu-leases", daemon=True)
                self._thread.start()

    def next_prefix(self) -> str:
        """A prefix for the tags of one batch, unique among all processes."""
        return f"{self._id}{next(self._batches):08x}."  # they sort in the order of their use

    def hold(self, tag: str, keys: Keys, raw: bytes, number: str = "") -> None:
        """
        Record that this process holds the message `tag` of the queue `keys`, whose bytes are `raw`.

        Args:
            number: The number whose pace it keeps, or empty.
        """
        with self._lock:
            self._held[tag] = _Held(keys, raw, number)

    def doubt(self, tag: str) -> None:
        """Note that a held message may have been sent: should it be given back, its number pauses all the same."""
        with self._lock:
            if (held := self._held.get(tag)) is not None:
                self._held[tag] = held._replace(in_doubt=True)

    def holds(self, tag: str) -> bool:
        """Whether this process holds a message: False once its lease ran out and another worker may have it."""
        return tag in self._held

    def raw(self, tag: str) -> bytes | None:
        """The bytes of a held message, as they were on the list; None if it is not held."""
        held = self._held.get(tag)
        return held and held.raw

    def queue(self, tag: str) -> str | None:
        """The queue of a held message; None if it is not held."""
        held = self._held.get(tag)
        return held and held.keys.ready

    def count(self) -> int:
        """How many messages this process holds."""
        return len(self._held)

    def pending(self) -> int:
        """How many commands wait for Redis to be back."""
        return len(self._pending)

    def ack(self, tag: str, event: Event | None = None) -> None:
        """
        Acknowledge a message. Never raises: while Redis is away the command is kept, and repeated later.

        Args:
            tag: The message.
            event: An event to write in the same step, if any.
        """
        if (held := self._let_go(tag)) is not None:
            stream: tuple[str, ...] = () if event is None else (EVENTS,)
            fields: tuple[str, ...] = ("", "", "") if event is None else event.arguments()
            self._run(script("ack"), (held.keys.in_flight, held.keys.deadlines, *stream), (tag, *fields, held.number))

    def settle(
        self,
        tag: str,
        outcome: Settled,
        *,
        queue: str,
        ttl_s: float,
        then: Sequence[tuple[str, bytes]] = (),
        number: str = "",
    ) -> None:
        """
        Acknowledge a message and record its end in its id's claim. Never raises, like `ack`.

        `sent` is recorded even if the lease ran out meanwhile: the worker that has the message now must not send it
        again. Any other end counts only while this process holds the message.

        Args:
            tag: The message.
            outcome: How it ended.
            queue: The queue it came from.
            ttl_s: Seconds for which its id is remembered.
            then: Ids and bytes of the messages that follow it once it was sent, in this order. They are put at the head
                of the queue in the same step, and only by the first call that records the id as sent.
            number: The number whose pace it keeps, or empty: it pauses even if the lease ran out meanwhile.
        """
        self._let_go(tag)
        keys = Keys.of(queue)
        name, notification_id, data = outcome.event.arguments()
        senders: tuple[str, ...] = ()
        written_to: tuple[Any, ...] = ("", "", "")
        if outcome.sender is not None:
            key, pseudonym, tenant = outcome.sender
            senders, written_to = (key,), (pseudonym, tenant, SENDERS_TTL_MS)
        self._run(
            script("settle"),
            (keys.in_flight, keys.deadlines, claim_key(notification_id), UNKNOWN, EVENTS, keys.ready, *senders),
            (
                *(tag, outcome.state, outcome.key_id, int(ttl_s * 1000), notification_id, name, data),
                *written_to,
                *(_pace(number) if number or then else ()),  # most have neither
                *itertools.chain.from_iterable(then),
            ),
        )

    def postpone(
        self,
        tag: str,
        successor: str,
        wait_s: float,
        *,
        state: ClaimState,
        notification_id: str,
        event: Event | None,
        aside: bool = False,
    ) -> None:
        """
        Put another message into the delayed set in place of one, in one step, if this process still holds that.

        Args:
            tag: The message.
            successor: The message that takes its place.
            state: The state that the id's claim waits in.
            event: An event to write in the same step, if any.
            aside: Whether its number, and not the message, is at fault: then it waits at the front of its lane, and
                `wait_s` has no effect. A message that keeps no pace waits as ever.

        Raises:
            redis.RedisError: Redis does not answer, or refuses it. It may have been done.
        """
        if (held := self._held.get(tag)) is None:
            return
        keys = held.keys
        stream: tuple[str, ...] = () if event is None else (EVENTS,)
        name, _, data = ("", "", "") if event is None else event.arguments()
        answer = self._runner.run(
            script("postpone"),
            (keys.in_flight, keys.deadlines, keys.delayed, claim_key(notification_id), UNKNOWN, *stream),
            (
                *(tag, successor, math.ceil(wait_s * 1000), state, notification_id, name, data),
                *_pace(held.number),
                "1" if aside else "",
            ),
        )
        self._note(answer)
        self._let_go(tag)

    def hold_number(self, number: str, until: datetime, reason: str, *, longest_s: float) -> None:
        """
        Hold a number, for all workers; a hold right after the last one is twice as long.

        Args:
            until: Its end, by Redis' clock, unless it is longer.
            reason: Why, in one word.
            longest_s: The longest time in seconds that it grows to.

        Raises:
            redis.RedisError: Redis does not answer. It may have been done.
        """
        arguments = number, int(until.timestamp() * 1000), reason, int(longest_s * 1000)
        self._runner.run(script("hold_number"), (number_key(number),), arguments)

    def reroute(self, tag: str, number: str) -> bool:
        """
        Move a message to the end of its tenant's lane at another number, if this process still holds it.

        Returns:
            Whether this process has the message no more; False if that number is not registered.

        Raises:
            redis.RedisError: Redis does not answer. It may have been done.
        """
        if (held := self._held.get(tag)) is None:
            return True
        places = held.keys.in_flight, held.keys.deadlines
        if self._runner.run(script("reroute"), places, (tag, held.number, number)) < 0:
            return False
        self._let_go(tag)
        return True

    def bury(self, tag: str, record: bytes | str, event: Event, *, state: ClaimState, token: str = "") -> None:
        """
        Move a message to its queue's dead letters. Never raises, like `ack`.

        Args:
            tag: The message.
            record: The dead letter; see `dead_letters.py`.
            event: The event to write, with the id. If the message holds the id's claim, that ends with it.
            state: The state that the claim ends in: `dead`, or `unknown` when it may have been sent.
            token: The token that a retry or a look-up carries; empty for a first message.
        """
        if (held := self._let_go(tag)) is not None:
            keys = held.keys
            reason = event.data.get("reason", "")
            with self._lock:  # another thread may read it
                self.tally.buried[event.data.get("kind") or "", state, reason] += 1
            name, notification_id, data = event.arguments()
            claim = (claim_key(notification_id),) if notification_id else ()
            self._run(
                script("bury"),
                (keys.in_flight, keys.deadlines, keys.dead, EVENTS, UNKNOWN, *claim),
                (tag, record, state, notification_id, name, data, token, *_pace(held.number)),
            )

    def give_back(self, tags: Iterable[str], *, suspect: bool = False) -> None:
        """
        Return messages to the head of their queues, in this order. Never raises, like `ack`.

        Args:
            tags: The messages.
            suspect: Whether their process died, maybe because of them.
        """
        by_queue: dict[Keys, list[str]] = {}
        for tag in tags:
            if (held := self._let_go(tag)) is not None:
                by_queue.setdefault(held.keys, []).extend((tag, "1" if suspect or held.in_doubt else ""))
        for keys, mine in by_queue.items():
            suspects = (keys.suspects,) if suspect else ()
            places = keys.ready, keys.in_flight, keys.deadlines, *suspects
            for some in reversed(list(_batches(mine, 1000))):  # the last one given back is served first
                self._run(script("give_back"), places, some)

    def delay(self, tag: str, until: datetime) -> bool:
        """
        Move a message to the delayed set, unchanged; False when its time has come, by Redis' clock.

        Raises:
            redis.RedisError: Redis does not answer; this process still holds the message.
        """
        held, until_ms = self._held[tag], int(until.timestamp() * 1000)
        places = held.keys.in_flight, held.keys.deadlines, held.keys.delayed
        waits = script("delay")(self._client, places, (tag, until_ms, held.number))
        if waits:
            self._let_go(tag)
        return bool(waits)

    def deaths(self, keys: Keys, suspect: str) -> int:
        """
        How many workers died with a message, while they handed it over or ran it, since it became suspect.

        Args:
            keys: Keys of its queue.
            suspect: Its digest, as `fetch.lua` returned it.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        return sum(int(count or 0) for count in self._client.hmget(keys.suspects, suspect, f"{suspect}:handed"))

    def hands_over(self, keys: Keys, suspect: str) -> int:
        """
        Count that a suspect message is handed to its consumer.

        Args:
            keys: As for `deaths`.
            suspect: As for `deaths`.

        Returns:
            How often that was done, this time included, since a worker survived it.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        return int(self._client.hincrby(keys.suspects, f"{suspect}:handed", 1))

    def handed_over(self, keys: Keys, suspect: str) -> None:
        """
        Record that this worker survived handing a suspect message over; its task counts from here (`Claims.starts`).

        Args:
            keys: As for `deaths`.
            suspect: As for `deaths`.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        self._client.hdel(keys.suspects, f"{suspect}:handed")

    def give_back_all(self, *, suspect: bool = False) -> None:
        """Return all messages of this process to their queues; `suspect` as for `give_back`."""
        with self._lock:
            tags = list(self._held)
        self.give_back(tags, suspect=suspect)

    def close(self) -> None:
        """
        Stop the thread, and repeat the pending commands if Redis answers. A message whose command is lost comes back
        when its lease ends.
        """
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * self.lease_s)
            self._thread = None
        try:
            self._repeat_pending()
        except redis.RedisError as exc:
            log.warning("ifinu.leases.unpaid", count=len(self._pending), error=type(exc).__name__)
        self._runner.close()
        self._client.close()

    def _let_go(self, tag: str) -> _Held | None:
        with self._lock:
            return self._held.pop(tag, None)

    def _run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> None:
        if not self._pending:
            try:
                self._note(self._runner.run(script, keys, args))
            except redis.RedisError:
                pass
            else:
                return
        self._pending.append((script, keys, args))

    def _note(self, answer: Any) -> None:
        if answer == _FREED:
            self.freed = True

    def _repeat_pending(self) -> None:
        """Try each command once. One that Redis refuses stays, and delays neither the others nor the leases."""
        refused = ""
        for _ in range(len(self._pending)):
            script, keys, args = self._pending[0]
            try:
                script(self._client, keys, args)
            except redis.ResponseError as exc:
                refused = f"{script.name}: {exc}"
                self._pending.rotate(-1)
            else:
                self._pending.popleft()
        if refused:
            log.error("ifinu.leases.refused", owed=len(self._pending), error=refused)

    def _maintain(self) -> None:
        """
        The thread: repeat pending commands, renew, sweep.

        A sweep takes messages from workers whose leases ran out. After an outage of Redis every lease may have run out
        while all workers live. So a process sweeps only once it has been connected for a whole lease: by then every
        living worker has renewed its leases.
        """
        tick_s = min(1.0, self.lease_s / 5)
        in_touch_since = last_tick = time.monotonic()
        renew_at = 0.0
        away = False
        while not self._stopping:
            started = time.monotonic()
            if started - last_tick > self.lease_s / 2:  # this process was suspended, and its renewals with it
                in_touch_since = started
            last_tick = started
            try:
                self._repeat_pending()
                if started >= renew_at:
                    self._renew()
                    renew_at = started + self.lease_s / 3
                self.clock.measure(self._client)
                if started - in_touch_since >= self.lease_s:
                    self._sweep()
            except redis.RedisError as exc:
                in_touch_since, renew_at = time.monotonic(), 0.0
                if not away:
                    log.warning("ifinu.leases.redis_away", error=type(exc).__name__)
                away = True
            except Exception:  # a worker whose renewals end loses the messages that it is sending
                log.exception("ifinu.leases.failed")
            else:
                if away:
                    log.info("ifinu.leases.redis_back", owed=len(self._pending))
                    away = False
                if time.monotonic() - started > self.lease_s / 3:  # it answered too late to tell it from an outage
                    in_touch_since = time.monotonic()
            self._wake.wait(tick_s)
            self._wake.clear()

    def _renew(self) -> None:
        with self._lock:
            held = list(self._held.items())
        by_queue: dict[Keys, list[str]] = {}
        for tag, one in held:
            by_queue.setdefault(one.keys, []).append(tag)
        lost = 0
        for keys, tags in by_queue.items():
            for some in _batches(tags, 1000):
                for tag in script("renew")(self._client, (keys.deadlines,), (self.lease_ms, *some)):
                    # An ack may have overtaken this renewal; then the tag is let go of already.
                    lost += self._let_go(tag.decode()) is not None
        if lost:
            self.tally.lost += lost
            log.warning("ifinu.leases.lost", count=lost)

    def _sweep(self) -> None:
        for keys in self._queues:
            reaped, _moved = script("sweep")(
                self._client,
                (keys.ready, keys.delayed, keys.in_flight, keys.deadlines, keys.suspects),
                (_SWEEP_MOST, repr(random.random())) if self.generation else (_SWEEP_MOST,),
            )
            if reaped:
                self.tally.reaped += reaped
                log.warning("ifinu.leases.reaped", count=reaped, queue=keys.ready)


def _pace(number: str) -> tuple[str, str]:
    """What a script needs to free a number: its name, and a random number that chooses its gap."""
    return (number, repr(random.random())) if number else _UNPACED


def _batches(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


_of_server: dict[tuple[Any, ...], Leases] = {}
_registry_lock = threading.Lock()


def of_server(server: tuple[Any, ...], connect: Callable[[], redis.Redis], lease_s: float) -> Leases:
    """
    The leases of this process at a server; one object for all its channels.

    Args:
        server: Identifies the server: host, port, path, database.
        connect: As for `Leases`.
        lease_s: As for `Leases`.
    """
    key = (os.getpid(), *server)  # a forked child must not use its parent's sockets, and has none of its threads
    with _registry_lock:
        if key not in _of_server:
            _of_server[key] = Leases(connect, lease_s)
        return _of_server[key]


def release(leases: Leases) -> None:
    """Forget closed leases, so that the next consumer of this process makes new ones."""
    with _registry_lock:
        for key, value in list(_of_server.items()):
            if value is leases:
                del _of_server[key]
