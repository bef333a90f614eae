"""
What this process holds in flight, and the thread that keeps it.

Kombu ties an unacknowledged message to the channel it came through. A channel dies with its connection, while the send
that it started goes on; so here the process holds the message, whichever channel is open. A thread of its own renews
the leases, since the event loop neither runs during a warm shutdown nor while it waits for a connection.

What cannot be told to Redis while it is away (an ack, a message given back) is owed, and paid when it answers again.
"""

from __future__ import annotations

import itertools
import os
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
from ifinu.broker.keys import EVENTS, UNKNOWN, Keys, Script, claim_key, script

log = structlog.get_logger(__name__)

DUPLICATE: Final = "duplicate"  # how a message ends whose id's claim is another message's
DEATHS = 3  # of workers in a row, while they had a message, that make it a dead letter

# Held while a message is handed over or runs of which a worker died since it is suspect: should this process die, no
# second one is counted with it.
one_suspect = threading.Lock()

_SWEEP_MOST = 500
_SENDERS_TTL_MS = 62 * 86_400_000


class Settled(NamedTuple):
    """
    How a message ended.

    Attributes:
        state: What its id's claim ends in, or `DUPLICATE`.
        event: Says so, and names the id.
        key_id: The gateway's id of the message, or empty.
        sender: Where it stands which tenant wrote to the phone last (`keys.senders_key`), the phone's pseudonym and the
            tenant; None where nobody was written to.
        took_s: How long the gateway took for it, in seconds; None when it was not asked to send.
    """

    state: ClaimState | Literal["duplicate"]
    event: Event
    key_id: str = ""
    sender: tuple[str, str, str] | None = None
    took_s: float | None = None


@dataclass(slots=True)
class Tally:
    """
    What leases have seen so far; for metrics.

    Attributes:
        reaped: Messages that this process found held by a dead worker, and gave back to their queues.
        lost: Messages that it held itself, and whose lease ran out.
        buried: Dead letters, by kind ("" where none could be read), state (`dead` or `unknown`) and reason.
    """

    reaped: int = 0
    lost: int = 0
    buried: Counter[tuple[str, ClaimState, str]] = field(default_factory=Counter)


class Leases:
    """
    The messages in flight of one process at one Redis server.

    Args:
        connect: Makes a client with connections of its own; called once.
        lease_s: How long the server lets a message be held without news of its holder, in seconds.

    Attributes:
        managed: True once a consumer has taken over the duty to give back what it does not start. Closing a channel
            then gives nothing back by itself, so that what is being sent stays with this process.
        tally: What they have seen.
        clock: How far this machine's clock is from Redis'.
    """

    def __init__(self, connect: Callable[[], redis.Redis], lease_s: float) -> None:
        self.lease_s = lease_s
        self.managed = False
        self.tally = Tally()
        self.clock = Difference()
        self._client = connect()
        self._runner = ScriptRunner(self._client)
        self._id = f"{uuid.uuid4().hex[:12]}."
        self._batches = itertools.count()
        self._held: dict[str, tuple[Keys, bytes]] = {}
        self._lock = threading.Lock()
        self._owed: deque[tuple[Script, Sequence[str], Sequence[Any]]] = deque()
        self._queues: set[Keys] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def lease_ms(self) -> int:
        """The lease in the unit that the scripts take."""
        return int(self.lease_s * 1000)

    def connect(self) -> None:
        """Connect the thread that asks, before it has anything to acknowledge."""
        self._runner.open()

    def load(self) -> None:
        """Teach the server the script that the event loop runs by its hash alone."""
        script("fetch").load(self._client)

    def watch(self, keys: Keys) -> None:
        """Sweep this queue, and start the thread if it is not running."""
        with self._lock:
            self._queues = self._queues | {keys}
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._keep, name="ifinu-leases", daemon=True)
                self._thread.start()

    def next_prefix(self) -> str:
        """A prefix for the tags of one batch, never used before by any process."""
        return f"{self._id}{next(self._batches):08x}."  # they sort in the order of their use

    def hold(self, tag: str, keys: Keys, raw: bytes) -> None:
        """This process holds the message `tag` of the queue `keys`, whose bytes are `raw`."""
        with self._lock:
            self._held[tag] = keys, raw

    def holds(self, tag: str) -> bool:
        """Whether it still does: False when its lease ran out and another worker may have it."""
        return tag in self._held

    def raw(self, tag: str) -> bytes | None:
        """The bytes of a message it holds, as they were on the list."""
        held = self._held.get(tag)
        return held and held[1]

    def queue(self, tag: str) -> str | None:
        """The queue that a message it holds came from."""
        held = self._held.get(tag)
        return held and held[0].ready

    def count(self) -> int:
        """How many messages this process holds."""
        return len(self._held)

    def owed(self) -> int:
        """How many ends of messages Redis could not be told yet."""
        return len(self._owed)

    def ack(self, tag: str, event: Event | None = None) -> None:
        """
        The message is done with. Never raises: what Redis cannot be told now it is told later.

        Args:
            tag: The message.
            event: What there is to tell of it.
        """
        if (keys := self._let_go(tag)) is not None:
            stream: tuple[str, ...] = () if event is None else (EVENTS,)
            told: tuple[str, ...] = () if event is None else event.arguments()
            self._tell(script("ack"), (keys.in_flight, keys.deadlines, *stream), (tag, *told))

    def settle(
        self, tag: str, outcome: Settled, *, queue: str, ttl_s: float, then: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """
        The message came to its end: it is done with, and its id's claim says so. Never raises, like `ack`.

        That it was sent is recorded even where the lease was lost meanwhile: who has the message now must not send it
        again. Any other end counts only from who has it.

        Args:
            tag: The message.
            outcome: How it ended.
            queue: It came from.
            ttl_s: How long its id is remembered, in seconds.
            then: Ids and bytes of the messages that are served next, in this order, once it was sent. They are pushed
                in the same step, and only by the first call that says so.
        """
        self._let_go(tag)
        keys = Keys.of(queue)
        name, notification_id, data = outcome.event.arguments()
        senders: tuple[str, ...] = ()
        written_to: tuple[Any, ...] = ("", "", "")
        if outcome.sender is not None:
            key, pseudonym, tenant = outcome.sender
            senders, written_to = (key,), (pseudonym, tenant, _SENDERS_TTL_MS)
        self._tell(
            script("settle"),
            (keys.in_flight, keys.deadlines, claim_key(notification_id), UNKNOWN, EVENTS, keys.ready, *senders),
            (
                *(tag, outcome.state, outcome.key_id, int(ttl_s * 1000), notification_id, name, data),
                *written_to,
                *itertools.chain.from_iterable(then),
            ),
        )

    def bury(self, tag: str, record: bytes | str, event: Event, *, state: ClaimState, token: str = "") -> None:
        """
        The message goes to its queue's dead letters as `record`. Never raises, like `ack`.

        Args:
            tag: The message.
            record: See `dead_letters.py`.
            event: Says so, and names the id whose claim ends with it, if the message had one and holds its claim.
            state: What that claim ends in: `dead`, or `unknown` when it may have been sent.
            token: What the message carries if it is a retry or a look-up.
        """
        if (keys := self._let_go(tag)) is not None:
            reason = event.data.get("reason", "")
            with self._lock:  # threads of the pool bury too
                self.tally.buried[event.data.get("kind") or "", state, reason] += 1
            name, notification_id, data = event.arguments()
            claim = (claim_key(notification_id),) if notification_id else ()
            self._tell(
                script("bury"),
                (keys.in_flight, keys.deadlines, keys.dead, EVENTS, UNKNOWN, *claim),
                (tag, record, state, notification_id, name, data, token),
            )

    def give_back(self, tags: Iterable[str], *, suspect: bool = False) -> None:
        """
        The messages go back to their queues, to be served next, in this order. Never raises, like `ack`.

        Args:
            tags: The messages.
            suspect: Their process died, maybe of them.
        """
        by_queue: dict[Keys, list[str]] = {}
        for tag in tags:
            if (keys := self._let_go(tag)) is not None:
                by_queue.setdefault(keys, []).append(tag)
        for keys, mine in by_queue.items():
            suspects = (keys.suspects,) if suspect else ()
            for some in reversed(list(_batches(mine, 500))):  # the last one given back is served first
                self._tell(script("give_back"), (keys.ready, keys.in_flight, keys.deadlines, *suspects), some)

    def delay(self, tag: str, until: datetime) -> bool:
        """
        The message waits in Redis until its time, as it is; False when that has come, by Redis' clock.

        Raises:
            redis.RedisError: Redis does not say; the message is held still.
        """
        keys = self._held[tag][0]
        until_ms = int(until.timestamp() * 1000)
        waits = script("delay")(self._client, (keys.in_flight, keys.deadlines, keys.delayed), (tag, until_ms))
        if waits:
            self._let_go(tag)
        return bool(waits)

    def deaths(self, keys: Keys, suspect: str) -> int:
        """
        How many workers died while they handed a message over or ran it, since it is suspect.

        Args:
            keys: Its queue's.
            suspect: Its digest, as `fetch.lua` gave it.

        Raises:
            redis.RedisError: As the server answers, or because it does not.
        """
        return sum(int(count or 0) for count in self._client.hmget(keys.suspects, suspect, f"{suspect}:handed"))

    def hands_over(self, keys: Keys, suspect: str) -> int:
        """
        Count that a message goes to its consumer which a worker may have died of.

        Args:
            keys: Its queue's.
            suspect: Its digest, as `fetch.lua` gave it.

        Returns:
            How often that was done, this time included, since a worker survived it.

        Raises:
            redis.RedisError: As the server answers, or because it does not.
        """
        return int(self._client.hincrby(keys.suspects, f"{suspect}:handed", 1))

    def handed_over(self, keys: Keys, suspect: str) -> None:
        """
        This worker survived it: from here on the message's task counts (`Claims.starts`).

        Args:
            keys: As for `hands_over`.
            suspect: Likewise.

        Raises:
            redis.RedisError: As the server answers, or because it does not.
        """
        self._client.hdel(keys.suspects, f"{suspect}:handed")

    def give_back_all(self, *, suspect: bool = False) -> None:
        """Everything this process still holds goes back to the queues; `suspect` as for `give_back`."""
        with self._lock:
            tags = list(self._held)
        self.give_back(tags, suspect=suspect)

    def close(self) -> None:
        """Pay what is owed if Redis answers, and stop the thread. What stays owed comes back when its lease ends."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * self.lease_s)
            self._thread = None
        try:
            self._pay()
        except redis.RedisError as exc:
            log.warning("ifinu.leases.unpaid", count=len(self._owed), error=type(exc).__name__)
        self._runner.close()
        self._client.close()

    def _let_go(self, tag: str) -> Keys | None:
        with self._lock:
            held = self._held.pop(tag, None)
        return held and held[0]

    def _tell(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> None:
        if not self._owed:
            try:
                self._runner.run(script, keys, args)
            except redis.RedisError:
                pass
            else:
                return
        self._owed.append((script, keys, args))

    def _pay(self) -> None:
        """Each debt once. One that Redis will not take stays owed, and holds up neither the others nor the leases."""
        refused = ""
        for _ in range(len(self._owed)):
            script, keys, args = self._owed[0]
            try:
                script(self._client, keys, args)
            except redis.ResponseError as exc:
                refused = f"{script.name}: {exc}"
                self._owed.rotate(-1)
            else:
                self._owed.popleft()
        if refused:
            log.error("ifinu.leases.refused", owed=len(self._owed), error=refused)

    def _keep(self) -> None:
        """
        The thread: pay, renew, sweep.

        A sweep takes messages from workers whose leases ran out. After Redis was away every lease may have run out
        while all workers live, so nobody sweeps before it has been in touch for a whole lease: by then who lives has
        renewed.
        """
        tick_s = min(1.0, self.lease_s / 5)
        in_touch_since = last_tick = time.monotonic()
        renew_at = 0.0
        away = False
        while not self._stopping:
            started = time.monotonic()
            if started - last_tick > self.lease_s / 2:  # this process was stopped, and so were its renewals
                in_touch_since = started
            last_tick = started
            try:
                self._pay()
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
            except Exception:  # whatever it is: a worker whose renewals end loses what it is sending
                log.exception("ifinu.leases.failed")
            else:
                if away:
                    log.info("ifinu.leases.redis_back", owed=len(self._owed))
                    away = False
                if time.monotonic() - started > self.lease_s / 3:  # it answered, but as late as if it had been away
                    in_touch_since = time.monotonic()
            self._wake.wait(tick_s)
            self._wake.clear()

    def _renew(self) -> None:
        with self._lock:
            held = list(self._held.items())
        by_queue: dict[Keys, list[str]] = {}
        for tag, (keys, _) in held:
            by_queue.setdefault(keys, []).append(tag)
        lost = 0
        for keys, tags in by_queue.items():
            for some in _batches(tags, 1000):
                for tag in script("renew")(self._client, (keys.deadlines,), (self.lease_ms, *some)):
                    # An ack may have passed this renewal; then the tag is let go of already.
                    lost += self._let_go(tag.decode()) is not None
        if lost:
            self.tally.lost += lost
            log.warning("ifinu.leases.lost", count=lost)

    def _sweep(self) -> None:
        for keys in self._queues:
            reaped, _moved = script("sweep")(
                self._client, (keys.ready, keys.delayed, keys.in_flight, keys.deadlines, keys.suspects), (_SWEEP_MOST,)
            )
            if reaped:
                self.tally.reaped += reaped
                log.warning("ifinu.leases.reaped", count=reaped, queue=keys.ready)


def _batches(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


_of_server: dict[tuple[Any, ...], Leases] = {}
_registry_lock = threading.Lock()


def of_server(server: tuple[Any, ...], connect: Callable[[], redis.Redis], lease_s: float) -> Leases:
    """
    The leases of this process at a server; one object for all its channels.

    Args:
        server: What tells the server apart: host, port, database.
        connect: As for `Leases`.
        lease_s: As for `Leases`.
    """
    key = (os.getpid(), *server)  # a forked child shares neither sockets nor threads with its parent
    with _registry_lock:
        if key not in _of_server:
            _of_server[key] = Leases(connect, lease_s)
        return _of_server[key]


def release(leases: Leases) -> None:
    """Forget the leases after they were closed, so that the next consumer of this process starts afresh."""
    with _registry_lock:
        for key, value in list(_of_server.items()):
            if value is leases:
                del _of_server[key]
