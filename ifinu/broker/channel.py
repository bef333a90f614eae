"""
The Kombu channel: how messages are taken, acknowledged, delayed and buried.

It differs from Kombu's Redis channel ("stock") in four ways:

* `fetch.lua` takes messages, a batch at a time, and records them as in flight in the same step; stock pops a message
  and records it in a second command, and a crash between the two loses it (kombu #305).
* The process holds a message, with a lease (see `leases.py`); stock ties it to the channel and restores it after an
  hour.
* A message with a future `eta` waits in a sorted set in Redis, and joins the queue when it is due; stock hands it to a
  worker, which holds it in memory.
* A message that Celery cannot run goes to the dead letters (see `intake.py`); stock drops it, or the worker crashes.

Queues consumed without acknowledgement (replies to `inspect`) and fanout (control, events) stay with stock.

Waiting: one connection alternates between two commands. `fetch.lua` answers at once; when it finds no message, a
`BLMOVE q q RIGHT RIGHT` follows. It moves the last element onto itself: it wakes when there is one, and takes nothing.
Nothing ends it when a send of this process frees a number, and Redis ends it up to 0.1 s late. So a worker that sends
by numbers waits for a turn that is near without it, and fetches at once when one of its sends has freed a number.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from queue import Empty
from time import monotonic
from typing import Any, ClassVar, NamedTuple

import redis
import structlog
from kombu.asynchronous import Hub
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import dumps

from ifinu.broker import clock, dead_letters, intake, leases
from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.headers import NUMBER, QUEUE, SUSPECT, TAG, WAIT
from ifinu.broker.keys import QUEUES, Keys, script
from ifinu.broker.purge import purge

log = structlog.get_logger(__name__)

_FETCH, _WAIT = "EVALSHA", "BLMOVE"
_IDLE_S = 1.0  # longest wait, and so the longest delay of a due message at an idle worker
_NEAR_S = 0.025  # a wait for which nothing is sent: as long as a fetch lets one wait whose number's send may end soon
_ASIDE_S = 1.0  # wait of a suspect message while another one may kill the worker
_IDLE_SHARED_S = 0.25  # as _IDLE_S, while more queues than the one waited on are consumed
_UNLIMITED_BATCH = 100
_MOST_CONNECTIONS = 2_000
_LOOKS = 300  # the most messages that wait for their number that one fetch moves into lanes
_RELOAD = -2  # what a fetch answers if this process' directory of numbers is not Redis'
_MOST = 500  # Lua's unpack takes a few thousand arguments at most


class _Taken(NamedTuple):
    """
    A fetched message.

    Attributes:
        suspect: Its digest if a worker may have died because of it, else empty.
        number: The number whose pace it keeps, or empty.
    """

    tag: str
    keys: Keys
    raw: bytes
    suspect: str
    number: str


class QoS(virtual.QoS):
    """Counts how many messages the channel may still take; `leases.Leases` holds the messages."""

    restore_at_shutdown = False

    def can_consume(self) -> bool:
        """Whether to fetch: not for a single free place, so that a round trip to Redis brings a batch."""
        room = self.room()
        return room is None or room >= max(1, min(16, self.prefetch_count * 2 // 5))

    def room(self) -> int | None:
        """How many messages the channel may still take; None without a limit."""
        if not self.prefetch_count:
            return None
        return max(0, int(self.prefetch_count) - (len(self._delivered) - len(self._dirty)))

    def is_idle(self) -> bool:
        """Whether all messages that the channel took have ended."""
        return len(self._delivered) == len(self._dirty)

    def ack(self, delivery_tag: str) -> None:
        if self.channel.leases.holds(delivery_tag):  # else it is settled
            self.channel.leases.ack(delivery_tag)
        self.let_go(delivery_tag)

    def let_go(self, delivery_tag: str) -> None:
        """Free the place of a message. Any thread may call this; the tag is dropped at the next `append`."""
        if delivery_tag in self._delivered:
            self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Return a message to its queue, or move it to the dead letters."""
        if requeue:
            self.channel.leases.give_back((delivery_tag,))
            self.let_go(delivery_tag)
        else:
            self.channel.bury(delivery_tag, reason="rejected", error="rejected by its consumer")

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """On close, return unacknowledged messages, unless the consumer does that itself."""
        self._on_collect.cancel()
        self._flush()
        # A channel that took nothing, as that of remote control, may have neither leases nor a connection.
        if self._delivered and not self.channel.leases.managed:
            self.channel.leases.give_back(list(self._delivered))
        self._delivered.clear()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the sweep in `leases.py` restores messages."""


class Message(virtual.Message):
    """A message that was admitted, and so is decoded; or a message of stock's, as remote control sends and gets."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        if not isinstance(payload, intake.Admitted):
            super().__init__(payload, channel, **kwargs)
            return
        headers = payload.headers
        # Not virtual.Message's, which decodes a body.
        super(virtual.Message, self).__init__(
            channel=channel,
            delivery_tag=headers[TAG],
            headers=headers,
            properties={"reply_to": payload.reply_to, "correlation_id": headers["id"], "priority": 0},
            delivery_info={"exchange": "", "routing_key": headers[QUEUE]},
        )
        self._decoded_cache = payload.args, payload.kwargs, intake.EMBED


class Channel(stock.Channel):
    """
    The channel described above, with the transport options `lease_s`, `max_message_bytes`, `wait_on` and
    `default_instance`.
    """

    QoS = QoS
    Message = Message

    lease_s: float = 15.0
    max_message_bytes: int = 262_144
    #: The queue to wait on while all are empty: its messages are taken at once, those of others within 0.25 s.
    wait_on: str | None = None
    #: The instance of messages that name none, and whose tenant has no number.
    default_instance: str = ""
    #: Loads the directory of numbers, and returns its generation. Without it, nothing is fetched while Redis has one.
    reload_directory: ClassVar[staticmethod[[], str] | None] = None

    from_transport_options = (
        *stock.Channel.from_transport_options,
        "lease_s",
        "max_message_bytes",
        "wait_on",
        "default_instance",
    )

    hub: Hub | None = None  # that drives it, if one does
    _alarm: Any = None  # the hub's timer that ends a wait without a command
    _command: str | None = None  # the command sent last
    _fetching: tuple[Keys, ...] = ()  # the queues of the fetch under way, in its order
    _wait_s = 0.0  # how long the next command waits; 0: the next command is a fetch
    _some_paused = False
    _reloaded = False  # whether the last fetch asked for another directory
    _loading: Future[str] | None = None  # the directory, while a thread loads it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._leased: dict[str, Keys] = {}
        self._leases: leases.Leases | None = None
        super().__init__(*args, **kwargs)

    @property
    def leases(self) -> leases.Leases:
        """The leases of this process at this server."""
        if self._leases is None:
            params = self._connparams()
            server = tuple(params.get(name) for name in ("host", "port", "path", "db"))
            # Kombu's limit of ten connections is meant for one channel; a worker has several.
            params["max_connections"] = _MOST_CONNECTIONS
            self._leases = leases.of_server(
                server, lambda: redis.Redis(connection_pool=redis.ConnectionPool(**params)), self.lease_s
            )
        return self._leases

    def bury(
        self,
        tag: str,
        *,
        reason: str,
        error: str,
        attempts: int = 0,
        first_at: datetime | None = None,
        event_fields: Mapping[str, Any] | None = None,
        maybe_sent: bool = False,
    ) -> None:
        """
        Move a message to the dead letters, if this process still holds it.

        Args:
            tag: The message's delivery tag.
            reason: See `dead_letters.py`.
            error: One line, phones masked.
            attempts: Number of sends tried.
            first_at: Time of the first try.
            event_fields: More data for the event. An `id` among them names the notification whose claim ends.
            maybe_sent: Whether it may have been sent after all.
        """
        raw = self.leases.raw(tag)
        if raw is not None:
            record = dead_letters.encode(
                raw,
                reason=reason,
                error=error,
                attempts=attempts,
                first_at=first_at,
                now=self.leases.clock.now(),
            )
            data = {
                "queue": self.leases.queue(tag),
                **(event_fields or {}),
                "reason": reason,
                "error": error,
                "attempts": attempts,
            }
            notification_id = data.pop("id", None) or dead_letters.identity(raw)[0] or ""
            name, state = (Name.HELD, ClaimState.UNKNOWN) if maybe_sent else (Name.DEAD, ClaimState.DEAD)
            token = intake.token_of(raw)
            self.leases.bury(tag, record, Event(name, notification_id, data), state=state, token=token)
            log_fields = {"id": notification_id, "kind": data.get("kind")}
            if maybe_sent:
                log.error("ifinu.message.held", **log_fields, reason=reason, error=error, attempt=attempts)
            else:
                log.warning("ifinu.message.dead", **log_fields, reason=reason, error=error, attempt=attempts)
        self.qos.let_go(tag)

    def _purge(self, queue: str) -> int:
        """Serve `celery purge` as `ifinu queue purge` does; stock only deletes the list, and leaves the claims."""
        if queue not in QUEUES:
            return int(super()._purge(queue))
        with self.conn_or_acquire() as client:
            return purge(client, Keys.of(queue), delayed=False).deleted

    # -- consuming

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume a queue; with acknowledgement, hold its messages by lease."""
        if not no_ack and queue not in self._fanout_queues:
            keys = self._leased[queue] = Keys.of(queue)
            self.leases.load()
            self.leases.watch(keys)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message; None when there is none."""
        while True:
            answer = script("fetch")(self.client, Keys.of(queue), self._fetch_arguments(1))
            if answer[0] == _RELOAD and not self._reloaded:
                self._take_directory(self.reload_directory)
                continue
            self._reloaded = False
            taken = self._hold(answer, [Keys.of(queue)])
            if not taken:
                return None
            self.leases.watch(Keys.of(queue))
            admitted = self._admit(taken[0])
            if admitted is None:
                continue
            message = self.Message(admitted, channel=self)
            self.qos.append(message, message.delivery_tag)
            if no_ack:
                self.qos.ack(message.delivery_tag)
            return message

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        answer = super()._basic_cancel(consumer_tag)
        self._leased.pop(queue or "", None)
        if not self._leased:
            self._return_fetched()
        return answer

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send the next command; its answer wakes the event loop, which calls `_brpop_read`."""
        if not self._leased:
            super()._brpop_start(timeout)
            return
        if self.leases.freed and self._loading is None:
            self._end_wait()
        if self._alarm is not None:
            return
        if self._loading is not None:
            loading, self._loading = self._loading, None
            self._take_directory(loading.result)
        connection = self.client.connection
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        if self._wait_s > 0:
            self._command = _WAIT
            connection.send_command(*self._wait_command())
            return
        self._command, self.leases.freed = _FETCH, False
        self._fetching = tuple(sorted(self._leased.values(), key=_priority))
        room = self.qos.room()
        want = min(_MOST, _UNLIMITED_BATCH if room is None else max(1, room))
        keys = [key for queue in self._fetching for key in queue]
        fetch = script("fetch")
        connection.send_command(_FETCH, fetch.sha, len(keys), *keys, *self._fetch_arguments(want))

    def _waits_without_command(self) -> bool:
        """Whether the next wait is such a one."""
        near = 0 < self._wait_s <= _NEAR_S
        return near and self.hub is not None and bool(self.leases.generation) and not self.qos.is_idle()

    def _arm(self, wait_s: float) -> None:
        """
        Send nothing for some time. Call it while an answer is read: a hub that is about to wait does not look at its
        timers again.
        """
        if self.hub is not None:
            self._alarm = self.hub.call_later(wait_s, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        if self._loading is None:
            self._wait_s = 0.0
        elif not self._loading.done():
            self._arm(_NEAR_S)

    def _end_wait(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._wait_s = None, 0.0

    def _fetch_arguments(self, want: int) -> tuple[Any, ...]:
        leases = self.leases
        arguments = want, leases.lease_ms, leases.next_prefix()
        if not leases.generation:
            return arguments
        return (*arguments, leases.generation, repr(random.random()), _LOOKS, self.default_instance)

    def _reload(self) -> None:
        """Load the directory of numbers: ten thousand take a quarter of a second, in which the event loop goes on."""
        if self.hub is None or self.reload_directory is None:
            self._take_directory(self.reload_directory)
            return
        thread = ThreadPoolExecutor(1, "ifinu-directory")
        self._loading = thread.submit(self.reload_directory)
        thread.shutdown(wait=False)
        self._arm(_NEAR_S)

    def _take_directory(self, load: Callable[[], str] | None) -> None:
        """
        Take the directory of numbers. Only the first of several attempts in a row is followed by a fetch at once: the
        registry may be away, or change again and again.
        """
        again, self._reloaded = self._reloaded, True
        self._wait_s = _IDLE_S if again else 0.0
        if load is None:
            self._wait_s = _IDLE_S
            return
        try:
            self.leases.generation = load()
        except (redis.RedisError, OSError):
            raise
        except Exception:
            log.exception("ifinu.numbers.not_loaded")
            self._wait_s = _IDLE_S

    def _wait_command(self) -> tuple[Any, ...]:
        queue = self.wait_on if self.wait_on in self._leased else next(iter(self._leased))
        if self._some_paused or self._reloaded:
            # A list from which nothing is taken would wake it at once, again and again: wait on one that stays empty.
            return "BLPOP", f"{queue}:pausada:espera", self._wait_s
        return _WAIT, queue, queue, "RIGHT", "RIGHT", self._wait_s

    def _brpop_read(self, **options: Any) -> bool:
        if self._command is None:
            return bool(super()._brpop_read(**options))
        try:
            answer = self._answer()
        finally:
            self._in_poll = None
        if self._command == _WAIT:
            self._wait_s = 0.0
            raise Empty
        if answer[0] == _RELOAD:
            self._reload()
            raise Empty
        self._reloaded = False
        taken = self._hold(answer, self._fetching)
        self._some_paused = bool(answer[1])
        self._wait_s = 0.0 if taken else self._idle_s(answer[0])
        if not taken:
            if self._waits_without_command():
                self._arm(self._wait_s)
            raise Empty
        self._deliver(taken)
        return True

    def _answer(self) -> Any:
        connection = self.client.connection
        try:
            return self.client.parse_response(connection, self._command)
        except redis.exceptions.NoScriptError:
            self.leases.load()  # the server restarted, or its scripts were flushed
            raise Empty from None
        except self.connection_errors:
            connection.disconnect()
            raise

    def _idle_s(self, next_due_ms: int) -> float:
        idle = _IDLE_S if len(self._leased) == 1 else _IDLE_SHARED_S
        return idle if next_due_ms < 0 else min(idle, max(0.01, next_due_ms / 1000))

    def _hold(self, answer: list[Any], queues: Sequence[Keys]) -> list[_Taken]:
        taken = []
        for index, tag, raw, mark in zip(answer[2::4], answer[3::4], answer[4::4], answer[5::4], strict=True):
            suspect, _, number = mark.decode().partition(" ")
            one = _Taken(tag.decode(), queues[index], raw, suspect, number)
            self.leases.hold(one.tag, one.keys, raw, one.number)
            taken.append(one)
        return taken

    def _admit(self, taken: _Taken) -> intake.Admitted | None:
        """The message for its consumer; None if it became a dead letter, or waits for its `eta`."""
        try:
            admitted = intake.admit(taken.raw, queue=taken.keys.ready, tag=taken.tag, max_bytes=self.max_message_bytes)
        except intake.Unreadable as exc:
            self.bury(taken.tag, reason=exc.reason, error=str(exc))
            return None
        headers = admitted.headers
        eta, headers["eta"] = headers["eta"], None
        if eta is not None and self.leases.delay(taken.tag, datetime.fromisoformat(eta)):
            return None
        if taken.suspect:
            headers[SUSPECT] = taken.suspect
        if taken.number:
            headers[NUMBER] = taken.number
        return admitted

    def _deliver(self, taken: list[_Taken]) -> None:
        left = [one.tag for one in taken]
        try:
            for one in taken:
                self._deliver_one(one)
                left.remove(one.tag)
        except BaseException:
            # The connection is lost, or the worker ends. The message being delivered may be the cause: it is suspect.
            self.leases.give_back(left[1:])
            self.leases.give_back(left[:1], suspect=True)
            raise

    def _deliver_one(self, one: _Taken) -> None:
        """Hand a message to its consumer. An error ends the message, not the worker."""
        try:
            if one.suspect:
                self._hand_over_suspect(one)
            else:
                self._hand_over(one)
        except (redis.RedisError, OSError):
            raise
        except Exception as exc:
            log.exception("ifinu.message.undeliverable")
            self.bury(one.tag, reason="undeliverable", error=type(exc).__name__)

    def _hand_over(self, one: _Taken) -> None:
        if (admitted := self._admit(one)) is not None:
            self.connection._deliver(admitted, one.keys.ready)

    def _hand_over_suspect(self, one: _Taken) -> None:
        """
        Hand over a message that may have killed a worker. If one did die with it, the message waits while another
        suspect runs here, so that a death can be blamed on one of them.
        """
        exclusive = self.leases.deaths(one.keys, one.suspect) > 0
        if exclusive and not leases.one_suspect.acquire(blocking=False):
            if not self.leases.delay(one.tag, self.leases.clock.now() + timedelta(seconds=_ASIDE_S)):
                self.leases.give_back((one.tag,))
            return
        try:
            if self.leases.hands_over(one.keys, one.suspect) >= leases.DEATHS:
                self.bury(one.tag, reason="poison", error=f"{leases.DEATHS} workers died of it in a row")
            else:
                self._hand_over(one)
            self.leases.handed_over(one.keys, one.suspect)
        finally:
            if exclusive:
                leases.one_suspect.release()

    def _return_fetched(self) -> None:
        """Return the messages that the command under way may bring: its answer will not be read elsewhere."""
        if not self._in_poll or self._command is None:
            return
        connection, self._in_poll = self._in_poll, None
        with contextlib.suppress(redis.RedisError, OSError, Empty):
            if self._command == _FETCH:  # answers at once
                answer = self.client.parse_response(connection, _FETCH)
                self.leases.give_back([one.tag for one in self._hold(answer, self._fetching)])
        if self._command == _WAIT:
            connection.disconnect()
        self._command, self._wait_s = None, 0.0

    def close(self) -> None:
        """Return what the command under way may bring, and close."""
        self._closing = True
        self._return_fetched()
        super().close()

    # -- publishing

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        # A copy: if the connection breaks, Kombu publishes the message that it gave once more.
        message = {**message, "headers": dict(message.get("headers") or {})}
        headers = message["headers"]
        eta, wait_ms = _take_eta(headers), headers.pop(WAIT, None)
        due_ms = None if eta is None and wait_ms is None else self._due_ms(eta, wait_ms)
        if due_ms is None:
            super()._put(queue, message, **kwargs)
            return
        entry = {dumps(intake.stamped(message)): due_ms}
        batch = kwargs.pop("_publish_batch", None)
        if batch is not None:
            batch.add("zadd", Keys.of(queue).delayed, entry)
            return
        with self.conn_or_acquire() as client:
            client.zadd(Keys.of(queue).delayed, entry)

    def _due_ms(self, eta: datetime | None, wait_ms: int | None) -> int | None:
        """The due time in ms by Redis' clock; None when it has come."""
        with self.conn_or_acquire() as client:
            now = clock.now(client)
        due = now + timedelta(milliseconds=wait_ms) if wait_ms is not None else eta
        return None if due is None or due <= now else int(due.timestamp() * 1000)

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        self.leases.give_back((message.delivery_tag,))


def _priority(keys: Keys) -> int:
    """The rank of a queue in the order of service; foreign queues come last."""
    return QUEUES.index(keys.ready) if keys.ready in QUEUES else len(QUEUES)


def _take_eta(headers: dict[str, Any]) -> datetime | None:
    """Remove a message's `eta` from its headers, so that no worker waits for it again, and return it."""
    eta = headers.get("eta")
    if not isinstance(eta, str):
        return None
    headers["eta"] = None
    due = datetime.fromisoformat(eta)
    return due if due.tzinfo is not None else due.replace(tzinfo=UTC)
